// PHLOEM_LEVEL is the namespace of this SIMD level; the build compiles this file once for each.
#include "planes_loops.hpp"

#include <cstring>
#include <type_traits>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace phloem::PHLOEM_LEVEL {

namespace {

constexpr uint32_t kLow = 1u << 15;
constexpr size_t kTile = 2048;  // elements that stay in the first cache between two passes

template <class Word>
Word load(const uint8_t* at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

template <class Word>
void store(uint8_t* at, Word word) {
  std::memcpy(at, &word, sizeof word);
}

// The sign moves under the eight bits below it; of 8-byte floats EEEEEEEE eee s (specification: planes.py).
template <class Word>
Word turn(Word word) {
  if constexpr (sizeof(Word) == 1) {
    return word;
  } else if constexpr (sizeof(Word) == 8) {
    return ((word << 4) & 0xff00000000000000u) | ((word >> 60 & 7) << 53) | (word >> 63 << 52) |
           (word & 0x000fffffffffffffu);
  } else {
    constexpr int below = 8 * sizeof(Word) - 9;
    constexpr Word kept = static_cast<Word>((Word{1} << below) - 1);
    return static_cast<Word>(static_cast<Word>((word >> below & 255) << (below + 1)) |
                             static_cast<Word>(word >> (below + 8) << below) | (word & kept));
  }
}

template <class Word>
Word turn_back(Word word) {
  if constexpr (sizeof(Word) == 1) {
    return word;
  } else if constexpr (sizeof(Word) == 8) {
    return (word >> 52 << 63) | ((word >> 53 & 7) << 60) | (word >> 56 << 52) | (word & 0x000fffffffffffffu);
  } else {
    constexpr int below = 8 * sizeof(Word) - 9;
    constexpr Word kept = static_cast<Word>((Word{1} << below) - 1);
    return static_cast<Word>(static_cast<Word>(word >> below << (below + 8)) |
                             static_cast<Word>(word >> (below + 1) << below) | (word & kept));
  }
}

template <class Word, bool kTurned>
void split_words(const uint8_t* elements, size_t n, uint8_t* planes) {
  for (size_t start = 0; start < n; start += kTile) {
    const size_t end = start + kTile < n ? start + kTile : n;
    Word tile[kTile];
    for (size_t i = start; i < end; ++i) {
      const Word word = load<Word>(elements + i * sizeof(Word));
      tile[i - start] = kTurned ? turn(word) : word;
    }
    for (size_t p = 0; p < sizeof(Word); ++p) {
      uint8_t* plane = planes + p * n;
      for (size_t i = start; i < end; ++i) plane[i] = static_cast<uint8_t>(tile[i - start] >> (8 * p));
    }
  }
}

template <class Word, bool kTurned>
void merge_words(const uint8_t* planes, size_t n, uint8_t* elements) {
  for (size_t i = 0; i < n; ++i) {
    Word word = 0;
    for (size_t p = 0; p < sizeof(Word); ++p) word |= static_cast<Word>(Word{planes[p * n + i]} << (8 * p));
    store(elements + i * sizeof(Word), kTurned ? turn_back(word) : word);
  }
}

template <class Word>
Word ordered(Word word, Word sign) {
  return static_cast<Word>(word & sign ? ~word : word | sign);
}

template <class Word>
uint8_t class_of(Word word, int shift, Word mask) {
  const Word field = word >> shift & mask;
  if constexpr (sizeof(Word) == 8) {
    return field < 800 ? 0 : field > 1055 ? 255 : static_cast<uint8_t>(field - 800);
  } else {
    return static_cast<uint8_t>(field);
  }
}

template <class Word>
void classify_words(const uint8_t* base, size_t n, int exponent_bits, uint8_t* classes) {
  if (!exponent_bits) {
    if (n) std::memset(classes, 0, n);  // there may be no address where there is nothing
    return;
  }
  const int shift = 8 * static_cast<int>(sizeof(Word)) - 1 - exponent_bits;
  const auto mask = static_cast<Word>((Word{1} << exponent_bits) - 1);
  for (size_t i = 0; i < n; ++i) classes[i] = class_of(load<Word>(base + i * sizeof(Word)), shift, mask);
}

template <class Word>
void fold_words(const uint8_t* elements, const uint8_t* base, size_t n, int exponent_bits, uint8_t* folded,
                uint8_t* classes) {
  constexpr Word top = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));
  classify_words<Word>(base, n, exponent_bits, classes);
  for (size_t i = 0; i < n; ++i) {
    Word word = load<Word>(elements + i * sizeof(Word)), other = load<Word>(base + i * sizeof(Word));
    if (exponent_bits) word = ordered(word, top), other = ordered(other, top);
    const auto change = static_cast<Word>(word - other);
    const auto negative = static_cast<Word>(-static_cast<Word>(change >> (8 * sizeof(Word) - 1)));
    store(folded + i * sizeof(Word), static_cast<Word>(static_cast<Word>(change << 1) ^ negative));
  }
}

