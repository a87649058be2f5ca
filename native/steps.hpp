// Quantiser steps (specification: phloem/kernels/steps.py).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "codec.hpp"

namespace phloem {

// 2^(0/4) ... 2^(3/4) in 65,536ths.
constexpr uint32_t kQuarters[4] = {65536, 77936, 92682, 110218};
constexpr int kExponentLowest = -124, kExponentHighest = 125;

// The step that is finer by so many quarters of an octave, to the nearest twelve-bit significand.
inline Step finer(const Step& step, int quarters) {
  const int up = -quarters;
  const int rest = up & 3, octaves = (up - rest) / 4;
  uint32_t significand = (step.significand * kQuarters[rest] + 32768) >> 16;
  int exponent = step.exponent + octaves;
  if (significand >= 4096) {
    significand = (significand + 1) >> 1;
    ++exponent;
  }
  if (exponent < kExponentLowest || exponent > kExponentHighest) throw FormatError("A step is out of range.");
  return {significand, exponent};
}

inline double value_of(const Step& step) { return std::ldexp(static_cast<double>(step.significand), step.exponent - 11); }

// The largest integer that a step may be multiplied by.
inline int64_t highest_magnitude(const Step& step) {
  const double most = std::ldexp(2.0 - std::ldexp(1.0, -23), 127) / value_of(step);
  return most < static_cast<double>(kMagnitudeHighest) ? static_cast<int64_t>(most) : kMagnitudeHighest;
}

// The steps of all tensors as numbers.
struct TensorSteps {
  TensorSteps(const Steps& steps, size_t tensors) {
    magnitude_highest = kMagnitudeHighest;
    for (size_t i = 0; i < tensors; ++i) {
      const Step step = steps.weighted ? finer(steps.base, steps.importances[i]) : steps.base;
      values.push_back(value_of(step));
      magnitude_highest = std::min(magnitude_highest, highest_magnitude(step));
    }
  }
  float step(size_t tensor) const { return static_cast<float>(values[tensor]); }
  float inverse(size_t tensor) const { return 1.0f / step(tensor); }
  std::vector<double> values;
  int64_t magnitude_highest;  // for all tensors: that of the largest step
};

}  // namespace phloem
