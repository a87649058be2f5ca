// What the side information of a body says, for those that decode it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "codec.hpp"
#include "models.hpp"
#include "rangecoder.hpp"
#include "scales.hpp"
#include "steps.hpp"

namespace phloem {

// One class of all parts.
struct ClassTables {
  int shift = 0;
  bool coded = false;        // it has magnitudes
  TokenTable gaps, tokens;   // `tokens` is empty where a single one is possible
};

// One class of one part.
struct ClassCounts {
  int64_t size = 0, ones = 0, repeats = 0;  // ones and repeats of sparse classes only
};

// The float values of the magnitudes 0 ... 7 of a tensor, for sparse and dense classes.
using SmallValues = std::array<std::array<float, 8>, 2>;

struct Frame {
  // Reads the scales, the classes and the centroids from the coder.
  Frame(RangeDecoder& coder, const Steps& given, const std::vector<Output>& outputs, const std::vector<Part>& parts);
  SmallValues small_values(size_t tensor) const;

  std::vector<Scales> scales;
  TensorSteps steps;
  std::array<ClassTables, kClasses> classes;
  std::vector<std::array<ClassCounts, kClasses>> counts;  // per part
  int centres[2][2] = {{64, 128}, {64, 128}};             // in 64ths of a step
};

}  // namespace phloem