template <class Word>
void unfold_words(const uint8_t* folded, const uint8_t* base, size_t n, int exponent_bits, uint8_t* elements) {
  constexpr Word top = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));
  for (size_t i = 0; i < n; ++i) {
    const Word fold = load<Word>(folded + i * sizeof(Word)), other = load<Word>(base + i * sizeof(Word));
    const auto change = static_cast<Word>((fold >> 1) ^ static_cast<Word>(-static_cast<Word>(fold & 1)));
    auto value = static_cast<Word>((exponent_bits ? ordered(other, top) : other) + change);
    if (exponent_bits) value = static_cast<Word>(value & top ? value ^ top : ~value);
    store(elements + i * sizeof(Word), value);
  }
}

// Calls `call` with a word of the element's size.
template <class Call>
void with_word(size_t itemsize, Call call) {
  switch (itemsize) {
    case 1: return call(uint8_t{});
    case 2: return call(uint16_t{});
    case 4: return call(uint32_t{});
    default: return call(uint64_t{});
  }
}

void split(const uint8_t* elements, size_t n, size_t itemsize, bool turned, uint8_t* planes) {
  with_word(itemsize, [&](auto word) {
    using Word = decltype(word);
    turned ? split_words<Word, true>(elements, n, planes) : split_words<Word, false>(elements, n, planes);
  });
}

void merge(const uint8_t* planes, size_t n, size_t itemsize, bool turned, uint8_t* elements) {
  with_word(itemsize, [&](auto word) {
    using Word = decltype(word);
    turned ? merge_words<Word, true>(planes, n, elements) : merge_words<Word, false>(planes, n, elements);
  });
}

void fold(const uint8_t* elements, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits, uint8_t* folded,
          uint8_t* classes) {
  with_word(itemsize,
            [&](auto word) { fold_words<decltype(word)>(elements, base, n, exponent_bits, folded, classes); });
}

void unfold(const uint8_t* folded, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits,
            uint8_t* elements) {
  with_word(itemsize, [&](auto word) { unfold_words<decltype(word)>(folded, base, n, exponent_bits, elements); });
}

void classify(const uint8_t* base, size_t n, size_t itemsize, int exponent_bits, uint8_t* classes) {
  with_word(itemsize, [&](auto word) { classify_words<decltype(word)>(base, n, exponent_bits, classes); });
}

// Eight tables, because a counter that was just stored is slow to load again.
void count(const uint8_t* bytes, size_t n, uint32_t* counts) {
  uint32_t tables[8][256] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const auto eight = load<uint64_t>(bytes + i);
    for (size_t lane = 0; lane < 8; ++lane) ++tables[lane][eight >> (8 * lane) & 255];
  }
  for (; i < n; ++i) ++tables[0][bytes[i]];
  for (size_t v = 0; v < 256; ++v) {
    counts[v] = 0;
    for (size_t lane = 0; lane < 8; ++lane) counts[v] += tables[lane][v];
  }
}

#if defined(__AVX512F__)

// One step of sixteen lanes; the compressed words go below `word`.
inline uint16_t* encode_half(const uint8_t* bytes, const ByteDivisors& by, __m512i& state, uint16_t* word) {
  const __m512i value = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  const __m512i packed = _mm512_i32gather_epi32(value, by.packed, 4);
  const __m512i reciprocal = _mm512_i32gather_epi32(value, by.reciprocal, 4);
  const __m512i frequency = _mm512_and_epi32(_mm512_srli_epi32(packed, 12), _mm512_set1_epi32(4095));
  const __mmask16 full = _mm512_cmpge_epu32_mask(state, _mm512_slli_epi32(frequency, 19));
  const auto words = static_cast<unsigned>(__builtin_popcount(full));
  word -= words;
  const __m256i out = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, state));
  _mm256_mask_storeu_epi16(word, static_cast<__mmask16>((1u << words) - 1), out);
  const __m512i kept = _mm512_mask_srli_epi32(state, full, state, 16);
  const __m512i shift = _mm512_add_epi32(_mm512_srli_epi32(packed, 24), _mm512_set1_epi32(31));
  const __m512i even = _mm512_srlv_epi64(_mm512_mul_epu32(kept, reciprocal),
                                         _mm512_and_epi64(shift, _mm512_set1_epi64(0xffffffff)));
  const __m512i odd =
      _mm512_srlv_epi64(_mm512_mul_epu32(_mm512_srli_epi64(kept, 32), _mm512_srli_epi64(reciprocal, 32)),
                        _mm512_srli_epi64(shift, 32));
  const __m512i quotient = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  const __m512i start = _mm512_and_epi32(packed, _mm512_set1_epi32(4095));
  const __m512i complement = _mm512_sub_epi32(_mm512_set1_epi32(4096), frequency);
  state = _mm512_add_epi32(_mm512_add_epi32(kept, start), _mm512_mullo_epi32(quotient, complement));
  return word;
}

