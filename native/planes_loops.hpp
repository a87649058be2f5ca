// The loops of the `lossless` kernels, compiled once per SIMD level from the same source (planes_loops.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace phloem {

constexpr size_t kManyLanes = 32;

// What the encoder needs of a byte value: x / frequency is x * reciprocal >> shift for all x below 2^31 (rans.cpp).
struct ByteDivisors {
  uint32_t reciprocal[256];
  uint32_t packed[256];  // start · frequency << 12 · (shift - 31) << 24
};

struct PlaneLoops {
  // Plain planes of n elements of `itemsize` bytes; plane p starts at planes + p * n. `turned`: exponents apart.
  void (*split)(const uint8_t* elements, size_t n, size_t itemsize, bool turned, uint8_t* planes);
  void (*merge)(const uint8_t* planes, size_t n, size_t itemsize, bool turned, uint8_t* elements);
  // Folded differences from the base, and the class of every base; and back.
  void (*fold)(const uint8_t* elements, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits,
               uint8_t* folded, uint8_t* classes);
  void (*unfold)(const uint8_t* folded, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits,
                 uint8_t* elements);
  void (*classify)(const uint8_t* base, size_t n, size_t itemsize, int exponent_bits, uint8_t* classes);
  void (*count)(const uint8_t* bytes, size_t n, uint32_t* counts);
  // Whole steps of 32 lanes, the last step first; words are written downwards from `word`. Returns the lowest.
  uint16_t* (*encode)(const uint8_t* bytes, size_t steps, const ByteDivisors& by, uint32_t* states, uint16_t* word);
  // Whole steps of 32 lanes while at least 32 words are left; returns how many steps, and moves `word`.
  size_t (*decode)(const uint32_t* slots, uint32_t* states, uint8_t* bytes, size_t steps, const uint8_t** word,
                   const uint8_t* end);
};

namespace portable { extern const PlaneLoops kPlaneLoops; }
#if defined(PHLOEM_X86_LEVELS)
namespace avx2 { extern const PlaneLoops kPlaneLoops; }
namespace avx512 { extern const PlaneLoops kPlaneLoops; }
#endif

// The loops of the level in use.
const PlaneLoops& plane_loops();

}  // namespace phloem
