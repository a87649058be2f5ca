// PHLOEM_LEVEL is the namespace of this SIMD level; the build compiles this file once for each.
#include "loops.hpp"

#include <cmath>
#include <cstring>

#include "lanes.hpp"
#include "simd.hpp"

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

uint32_t extent_of_sum(const float* x, const float* y, float* sum, size_t n) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    const float value = x[i] + y[i];
    const uint32_t bits = bits_of(value) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
    if (sum) sum[i] = value;
  }
  return largest;
}

template <bool kOrdered>
Quantised quantise_in_order(const float* __restrict x, const int32_t* __restrict order, size_t n, const Rounding& by,
                            int32_t* __restrict magnitudes, uint8_t* __restrict small, uint8_t* __restrict negative) {
  int32_t largest = 0, ones = 0, twos = 0, one_sum = 0, two_sum = 0;
  const float inverse = by.inverse, threshold = by.threshold, offset = by.offset, most = by.most;
  for (size_t i = 0; i < n; ++i) {
    const float value = kOrdered ? x[order[i]] : x[i];
    const float scaled = std::fabs(value) * inverse;
    const float shifted = scaled + offset;
    int32_t magnitude = static_cast<int32_t>(shifted < most ? shifted : most);
    magnitude = magnitude > 1 ? magnitude : 1;
    magnitude = scaled < threshold ? 0 : magnitude;
    magnitudes[i] = magnitude;
    small[i] = static_cast<uint8_t>(magnitude < 255 ? magnitude : 255);
    negative[i] = static_cast<uint8_t>(bits_of(value) >> 31);
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

Quantised quantise(const float* x, const uint32_t* order, size_t n, const Rounding& by, int32_t* magnitudes,
                   uint8_t* small, uint8_t* negative) {
  // places in a row are below 2^22: as signed numbers they index with 32 bits
  const auto* places = reinterpret_cast<const int32_t*>(order);
  return order ? quantise_in_order<true>(x, places, n, by, magnitudes, small, negative)
               : quantise_in_order<false>(x, places, n, by, magnitudes, small, negative);
}

void tokenise(const int32_t* __restrict magnitudes, size_t n, int low, int widest, uint8_t* __restrict tokens,
              uint64_t* __restrict fields, uint8_t* __restrict widths) {
  int32_t rests[kChunk], sizes[kChunk];
  for (size_t i = 0; i < n; ++i) {
    const int32_t m = magnitudes[i] >> low;
    const int32_t t8 = m >= 8, t9 = m >= 10, t10 = m >= 12, t11 = m >= 16, t12 = m >= 24, t13 = m >= 32, t14 = m >= 64,
                  t15 = m >= kEscapeFrom;
    tokens[i] = static_cast<uint8_t>((m < 7 ? m : 7) + t8 + t9 + t10 + t11 + t12 + t13 + t14 + t15);
    // kTokenBase and kTokenBits, step by step
    const int32_t base = (m < 8 ? m : 8) + 2 * t9 + 2 * t10 + 4 * t11 + 8 * t12 + 8 * t13 + 32 * t14 - 64 * t15;
    sizes[i] = t8 + t10 + t11 + 2 * t13 + 3 * t14 + 16 * t15 + low;
    rests[i] = magnitudes[i] - (base << low);
  }
  if (4 * widest > 56) {
    for (size_t i = 0; i < n; ++i) {
      fields[i] = static_cast<uint32_t>(rests[i]);
      widths[i] = static_cast<uint8_t>(sizes[i]);
    }
    return;
  }
  for (size_t i = n; i % 4; ++i) rests[i] = sizes[i] = 0;
  uint32_t pairs[kChunk / 2], pair_sizes[kChunk / 2];
  for (size_t i = 0; 2 * i < n; ++i) {
    pairs[i] = static_cast<uint32_t>(rests[2 * i]) | static_cast<uint32_t>(rests[2 * i + 1]) << sizes[2 * i];
    pair_sizes[i] = static_cast<uint32_t>(sizes[2 * i] + sizes[2 * i + 1]);
  }
  if (n % 4 == 1 || n % 4 == 2) pairs[n / 4 * 2 + 1] = pair_sizes[n / 4 * 2 + 1] = 0;
  for (size_t i = 0; 4 * i < n; ++i) {
    fields[i] = pairs[2 * i] | uint64_t{pairs[2 * i + 1]} << pair_sizes[2 * i];
    widths[i] = static_cast<uint8_t>(pair_sizes[2 * i] + pair_sizes[2 * i + 1]);
  }
}

// As many bytes as a register holds: GCC takes wider vectors apart byte by byte.
#if defined(__AVX512BW__)
constexpr size_t kRegister = 64;
#elif defined(__AVX2__)
constexpr size_t kRegister = 32;
#else
constexpr size_t kRegister = 16;
#endif
typedef uint8_t Bytes __attribute__((vector_size(kRegister)));

void histogram(const uint8_t* tokens, size_t n, int64_t* counts) {
  constexpr size_t kBlock = 128 * kRegister;  // sums of bytes stay below 256
  const size_t whole = n / kRegister * kRegister;
  for (size_t start = 0; start < whole; start += kBlock) {
    const size_t stop = start + kBlock < whole ? start + kBlock : whole;
    size_t left = stop - start;
    for (int t = 0; t < kTokens && left; ++t) {
      Bytes sums = {};
      const Bytes wanted = Bytes{} + static_cast<uint8_t>(t);
      for (size_t i = start; i < stop; i += kRegister) {
        Bytes bytes;
        std::memcpy(&bytes, tokens + i, sizeof bytes);
        sums -= reinterpret_cast<Bytes>(bytes == wanted);
      }
      uint8_t each[kRegister];
      std::memcpy(each, &sums, sizeof each);
      uint32_t count = 0;
      for (const uint8_t sum : each) count += sum;
      counts[t] += count;
      left -= count;
    }
  }
  for (size_t i = whole; i < n; ++i) ++counts[tokens[i]];
}

void pack_flags(const uint8_t* small, const uint8_t* flags, size_t n, uint64_t* words, uint8_t* widths) {
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const uint64_t mask = non_zero(small + i);
    *words++ = pack_bits(non_zero(flags + i), mask);
    *widths++ = static_cast<uint8_t>(__builtin_popcountll(mask));
  }
  if (i == n) return;
  uint8_t rest[2][64] = {};
  std::memcpy(rest[0], small + i, n - i);
  std::memcpy(rest[1], flags + i, n - i);
  const uint64_t mask = non_zero(rest[0]);
  *words = pack_bits(non_zero(rest[1]), mask);
  *widths = static_cast<uint8_t>(__builtin_popcountll(mask));
}

template <bool kUniform>
uint64_t reaching(const float* x, const float* thresholds, float inverse) {
#if defined(__AVX512F__)
  uint64_t mask = 0;
  const __m512 scale = _mm512_set1_ps(inverse);
  for (int i = 0; i < 4; ++i) {
    const __m512 scaled = _mm512_mul_ps(_mm512_abs_ps(_mm512_loadu_ps(x + 16 * i)), scale);
    const __m512 limit = kUniform ? _mm512_set1_ps(thresholds[0]) : _mm512_loadu_ps(thresholds + 16 * i);
    mask |= uint64_t{_mm512_cmp_ps_mask(scaled, limit, _CMP_GE_OQ)} << (16 * i);
  }
  return mask;
#elif defined(__AVX2__)
  uint64_t mask = 0;
  const __m256 scale = _mm256_set1_ps(inverse), sign = _mm256_set1_ps(-0.0f);
  for (int i = 0; i < 8; ++i) {
    const __m256 scaled = _mm256_mul_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + 8 * i)), scale);
    const __m256 limit = kUniform ? _mm256_set1_ps(thresholds[0]) : _mm256_loadu_ps(thresholds + 8 * i);
    const int found = _mm256_movemask_ps(_mm256_cmp_ps(scaled, limit, _CMP_GE_OQ));
    mask |= uint64_t{static_cast<uint32_t>(found)} << (8 * i);
  }
  return mask;
