// The loops over all coefficients and all tokens, compiled once per SIMD level from the same sources (loops.cpp,
// lanes.cpp).
//
// Every loop is elementwise IEEE float32, integer arithmetic, or names its order of summation, so all levels give the
// same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common.hpp"

namespace phloem {

// The most coefficients that one call may be given.
constexpr size_t kChunk = 4096;

// How a class rounds: zero below `threshold` steps, else floor(|x| / step + offset), from 1 to `most`.
struct Rounding {
  float inverse, threshold, offset, most;
};

// What `quantise` found in a chunk: the largest magnitude, and for magnitudes one and two how many there are and
// the sum of |x| / step in 1024ths.
struct Quantised {
  int32_t largest;
  int32_t counts[2];
  int32_t sums[2];
};

// Per column of a row: how its class rounds, and what magnitudes one and two stand for.
struct ColumnRounding {
  const float *thresholds, *offsets, *ones, *twos;
  size_t stride;  // 1, or 0 where all columns are alike
};

// What the encoder needs of each token of a table, see lanes.cpp.
struct Divisors {
  alignas(64) uint32_t limits[kTokens], starts[kTokens], complements[kTokens], reciprocals[kTokens], shifts[kTokens];
};

struct Loops {
  // The largest bit pattern of a magnitude; from 0x7f800000 on it is an infinity or a NaN.
  uint32_t (*extent)(const float* x, size_t n);
  // The same of x + y; where `sum` is given it gets the sums, and may be x or y.
  uint32_t (*extent_of_sum)(const float* x, const float* y, float* sum, size_t n);
  // Adds squares (of differences, where `y` is given) to sixteen sums, element i to sum i % 16.
  void (*energy)(const float* x, const float* y, size_t n, double* lanes);
  // Coarse magnitudes: their sum, and each added to its column's sum where those are wanted.
  uint64_t (*coarse)(const float* x, size_t n, float inverse, uint32_t* column_sums);
  // Quantised magnitudes of x[order[0]], x[order[1]] ... (of x itself where there is no order), the same up to 255,
  // and whether the values are negative (0 or 1).
  Quantised (*quantise)(const float* x, const uint32_t* order, size_t n, const Rounding& by, int32_t* magnitudes,
                        uint8_t* small, uint8_t* negative);
  // The tokens of magnitudes with `low` low bits. For every four of them, their low and extra bits one after another,
  // and how many; where `widest` bits are the most of one magnitude and four times as many exceed 56, for every one.
  void (*tokenise)(const int32_t* magnitudes, size_t n, int low, int widest, uint8_t* tokens, uint64_t* fields,
                   uint8_t* widths);
  // Adds how often each token occurs.
  void (*histogram)(const uint8_t* tokens, size_t n, int64_t* counts);
  // Packs the flags (0 or 1) of the elements that are not zero: 64 bits of elements per call of pext; writes words
  // of at most 64 bits and their widths for every 64 elements.
  void (*pack_flags)(const uint8_t* small, const uint8_t* flags, size_t n, uint64_t* words, uint8_t* widths);
  // Where |x| / step reaches the threshold of its column, or of all columns (stride 0).
  size_t (*scan)(const float* x, const float* thresholds, size_t stride, size_t n, float inverse, uint32_t* hits);
  // x minus what is decoded for it.
  void (*subtract_quantised)(float* x, size_t n, const ColumnRounding& columns, float inverse, float most, float step);
  // Values of tokens below eight (of the token modulo eight for others), with signs from `bits` (of which one is
  // used per token that is not zero, from bit `at`); returns how many were used. `bits` has 16 bytes to spare.
  uint64_t (*values)(const uint8_t* tokens, size_t n, const float* eight, const uint8_t* bits, uint64_t at, float* out);
  // Zeros that are negative become positive.
  void (*clear_negative_zeros)(float* x, size_t n);
  // Encodes tokens from the last to the first, token i in lane i % 32; words go before `word`, which has 32 places
  // to spare in front. Returns where the words begin.
  uint16_t* (*rans_encode)(const uint8_t* tokens, size_t n, const Divisors& by, uint32_t* states, uint16_t* word);
  // Decodes n tokens with a table of 4,096 slots (frequency, offset << 12, token << 24); returns where the words end,
  // or null where there are too few.
  const uint8_t* (*rans_decode)(const uint32_t* slots, uint8_t* tokens, size_t n, uint32_t* states,
                                const uint8_t* word, const uint8_t* end);
  // The Walsh-Hadamard transform of one block, times `scale`; and signs turned over by a stream of random bits.
  void (*hadamard)(float* x, size_t size, float scale);
  void (*flip)(float* x, size_t n, uint64_t seed);
  // Adds left (rows x rank) times right (rank x columns) to `total`, one rank after another: for each value one product
  // and one sum, each rounded to float32.
  void (*add_products)(const float* left, const float* right, size_t rows, size_t rank, size_t columns, float* total);
  // Makes rows orthonormal one after another, in place.
  void (*orthonormal)(double* rows, size_t count, size_t size);
  // Multiplies every value by its row's and its column's number; sums squares of whole numbers of units.
  void (*scale_rows_and_columns)(float* x, size_t rows, size_t columns, const float* by_row, const float* by_column);
  void (*squares_of_rows_and_columns)(const float* x, size_t rows, size_t columns, double unit, int64_t* by_row,
                                      int64_t* by_column);
};

namespace portable { extern const Loops kLoops; }
#if defined(PHLOEM_X86_LEVELS)
namespace avx2 { extern const Loops kLoops; }
namespace avx512 { extern const Loops kLoops; }
#endif

}  // namespace phloem
