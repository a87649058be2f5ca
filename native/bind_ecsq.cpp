// The `ecsq` kernels for Python: takes arrays apart, lets go of the interpreter, calls the kernels.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>

#include "arrays.hpp"
#include "codec.hpp"
#include "levels.hpp"

namespace phloem {

namespace {

std::vector<Tensor> tensors_of(const std::vector<Input>& arrays) {
  std::vector<Tensor> tensors;
  for (const Input& array : arrays) tensors.push_back({array.data(), shape_of(array)});
  return tensors;
}

Step step_of(uint32_t significand, int exponent, int64_t magnitude_highest, double value) {
  const auto narrow = static_cast<float>(value);
  return {significand, exponent, narrow, 1.0f / narrow, magnitude_highest};
}

nb::bytes py_encode(const std::vector<Input>& arrays, uint32_t significand, int exponent, int64_t highest,
                    double value) {
  const auto tensors = tensors_of(arrays);
  std::string body;
  {
    nb::gil_scoped_release release;
    body = encode(tensors, step_of(significand, exponent, highest, value), loops());
  }
  return nb::bytes(body.data(), body.size());
}

void py_decode(const nb::bytes& body, const std::vector<Result>& arrays, uint32_t significand, int exponent,
               int64_t highest, double value) {
  std::vector<Output> outputs;
  for (const Result& array : arrays) outputs.push_back({array.data(), shape_of(array)});
  const std::span<const uint8_t> data(static_cast<const uint8_t*>(body.data()), body.size());
  nb::gil_scoped_release release;
  decode(data, step_of(significand, exponent, highest, value), outputs);
}

std::pair<double, int64_t> py_extent(const std::vector<Input>& arrays) {
  const auto tensors = tensors_of(arrays);
  nb::gil_scoped_release release;
  uint32_t largest = 0;
  int64_t broken = -1;
  for (size_t i = 0; i < tensors.size() && broken < 0; ++i) {
    const uint32_t bits = loops().extent(tensors[i].data, static_cast<size_t>(tensors[i].shape.size()));
    if (bits >= 0x7f800000u) {
      broken = static_cast<int64_t>(i);
    } else {
      largest = std::max(largest, bits);
    }
  }
  float value;
  std::memcpy(&value, &largest, 4);
  return {value, broken};
}

double py_energy(const std::vector<Input>& arrays, const std::vector<Input>& others) {
  if (!others.empty() && others.size() != arrays.size()) throw nb::value_error("expected as many arrays to subtract");
  const auto tensors = tensors_of(arrays), subtracted = tensors_of(others);
  for (size_t i = 0; i < subtracted.size(); ++i) {
    if (subtracted[i].shape.size() != tensors[i].shape.size()) throw nb::value_error("expected arrays of equal size");
  }
  nb::gil_scoped_release release;
  double total = 0.0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    double lanes[16] = {};
    const float* other = subtracted.empty() ? nullptr : subtracted[i].data;
    loops().energy(tensors[i].data, other, static_cast<size_t>(tensors[i].shape.size()), lanes);
    for (double lane : lanes) total += lane;
  }
  return total;
}

}  // namespace

void bind_ecsq(nb::module_& m) {
  m.def("load_tables",
        [](Table<double> half_octaves, Table<double> octaves, Table<int64_t> logs, Table<int64_t> ladder_costs,
           Table<int64_t> class_costs, Table<uint64_t> class_means, Table<float> class_thresholds,
           Table<float> class_offsets, Table<uint32_t> ladder) {
          if (logs.size() != 4096 || ladder_costs.size() != kLadder || ladder.size() != kLadder ||
              half_octaves.size() != 199 || octaves.size() != 99 || class_costs.size() != kClasses ||
              class_means.size() != kClasses || class_thresholds.size() != kClasses ||
              class_offsets.size() != kClasses) {
            throw nb::value_error("the tables do not have the sizes that this module was built for");
          }
          tables() = {copy(half_octaves), copy(octaves),          copy(logs),          copy(ladder_costs),
                      copy(class_costs),  copy(class_means),      copy(class_thresholds),
                      copy(class_offsets), copy(ladder)};
        });
  m.def("extent", py_extent);
  m.def("energy", py_energy);
  m.def("encode", py_encode);
  m.def("decode", py_decode);
}

}  // namespace phloem