#else
  int32_t any = 0;
  for (size_t i = 0; i < 64; ++i) any |= std::fabs(x[i]) * inverse >= thresholds[kUniform ? 0 : i] ? 1 : 0;
  if (!any) return 0;
  uint8_t flags[64];
  for (size_t i = 0; i < 64; ++i) flags[i] = std::fabs(x[i]) * inverse >= thresholds[kUniform ? 0 : i] ? 1 : 0;
  return non_zero(flags);
#endif
}

template <bool kUniform>
size_t scan_columns(const float* x, const float* thresholds, size_t n, float inverse, uint32_t* hits) {
  size_t found = 0, start = 0;
  for (; start + 64 <= n; start += 64) {
    for (uint64_t mask = reaching<kUniform>(x + start, thresholds + (kUniform ? 0 : start), inverse); mask;
         mask &= mask - 1) {
      hits[found++] = static_cast<uint32_t>(start + static_cast<size_t>(__builtin_ctzll(mask)));
    }
  }
  for (; start < n; ++start) {
    if (std::fabs(x[start]) * inverse >= thresholds[kUniform ? 0 : start]) hits[found++] = static_cast<uint32_t>(start);
  }
  return found;
}

size_t scan(const float* x, const float* thresholds, size_t stride, size_t n, float inverse, uint32_t* hits) {
  return stride ? scan_columns<false>(x, thresholds, n, inverse, hits)
                : scan_columns<true>(x, thresholds, n, inverse, hits);
}