uint16_t* encode(const uint8_t* bytes, size_t steps, const ByteDivisors& by, uint32_t* states, uint16_t* word) {
  __m512i low = _mm512_loadu_si512(states), high = _mm512_loadu_si512(states + 16);
  for (size_t step = steps; step-- > 0;) {
    word = encode_half(bytes + step * kManyLanes + 16, by, high, word);
    word = encode_half(bytes + step * kManyLanes, by, low, word);
  }
  _mm512_storeu_si512(states, low);
  _mm512_storeu_si512(states + 16, high);
  return word;
}

inline const uint8_t* decode_half(const uint32_t* slots, __m512i& state, uint8_t* bytes, const uint8_t* word) {
  const __m512i entry =
      _mm512_i32gather_epi32(_mm512_and_epi32(state, _mm512_set1_epi32(4095)), slots, 4);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(entry));
  const __m512i frequency = _mm512_and_epi32(_mm512_srli_epi32(entry, 8), _mm512_set1_epi32(4095));
  const __m512i next = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(state, 12)),
                                        _mm512_srli_epi32(entry, 20));
  const __mmask16 hungry = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(kLow));
  const __m512i words = _mm512_maskz_expand_epi32(
      hungry, _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(word))));
  state = _mm512_mask_or_epi32(next, hungry, _mm512_slli_epi32(next, 16), words);
  return word + 2 * static_cast<unsigned>(__builtin_popcount(hungry));
}

size_t decode(const uint32_t* slots, uint32_t* states, uint8_t* bytes, size_t steps, const uint8_t** word,
              const uint8_t* end) {
  __m512i low = _mm512_loadu_si512(states), high = _mm512_loadu_si512(states + 16);
  const uint8_t* at = *word;
  size_t step = 0;
  for (; step < steps && end - at >= static_cast<std::ptrdiff_t>(2 * kManyLanes); ++step) {
    at = decode_half(slots, low, bytes + step * kManyLanes, at);
    at = decode_half(slots, high, bytes + step * kManyLanes + 16, at);
  }
  _mm512_storeu_si512(states, low);
  _mm512_storeu_si512(states + 16, high);
  *word = at;
  return step;
}

#else

uint16_t* encode(const uint8_t* bytes, size_t steps, const ByteDivisors& by, uint32_t* states, uint16_t* word) {
  for (size_t step = steps; step-- > 0;) {
    for (size_t lane = kManyLanes; lane-- > 0;) {
      const uint8_t value = bytes[step * kManyLanes + lane];
      const uint32_t packed = by.packed[value], frequency = packed >> 12 & 4095, state = states[lane];
      const bool full = state >= frequency << 19;
      word[-1] = static_cast<uint16_t>(state);  // overwritten by the next unless it counts
      word -= full;
      const uint32_t kept = full ? state >> 16 : state;
      const auto quotient = static_cast<uint32_t>((uint64_t{kept} * by.reciprocal[value]) >> ((packed >> 24) + 31));
      states[lane] = kept + (packed & 4095) + quotient * (4096 - frequency);
    }
  }
  return word;
}

size_t decode(const uint32_t* slots, uint32_t* states, uint8_t* bytes, size_t steps, const uint8_t** word,
              const uint8_t* end) {
  const uint8_t* at = *word;
  size_t step = 0;
  for (; step < steps && end - at >= static_cast<std::ptrdiff_t>(2 * kManyLanes); ++step) {
    for (size_t lane = 0; lane < kManyLanes; ++lane) {
      const uint32_t state = states[lane], entry = slots[state & 4095];
      const uint32_t next = (entry >> 8 & 4095) * (state >> 12) + (entry >> 20);
      const bool hungry = next < kLow;
      states[lane] = hungry ? next << 16 | load<uint16_t>(at) : next;
      at += hungry ? 2 : 0;
      bytes[step * kManyLanes + lane] = static_cast<uint8_t>(entry);
    }
  }
  *word = at;
  return step;
}

#endif

}  // namespace

const PlaneLoops kPlaneLoops = {split, merge, fold, unfold, classify, count, encode, decode};

}  // namespace phloem::PHLOEM_LEVEL
