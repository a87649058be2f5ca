// The loops over all coefficients, compiled once per SIMD level from the same source (loops.cpp).
//
// Every loop is elementwise IEEE float32 or an integer sum, or names its order of summation, so all levels give the
// same bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace phloem {

// The most coefficients that one call may be given.
constexpr size_t kChunk = 4096;

// What `quantise` found in a chunk: the largest magnitude, and for magnitudes one and two how many there are and
// the sum of |x| / step in 1024ths.
struct Quantised {
  int32_t largest;
  int32_t counts[2];
  int32_t sums[2];
};

struct Loops {
  // The largest bit pattern of a magnitude; from 0x7f800000 on it is an infinity or a NaN.
  uint32_t (*extent)(const float* x, size_t n);
  // Adds squares (of differences, where `y` is given) to sixteen sums, element i to sum i % 16.
  void (*energy)(const float* x, const float* y, size_t n, double* lanes);
  // Coarse magnitudes: their sum, and each added to its column's sum where those are wanted.
  uint64_t (*coarse)(const float* x, size_t n, float inverse, uint32_t* column_sums);
  // Quantised magnitudes of one class.
  Quantised (*quantise)(const float* x, size_t n, float inverse, float threshold, float offset, float most,
                        int32_t* magnitudes);
  // Where |x| / step reaches the threshold of its column, or of all columns (stride 0).
  size_t (*scan)(const float* x, const float* thresholds, size_t stride, size_t n, float inverse, uint32_t* hits);
  // The Walsh-Hadamard transform of one block, times `scale`; and signs turned over by a stream of random bits.
  void (*hadamard)(float* x, size_t size, float scale);
  void (*flip)(float* x, size_t n, uint64_t seed);
};

namespace portable { extern const Loops kLoops; }
#if defined(PHLOEM_X86_LEVELS)
namespace avx2 { extern const Loops kLoops; }
namespace avx512 { extern const Loops kLoops; }
#endif

}  // namespace phloem
