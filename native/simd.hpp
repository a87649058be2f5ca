// Sets of bits from bytes, at the SIMD level that the including file is compiled for. Everything is in the level's own
// namespace: an inline function shared by levels could be taken from the highest.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace phloem::PHLOEM_LEVEL {

namespace {

constexpr uint64_t kBytes = 0x0101010101010101u;

inline uint64_t load64(const uint8_t* at) {
  uint64_t word;
  std::memcpy(&word, at, 8);
  return word;
}

// Which of 64 bytes are not zero.
inline uint64_t non_zero(const uint8_t* bytes) {
#if defined(__AVX512BW__)
  const __m512i v = _mm512_loadu_si512(bytes);
  return _mm512_test_epi8_mask(v, v);
#elif defined(__AVX2__)
  const __m256i zero = _mm256_setzero_si256();
  const auto low = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)), zero);
  const auto high = _mm256_cmpeq_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32)), zero);
  return ~(uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(low))} |
           uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(high))} << 32);
#else
  uint64_t mask = 0;
  for (int eight = 0; eight < 8; ++eight) {
    const uint64_t word = load64(bytes + 8 * eight);
    const uint64_t flags = ((((word & 0x7f * kBytes) + 0x7f * kBytes) | word) >> 7) & kBytes;
    mask |= ((flags * 0x0102040810204080u) >> 56) << (8 * eight);
  }
  return mask;
#endif
}

// The bits of `word` where `mask` has ones, moved together.
inline uint64_t pack_bits(uint64_t word, uint64_t mask) {
#if defined(__BMI2__)
  return _pext_u64(word, mask);
#else
  uint64_t packed = 0;
  for (int at = 0; mask; ++at, mask &= mask - 1) packed |= ((word >> __builtin_ctzll(mask)) & 1) << at;
  return packed;
#endif
}

// The low bits of `word`, moved apart to where `mask` has ones.
inline uint64_t spread_bits(uint64_t word, uint64_t mask) {
#if defined(__BMI2__)
  return _pdep_u64(word, mask);
#else
  uint64_t apart = 0;
  for (; mask; word >>= 1, mask &= mask - 1) apart |= (word & 1) << __builtin_ctzll(mask);
  return apart;
#endif
}

}  // namespace

}  // namespace phloem::PHLOEM_LEVEL
