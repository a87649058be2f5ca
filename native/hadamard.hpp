// The Walsh-Hadamard transform and random signs (specification: phloem/kernels/hadamard.py). Included by loops.cpp
// inside the namespace of each SIMD level.
//
// The stages up to h = 8 run in registers of sixteen lanes. In a stage lane i becomes x[i ^ h] + (±x[i]), minus where
// bit h of i is set: the same sum and difference, with no lane moved twice. Above, two stages at a time go through the
// block. Operations and their operands are those of the specification, so results are equal to the bit.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define PHLOEM_SHUFFLE 1
#endif
#endif

inline void hadamard_pairs(float* x, size_t size, size_t h) {
  for (size_t start = 0; start < size; start += 2 * h) {
    float* a = x + start;
    float* b = a + h;
    for (size_t i = 0; i < h; ++i) {
      const float left = a[i], right = b[i];
      a[i] = left + right;
      b[i] = left - right;
    }
  }
}

inline void hadamard_quads(float* x, size_t size, size_t h) {
  for (size_t start = 0; start < size; start += 4 * h) {
    float* a = x + start;
    float* b = a + h;
    float* c = b + h;
    float* d = c + h;
    for (size_t i = 0; i < h; ++i) {
      const float ab = a[i] + b[i], a_b = a[i] - b[i], cd = c[i] + d[i], c_d = c[i] - d[i];
      a[i] = ab + cd;
      b[i] = a_b + c_d;
      c[i] = ab - cd;
      d[i] = a_b - c_d;
    }
  }
}

inline void hadamard_sixteens(float* x, size_t size) {
#if defined(PHLOEM_SHUFFLE)
  typedef float Lanes __attribute__((vector_size(64)));
  constexpr Lanes kOne = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
  constexpr Lanes kTwo = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
  constexpr Lanes kFour = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
  constexpr Lanes kEight = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
  for (size_t start = 0; start < size; start += 16) {
    Lanes v;
    std::memcpy(&v, x + start, 64);
    v = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14) + v * kOne;
    v = __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13) + v * kTwo;
    v = __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11) + v * kFour;
    v = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7) + v * kEight;
    std::memcpy(x + start, &v, 64);
  }
#else
  for (size_t h = 1; h < 16; h *= 2) hadamard_pairs(x, size, h);
#endif
}

void hadamard(float* x, size_t size, float scale) {
  size_t h = 1;
  if (size >= 16) {
    hadamard_sixteens(x, size);
    h = 16;
  }
  for (; 4 * h <= size; h *= 4) hadamard_quads(x, size, h);
  if (h < size) hadamard_pairs(x, size, h);
  for (size_t i = 0; i < size; ++i) x[i] *= scale;
}

inline uint64_t stream_word(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

void flip(float* x, size_t n, uint64_t seed) {
  for (size_t start = 0; start < n; start += 64) {
    const uint64_t word = stream_word(seed, start / 64);
    const uint32_t halves[2] = {static_cast<uint32_t>(word), static_cast<uint32_t>(word >> 32)};
    const size_t count = n - start < 64 ? n - start : 64;
    uint32_t bits[64];
    if (count < 64) std::memset(bits, 0, sizeof bits);
    std::memcpy(bits, x + start, 4 * count);
    for (size_t i = 0; i < 32; ++i) bits[i] ^= halves[0] >> i << 31;
    for (size_t i = 0; i < 32; ++i) bits[32 + i] ^= halves[1] >> i << 31;
    std::memcpy(x + start, bits, 4 * count);
  }
}
