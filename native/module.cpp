// The Python module `phloem.kernels._native`.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.hpp"
#include "levels.hpp"

using namespace phloem;

NB_MODULE(_native, m) {
  m.doc() = "The native kernels; use them through phloem.kernels.";
  nb::exception<FormatError>(m, "FormatError", PyExc_ValueError);
  m.def("simd_levels", [] {
    std::vector<std::string> names;
    for (const Level& level : levels()) names.emplace_back(level.name);
    return names;
  });
  m.def("set_simd", [](const std::string& name) {
    if (!use_level(name)) throw nb::value_error("this processor does not have that SIMD level");
  });
  bind_ecsq(m);
  bind_planes(m);
  bind_adaptive(m);
  bind_trellis(m);
  bind_hadamard(m);
  bind_matrices(m);
}
