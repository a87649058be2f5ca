// The trellis quantiser for Python.
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "arrays.hpp"
#include "levels.hpp"
#include "trellis.hpp"

namespace phloem {

namespace {

using Indices = nb::ndarray<int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstIndices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using States = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Values = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check(int states) {
  if (states != 4 && states != 8) throw nb::value_error("expected four or eight states");
}

void py_quantise(const std::vector<Input>& arrays, const std::vector<Indices>& indices, int states, int weight,
                 int64_t magnitude_highest, double value) {
  check(states);
  if (weight < 0 || weight > 1024) throw nb::value_error("expected a weight up to 1024");
  if (arrays.size() != indices.size()) throw nb::value_error("expected as many outputs as arrays");
  std::vector<Tensor> tensors;
  std::vector<int32_t*> outputs;
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (indices[i].size() != arrays[i].size()) throw nb::value_error("expected an index for every coefficient");
    tensors.push_back({arrays[i].data(), shape_of(arrays[i])});
    outputs.push_back(indices[i].data());
  }
  const auto narrow = static_cast<float>(value);
  const GridStep step{1.0f / narrow, magnitude_highest};
  nb::gil_scoped_release release;
  trellis_quantise(tensors, step, states, weight, trellis_loops(), outputs);
}

void py_states(const ConstIndices& indices, const States& found, int states) {
  check(states);
  if (found.size() != indices.size()) throw nb::value_error("expected a state for every index");
  nb::gil_scoped_release release;
  TrellisState state(states);
  for (size_t i = 0; i < indices.size(); ++i) {
    found.data()[i] = static_cast<uint8_t>(state.state());
    state.advance(indices.data()[i]);
  }
}

// The farthest position; the values are written only as float32 can hold them.
int64_t py_reconstruct(const ConstIndices& indices, const Values& values, int states, double value) {
  check(states);
  if (values.size() != indices.size()) throw nb::value_error("expected a value for every index");
  nb::gil_scoped_release release;
  const auto step = static_cast<float>(value);
  TrellisState state(states);
  int64_t farthest = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    const int32_t index = indices.data()[i];
    const int64_t position = trellis_position(index, state.odd_grid());
    farthest = std::max(farthest, position < 0 ? -position : position);
    values.data()[i] = static_cast<float>(position) * step;
    state.advance(index);
  }
  return farthest;
}

}  // namespace

void bind_trellis(nb::module_& m) {
  m.def("trellis_quantise", py_quantise);
  m.def("trellis_states", py_states);
  m.def("trellis_reconstruct", py_reconstruct);
}

}  // namespace phloem
