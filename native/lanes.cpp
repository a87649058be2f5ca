// Thirty-two interleaved rANS coders (specification: phloem/kernels/rans.py). PHLOEM_LEVEL is the namespace of this
// SIMD level; the build compiles this file once for each.
#include "lanes.hpp"

#include "simd.hpp"

namespace phloem::PHLOEM_LEVEL {

namespace {

constexpr uint32_t kLow = 1u << 15;

inline void encode_one(uint32_t& state, uint32_t token, const Divisors& by, uint16_t*& word) {
  const bool full = state >= by.limits[token];
  word[-1] = static_cast<uint16_t>(state);  // overwritten by the next unless it counts
  word -= full;
  const uint32_t kept = full ? state >> 16 : state;
  const auto quotient = static_cast<uint32_t>((uint64_t{kept} * by.reciprocals[token]) >> by.shifts[token]);
  // quotient * 4096 + remainder + start
  state = kept + by.starts[token] + quotient * by.complements[token];
}

// False where a word is needed and none is left.
inline bool decode_one(const uint32_t* slots, uint32_t& state, uint8_t& token, const uint8_t*& word,
                       const uint8_t* end) {
  const uint32_t slot = slots[state & 4095];
  state = (slot & 4095) * (state >> 12) + ((slot >> 12) & 4095);
  token = static_cast<uint8_t>(slot >> 24);
  if (state < kLow) {
    if (end - word < 2) return false;
    uint16_t next;
    std::memcpy(&next, word, 2);
    state = state << 16 | next;
    word += 2;
  }
  return true;
}

#if defined(__AVX512BW__) && defined(__AVX512VL__)

using Lanes = __m512i;
constexpr int kVectors = 2;

inline Lanes load(const uint32_t* at) { return _mm512_loadu_si512(at); }
inline void store(uint32_t* at, Lanes lanes) { _mm512_storeu_si512(at, lanes); }
inline Lanes pick(const uint32_t* sixteen, Lanes token) { return _mm512_permutexvar_epi32(token, load(sixteen)); }

inline Lanes encode_lanes(Lanes state, const uint8_t* tokens, const Divisors& by, uint16_t*& word) {
  const Lanes token = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tokens)));
  const __mmask16 full = _mm512_cmpge_epu32_mask(state, pick(by.limits, token));
  const __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, state));
  const int count = __builtin_popcount(full);
  word -= count;
  _mm256_mask_storeu_epi16(word, static_cast<__mmask16>((1u << count) - 1), words);
  const Lanes kept = _mm512_mask_srli_epi32(state, full, state, 16);
  const Lanes reciprocal = pick(by.reciprocals, token), shift = pick(by.shifts, token);
  const Lanes low_half = _mm512_set1_epi64(0xffffffff);
  const Lanes even = _mm512_srlv_epi64(_mm512_mul_epu32(kept, reciprocal), _mm512_and_si512(shift, low_half));
  const Lanes odd = _mm512_srlv_epi64(
      _mm512_mul_epu32(_mm512_srli_epi64(kept, 32), _mm512_srli_epi64(reciprocal, 32)), _mm512_srli_epi64(shift, 32));
  const Lanes quotient = _mm512_or_si512(even, _mm512_slli_epi64(odd, 32));
  return _mm512_add_epi32(_mm512_add_epi32(kept, pick(by.starts, token)),
                          _mm512_mullo_epi32(quotient, pick(by.complements, token)));
}

