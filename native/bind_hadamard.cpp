// The Hadamard kernels and the product of thin matrices for Python: checks the sizes, lets go of the interpreter,
// calls the loops of this processor.
#include "arrays.hpp"
#include "levels.hpp"

namespace phloem {

namespace {

using DoubleRows = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

}  // namespace

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
  m.def("add_products", [](const Input& left, const Input& right, const Result& total) {
    if (left.ndim() != 2 || right.ndim() != 2 || total.ndim() != 2 || left.shape(1) != right.shape(0) ||
        left.shape(0) != total.shape(0) || right.shape(1) != total.shape(1)) {
      throw nb::value_error("expected matrices that can be multiplied");
    }
    const size_t rows = left.shape(0), rank = left.shape(1), columns = right.shape(1);
    nb::gil_scoped_release release;
    loops().add_products(left.data(), right.data(), rows, rank, columns, total.data());
  }, nb::arg("left"), nb::arg("right"), nb::arg("total").noconvert());
  m.def("orthonormal", [](const DoubleRows& rows) {
    const size_t count = rows.shape(0), size = rows.shape(1);
    double* data = rows.data();
    nb::gil_scoped_release release;
    loops().orthonormal(data, count, size);
  }, nb::arg("rows").noconvert());
  m.def("flip", [](const Result& vector, uint64_t seed) {
    float* data = vector.data();
    const size_t n = vector.size();
    nb::gil_scoped_release release;
    loops().flip(data, n, seed);
  });
}

}  // namespace phloem
