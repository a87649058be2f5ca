// The adaptive coder of indices, efforts `balanced` and `best` (specification: phloem/kernels/adaptive.py).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common.hpp"

namespace phloem {

constexpr int kStretchMost = 2815;

// Made in Python (phloem/kernels/logistic.py) and handed over once, so that both kernels use the same.
struct LogisticTables {
  std::vector<int16_t> stretch_middle, stretch_tail;  // 4,096 each
  std::vector<uint16_t> squash;                       // 2 * kStretchMost + 1
  std::vector<uint8_t> log16;                         // 64
  std::vector<uint32_t> rates;                        // 256
  std::vector<uint32_t> priors;                       // 48
};
LogisticTables& logistic_tables();

// A tensor, or some rows of one, that is coded in one go.
struct Block {
  int32_t* indices;    // row-major
  const int8_t* held;  // null, or as many
  const float* x;      // null, or the values whose indices the encoder is to choose
  float inverse;       // of the step, where it does
  int64_t rows, columns;
  int64_t highest;     // no index is larger, or no position where there are states
};

struct AdaptiveMode {
  bool mixing;          // best; otherwise balanced
  int states;           // of the dependent quantiser: 0, 4 or 8
};

// The stream of the indices; where a block has values, they are chosen on the way and written.
std::string adaptive_pack(const std::vector<Block>& blocks, const AdaptiveMode& mode);
void adaptive_unpack(std::span<const uint8_t> data, const std::vector<Block>& blocks,
                     const AdaptiveMode& mode);

// What the indices one and two of either grid stand for on average: sums of |x| / unit in 1024ths, and counts.
struct CentreSums {
  std::array<int64_t, 4> sums{}, counts{};  // even 1, even 2, odd 1, odd 2
};

void add_centres(const float* x, const int32_t* indices, int64_t size, float inverse, int states, CentreSums& sums);
// Decoded values: `values` are those of positions 0 ... 5 on the grid, `step` that of a position beyond.
void grid_values(const int32_t* indices, int64_t size, int states, std::span<const float> values, float step, int put,
                 float* out);

}  // namespace phloem
