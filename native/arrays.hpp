// NumPy arrays as the kernels see them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <vector>

#include "common.hpp"

namespace phloem {

namespace nb = nanobind;

using Input = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
template <class T>
using Table = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class Array>
Shape shape_of(const Array& array) {
  if (array.ndim() < 2) return {1, static_cast<int64_t>(array.size())};
  int64_t columns = 1;
  for (size_t d = 1; d < array.ndim(); ++d) columns *= static_cast<int64_t>(array.shape(d));
  if (columns > kPartLargest) return {1, static_cast<int64_t>(array.size())};
  return {static_cast<int64_t>(array.shape(0)), columns};
}

template <class T>
std::vector<T> copy(const Table<T>& table) {
  return std::vector<T>(table.data(), table.data() + table.size());
}

// Each part of the module adds its functions; `module.cpp` calls them all.
void bind_ecsq(nb::module_& m);
void bind_planes(nb::module_& m);
void bind_adaptive(nb::module_& m);
void bind_trellis(nb::module_& m);
void bind_hadamard(nb::module_& m);
void bind_matrices(nb::module_& m);

}  // namespace phloem
