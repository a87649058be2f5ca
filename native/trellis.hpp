// Dependent quantisation: indices on two interleaved grids, chosen by a trellis (specification:
// phloem/kernels/trellis.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "codec.hpp"
#include "common.hpp"

namespace phloem {

constexpr int kTrellisRates = 64;      // indices that have a rate of their own
constexpr size_t kTrellisBlock = 1024;  // coefficients whose branches are worked out together

// The next state by state and parity of the index; the upper half of the states is on the odd grid.
constexpr uint8_t kTrellis4[4][2] = {{0, 2}, {2, 0}, {1, 3}, {3, 1}};
constexpr uint8_t kTrellis8[8][2] = {{0, 1}, {4, 5}, {1, 0}, {5, 4}, {6, 7}, {3, 2}, {2, 3}, {7, 6}};

// The state in which each index of one tensor is coded.
class TrellisState {
 public:
  explicit TrellisState(int states) : next_(states == 8 ? kTrellis8 : kTrellis4), half_(states / 2) {}
  int state() const { return state_; }
  bool odd_grid() const { return state_ >= half_; }
  void advance(int32_t index) { state_ = next_[state_][index & 1]; }

 private:
  const uint8_t (*next_)[2];
  int half_;
  int state_ = 0;
};

// The grid step's inverse in float32, and the largest position.
struct GridStep {
  float inverse;
  int64_t magnitude_highest;
};

// The position of an index, in grid steps.
inline int64_t trellis_position(int32_t index, bool odd_grid) {
  return 2 * int64_t{index} - (odd_grid ? (index > 0) - (index < 0) : 0);
}

// The inner loops, compiled once per SIMD level (trellis_loops.cpp); all levels give the same bits.
struct TrellisLoops {
  // Magnitudes on the even grid, or of indices: their sum, and each added to its column's sum where wanted.
  uint64_t (*coarse)(const float* x, size_t n, float inverse, uint32_t* column_sums);
  uint64_t (*magnitudes)(const int32_t* indices, size_t n, uint32_t* column_sums);
  // The least cost of each of the four kinds of position, and bit r of `upper` where kind r takes the upper one.
  void (*branches)(const float* x, size_t n, float inverse, int32_t highest, const int32_t* costs,
                   const uint8_t* classes, int32_t* branches, uint8_t* upper);
  // One step per coefficient: bit s of a decision says that the best path to state s has an odd index.
  void (*search4)(const int32_t* branches, size_t n, int32_t* metrics, uint8_t* decisions);
  void (*search8)(const int32_t* branches, size_t n, int32_t* metrics, uint8_t* decisions);
};

namespace portable { extern const TrellisLoops kTrellisLoops; }
#if defined(PHLOEM_X86_LEVELS)
namespace avx2 { extern const TrellisLoops kTrellisLoops; }
namespace avx512 { extern const TrellisLoops kTrellisLoops; }
#endif

// Chooses the indices of all tensors; `states` is 4 or 8, `weight` what a bit may cost, in 256ths of a squared grid
// step and at most 1024, and `indices` has room for every tensor.
void trellis_quantise(const std::vector<Tensor>& tensors, const GridStep& step, int states, int weight,
                      const TrellisLoops& loops, std::span<int32_t* const> indices);

}  // namespace phloem