inline Lanes decode_lanes(Lanes state, const uint32_t* slots, uint8_t* tokens, const uint8_t*& word) {
  const Lanes mask = _mm512_set1_epi32(4095);
  const Lanes slot = _mm512_i32gather_epi32(_mm512_and_si512(state, mask), slots, 4);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(tokens), _mm512_cvtepi32_epi8(_mm512_srli_epi32(slot, 24)));
  const Lanes product = _mm512_mullo_epi32(_mm512_and_si512(slot, mask), _mm512_srli_epi32(state, 12));
  const Lanes next = _mm512_add_epi32(product, _mm512_and_si512(_mm512_srli_epi32(slot, 12), mask));
  const __mmask16 hungry = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(kLow));
  const Lanes words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(word)));
  const Lanes filled = _mm512_or_si512(_mm512_slli_epi32(next, 16), _mm512_maskz_expand_epi32(hungry, words));
  word += 2 * __builtin_popcount(hungry);
  return _mm512_mask_mov_epi32(next, hungry, filled);
}

#elif defined(__AVX2__)

using Lanes = __m256i;
constexpr int kVectors = 4;

inline Lanes load(const uint32_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
inline void store(uint32_t* at, Lanes lanes) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), lanes); }
inline Lanes pick(const uint32_t* sixteen, Lanes token) {
  const Lanes low = _mm256_permutevar8x32_epi32(load(sixteen), token);
  const Lanes high = _mm256_permutevar8x32_epi32(load(sixteen + 8), token);
  return _mm256_blendv_epi8(low, high, _mm256_cmpgt_epi32(token, _mm256_set1_epi32(7)));
}

// For each set of eight lanes: their numbers, moved together (to the end, for words that are stored from the end),
// and for lanes that take a word, which one that is.
struct Orders {
  alignas(16) uint8_t together[256][16];
  alignas(32) uint32_t apart[256][8];
};

constexpr Orders make_orders() {
  Orders orders{};
  for (unsigned set = 0; set < 256; ++set) {
    int count = 0;
    for (unsigned lane = 0; lane < 8; ++lane) count += set >> lane & 1;
    unsigned at = 0;
    for (unsigned place = 0; place < 16; ++place) orders.together[set][place] = 0x80;
    for (unsigned lane = 0; lane < 8; ++lane) {
      orders.apart[set][lane] = at;
      if (!(set >> lane & 1)) continue;
      const unsigned place = 8 - static_cast<unsigned>(count) + at++;
      orders.together[set][2 * place] = static_cast<uint8_t>(2 * lane);
      orders.together[set][2 * place + 1] = static_cast<uint8_t>(2 * lane + 1);
    }
  }
  return orders;
}

constexpr Orders kOrders = make_orders();

inline Lanes encode_lanes(Lanes state, const uint8_t* tokens, const Divisors& by, uint16_t*& word) {
  const Lanes token = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(tokens)));
  const Lanes full =  // states and limits are below 2^31
      _mm256_xor_si256(_mm256_cmpgt_epi32(pick(by.limits, token), state), _mm256_set1_epi32(-1));
  const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(full)));
  const Lanes halves = _mm256_and_si256(state, _mm256_set1_epi32(0xffff));
  const __m128i sixteens = _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(kOrders.together[set]));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(word - 8), _mm_shuffle_epi8(sixteens, order));
  word -= __builtin_popcount(set);
  const Lanes kept = _mm256_blendv_epi8(state, _mm256_srli_epi32(state, 16), full);
  const Lanes reciprocal = pick(by.reciprocals, token), shift = pick(by.shifts, token);
  const Lanes low_half = _mm256_set1_epi64x(0xffffffff);
  const Lanes even = _mm256_srlv_epi64(_mm256_mul_epu32(kept, reciprocal), _mm256_and_si256(shift, low_half));
  const Lanes odd = _mm256_srlv_epi64(
      _mm256_mul_epu32(_mm256_srli_epi64(kept, 32), _mm256_srli_epi64(reciprocal, 32)), _mm256_srli_epi64(shift, 32));
  const Lanes quotient = _mm256_or_si256(even, _mm256_slli_epi64(odd, 32));
  return _mm256_add_epi32(_mm256_add_epi32(kept, pick(by.starts, token)),
                          _mm256_mullo_epi32(quotient, pick(by.complements, token)));
}