template <bool kUniform>
void subtract_columns(float* x, size_t n, const ColumnRounding& columns, float inverse, float most, float step) {
  const float *thresholds = columns.thresholds, *offsets = columns.offsets, *ones = columns.ones, *twos = columns.twos;
  for (size_t i = 0; i < n; ++i) {
    const size_t c = kUniform ? 0 : i;
    const float scaled = std::fabs(x[i]) * inverse;
    const float shifted = scaled + offsets[c];
    int32_t magnitude = static_cast<int32_t>(shifted < most ? shifted : most);
    magnitude = magnitude > 1 ? magnitude : 1;
    float value = static_cast<float>(magnitude) * step;
    value = magnitude == 1 ? ones[c] : value;
    value = magnitude == 2 ? twos[c] : value;
    value = std::copysign(value, x[i]);
    x[i] -= scaled < thresholds[c] ? 0.0f : value;  // x minus a positive zero is x
  }
}

void subtract_quantised(float* x, size_t n, const ColumnRounding& columns, float inverse, float most, float step) {
  if (columns.stride) {
    subtract_columns<false>(x, n, columns, inverse, most, step);
  } else {
    subtract_columns<true>(x, n, columns, inverse, most, step);
  }
}

// The values of 64 tokens, negative where `signs` has ones.
inline void values_of(const uint8_t* tokens, const float* eight, uint64_t signs, float* out) {
#if defined(__AVX512F__)
  const __m512 table = _mm512_castps256_ps512(_mm256_loadu_ps(eight));
  const __m512i seven = _mm512_set1_epi32(7), sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  for (int i = 0; i < 4; ++i) {
    const __m512i token = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tokens + 16 * i)));
    const __m512i bits = _mm512_castps_si512(_mm512_permutexvar_ps(_mm512_and_si512(token, seven), table));
    const auto negative = static_cast<__mmask16>(signs >> (16 * i));
    _mm512_storeu_si512(out + 16 * i, _mm512_mask_or_epi32(bits, negative, bits, sign));
  }
#elif defined(__AVX2__)
  const __m256 table = _mm256_loadu_ps(eight), sign = _mm256_set1_ps(-0.0f);
  const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int i = 0; i < 8; ++i) {
    const __m256i token = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(tokens + 8 * i)));
    const __m256 value = _mm256_permutevar8x32_ps(table, token);  // takes the token modulo eight
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(signs >> (8 * i) & 255)), lanes);
    const __m256 negative = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lanes));
    _mm256_storeu_ps(out + 8 * i, _mm256_or_ps(value, _mm256_and_ps(negative, sign)));
  }
#else
  for (int i = 0; i < 64; ++i) {
    uint32_t bits = bits_of(eight[tokens[i] & 7]);
    bits |= static_cast<uint32_t>(signs >> i & 1) << 31;
    std::memcpy(out + i, &bits, 4);
  }
#endif
}

uint64_t values(const uint8_t* tokens, size_t n, const float* eight, const uint8_t* bits, uint64_t at, float* out) {
  const uint64_t first = at;
  uint8_t rest[64] = {};
  float last[64];
  for (size_t i = 0; i < n; i += 64) {
    const bool whole = i + 64 <= n;
    if (!whole) std::memcpy(rest, tokens + i, n - i);
    const uint8_t* here = whole ? tokens + i : rest;
    const uint64_t mask = non_zero(here);
    const int shift = static_cast<int>(at & 7);
    uint64_t word = load64(bits + (at >> 3)) >> shift;
    if (shift) word |= load64(bits + (at >> 3) + 8) << (64 - shift);
    at += static_cast<uint64_t>(__builtin_popcountll(mask));
    values_of(here, eight, spread_bits(word, mask), whole ? out + i : last);
    if (!whole) std::memcpy(out + i, last, (n - i) * sizeof(float));
  }
  return at - first;
}

void clear_negative_zeros(float* x, size_t n) {
  for (size_t start = 0; start < n; start += kChunk) {
    const size_t stop = start + kChunk < n ? start + kChunk : n;
    int32_t any = 0;
    for (size_t i = start; i < stop; ++i) any |= bits_of(x[i]) == 0x80000000u ? 1 : 0;
    if (!any) continue;
    for (size_t i = start; i < stop; ++i) x[i] = bits_of(x[i]) == 0x80000000u ? 0.0f : x[i];
  }
}

#include "matrices.hpp"

#include "hadamard.hpp"

}  // namespace

const Loops kLoops = {extent,     extent_of_sum,      energy, coarse,
                      quantise,   tokenise,           histogram, pack_flags, scan,
                      subtract_quantised, values, clear_negative_zeros, rans_encode, rans_decode,
                      hadamard,   flip,               add_products, orthonormal,
                      scale_rows_and_columns, squares_of_rows_and_columns};

}  // namespace phloem::PHLOEM_LEVEL
