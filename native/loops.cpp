// PHLOEM_LEVEL is the namespace of this SIMD level; the build compiles this file once for each.
#include "loops.hpp"

#include "common.hpp"

#include <cmath>
#include <cstring>

namespace phloem::PHLOEM_LEVEL {

namespace {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

uint32_t extent(const float* x, size_t n) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(x[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

void energy(const float* x, const float* y, size_t n, double* lanes) {
  double sums[16];
  std::memcpy(sums, lanes, sizeof sums);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (size_t l = 0; l < 16; ++l) {
      const double value = y ? double(x[i + l]) - double(y[i + l]) : double(x[i + l]);
      sums[l] += value * value;
    }
  }
  for (; i < n; ++i) {
    const double value = y ? double(x[i]) - double(y[i]) : double(x[i]);
    sums[i % 16] += value * value;
  }
  std::memcpy(lanes, sums, sizeof sums);
}

inline int32_t coarse_one(float x, float inverse) {
  const float scaled = std::fabs(x) * inverse + kScaleOffset;
  return static_cast<int32_t>(scaled < 16777215.0f ? scaled : 16777215.0f);
}

uint64_t coarse(const float* x, size_t n, float inverse, uint32_t* column_sums) {
  uint64_t total = 0;
  for (size_t start = 0; start < n; start += 128) {  // 128 magnitudes below 2^24 fit an unsigned int
    const size_t end = start + 128 < n ? start + 128 : n;
    uint32_t sum = 0;
    if (column_sums) {
      for (size_t i = start; i < end; ++i) {
        const uint32_t magnitude = static_cast<uint32_t>(coarse_one(x[i], inverse));
        column_sums[i] += magnitude;
        sum += magnitude;
      }
    } else {
      for (size_t i = start; i < end; ++i) sum += static_cast<uint32_t>(coarse_one(x[i], inverse));
    }
    total += sum;
  }
  return total;
}

Quantised quantise(const float* x, size_t n, float inverse, float threshold, float offset, float most,
                   int32_t* magnitudes) {
  int32_t largest = 0, ones = 0, twos = 0, one_sum = 0, two_sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const float scaled = std::fabs(x[i]) * inverse;
    const float shifted = scaled + offset;
    int32_t magnitude = static_cast<int32_t>(shifted < most ? shifted : most);
    magnitude = magnitude > 1 ? magnitude : 1;
    magnitude = scaled < threshold ? 0 : magnitude;
    magnitudes[i] = magnitude;
    largest = magnitude > largest ? magnitude : largest;
    const float kept = scaled < 4.0f ? scaled : 4.0f;
    const int32_t fine = static_cast<int32_t>(kept * 1024.0f);
    const int32_t is_one = -static_cast<int32_t>(magnitude == 1);  // masks, so that the loop has no branches
    const int32_t is_two = -static_cast<int32_t>(magnitude == 2);
    ones -= is_one;
    twos -= is_two;
    one_sum += is_one & fine;
    two_sum += is_two & fine;
  }
  return {largest, {ones, twos}, {one_sum, two_sum}};
}

template <bool kUniform>
size_t scan_columns(const float* x, const float* thresholds, size_t n, float inverse, uint32_t* hits) {
  size_t found = 0;
  const float uniform = thresholds[0];
  size_t start = 0;
  for (; start + 64 <= n; start += 64) {
    alignas(64) uint8_t flags[64];
    int32_t any = 0;
    for (size_t i = 0; i < 64; ++i) {
      const float threshold = kUniform ? uniform : thresholds[start + i];
      any |= std::fabs(x[start + i]) * inverse >= threshold ? 1 : 0;
    }
    if (!any) continue;
    for (size_t i = 0; i < 64; ++i) {
      const float threshold = kUniform ? uniform : thresholds[start + i];
      flags[i] = std::fabs(x[start + i]) * inverse >= threshold ? 1 : 0;
    }
    for (size_t eight = 0; eight < 64; eight += 8) {
      uint64_t word;
      std::memcpy(&word, flags + eight, 8);
      while (word) {
        hits[found++] = static_cast<uint32_t>(start + eight + static_cast<size_t>(__builtin_ctzll(word)) / 8);
        word &= word - 1;
      }
    }
  }
  for (; start < n; ++start) {
    const float threshold = kUniform ? uniform : thresholds[start];
    if (std::fabs(x[start]) * inverse >= threshold) hits[found++] = static_cast<uint32_t>(start);
  }
  return found;
}

size_t scan(const float* x, const float* thresholds, size_t stride, size_t n, float inverse, uint32_t* hits) {
  return stride ? scan_columns<false>(x, thresholds, n, inverse, hits)
                : scan_columns<true>(x, thresholds, n, inverse, hits);
}

#include "hadamard.hpp"

}  // namespace

const Loops kLoops = {extent, energy, coarse, quantise, scan, hadamard, flip};

}  // namespace phloem::PHLOEM_LEVEL