inline Lanes decode_lanes(Lanes state, const uint32_t* slots, uint8_t* tokens, const uint8_t*& word) {
  const Lanes mask = _mm256_set1_epi32(4095);
  const Lanes slot = _mm256_i32gather_epi32(reinterpret_cast<const int*>(slots), _mm256_and_si256(state, mask), 4);
  const Lanes found = _mm256_srli_epi32(slot, 24);
  const __m128i pairs = _mm_packus_epi32(_mm256_castsi256_si128(found), _mm256_extracti128_si256(found, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(tokens), _mm_packus_epi16(pairs, pairs));
  const Lanes product = _mm256_mullo_epi32(_mm256_and_si256(slot, mask), _mm256_srli_epi32(state, 12));
  const Lanes next = _mm256_add_epi32(product, _mm256_and_si256(_mm256_srli_epi32(slot, 12), mask));
  const Lanes hungry = _mm256_cmpgt_epi32(_mm256_set1_epi32(kLow), next);  // both are below 2^31
  const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(hungry)));
  const Lanes words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(word)));
  const Lanes taken = _mm256_permutevar8x32_epi32(words, load(kOrders.apart[set]));
  word += 2 * __builtin_popcount(set);
  return _mm256_blendv_epi8(next, _mm256_or_si256(_mm256_slli_epi32(next, 16), taken), hungry);
}

#endif

}  // namespace

uint16_t* rans_encode(const uint8_t* tokens, size_t n, const Divisors& by, uint32_t* states, uint16_t* word) {
  size_t i = n;
  while (i % kLanes) {
    --i;
    encode_one(states[i % kLanes], tokens[i], by, word);
  }
#if defined(__AVX2__)
  constexpr int kWidth = kLanes / kVectors;
  Lanes lanes[kVectors];
  for (int v = 0; v < kVectors; ++v) lanes[v] = load(states + v * kWidth);
  while (i) {
    i -= kLanes;
    for (int v = kVectors - 1; v >= 0; --v) lanes[v] = encode_lanes(lanes[v], tokens + i + v * kWidth, by, word);
  }
  for (int v = 0; v < kVectors; ++v) store(states + v * kWidth, lanes[v]);
#else
  while (i) {
    i -= kLanes;
    for (int lane = kLanes - 1; lane >= 0; --lane) encode_one(states[lane], tokens[i + lane], by, word);
  }
#endif
  return word;
}

const uint8_t* rans_decode(const uint32_t* slots, uint8_t* tokens, size_t n, uint32_t* states, const uint8_t* word,
                           const uint8_t* end) {
  size_t i = 0;
#if defined(__AVX2__)
  constexpr int kWidth = kLanes / kVectors;
  Lanes lanes[kVectors];
  for (int v = 0; v < kVectors; ++v) lanes[v] = load(states + v * kWidth);
  // thirty-two tokens take at most as many words; a vector is read ahead
  for (; i + kLanes <= n && end - word >= 4 * kLanes; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) lanes[v] = decode_lanes(lanes[v], slots, tokens + i + v * kWidth, word);
  }
  for (int v = 0; v < kVectors; ++v) store(states + v * kWidth, lanes[v]);
#else
  for (; i + kLanes <= n && end - word >= 4 * kLanes; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint32_t slot = slots[states[lane] & 4095];
      const uint32_t next = (slot & 4095) * (states[lane] >> 12) + ((slot >> 12) & 4095);
      const bool hungry = next < kLow;
      uint16_t more;
      std::memcpy(&more, word, 2);
      states[lane] = hungry ? next << 16 | more : next;
      word += hungry ? 2 : 0;
      tokens[i + lane] = static_cast<uint8_t>(slot >> 24);
    }
  }
#endif
  for (; i < n; ++i) {
    if (!decode_one(slots, states[i % kLanes], tokens[i], word, end)) return nullptr;
  }
  return word;
}

}  // namespace phloem::PHLOEM_LEVEL
