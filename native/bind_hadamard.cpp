// The Hadamard kernels for Python: checks the sizes, lets go of the interpreter, calls the loops of this processor.
#include "arrays.hpp"
#include "levels.hpp"

namespace phloem {

void bind_hadamard(nb::module_& m) {
  m.def("hadamard", [](const Result& vector, size_t size, float scale) {
    if (size == 0 || (size & (size - 1)) != 0 || vector.size() % size != 0) {
      throw nb::value_error("expected whole blocks of a power of two");
    }
    float* data = vector.data();
    const size_t n = vector.size();
    nb::gil_scoped_release release;
    for (size_t start = 0; start < n; start += size) loops().hadamard(data + start, size, scale);
  });
  m.def("flip", [](const Result& vector, uint64_t seed) {
    float* data = vector.data();
    const size_t n = vector.size();
    nb::gil_scoped_release release;
    loops().flip(data, n, seed);
  });
}

}  // namespace phloem
