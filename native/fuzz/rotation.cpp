// Fuzzes the rotation that decoders of `eden` and others undo: signs turned over, and the Hadamard transform, of any
// floats, NaN and infinities too.
//
//   byte 0    the transform's size: a power of two up to 1,024 (modulo 11)
//   8 bytes   the seed of the signs
//   the rest  float32 values
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../loops.hpp"

using namespace phloem;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 9) return 0;
  const size_t block = size_t{1} << data[0] % 11, n = (size - 9) / 4;
  uint64_t seed;
  std::memcpy(&seed, data + 1, 8);
  std::vector<float> values(n);
  if (n) std::memcpy(values.data(), data + 9, 4 * n);
  const Loops& loops = PHLOEM_LEVEL::kLoops;
  loops.flip(values.data(), n, seed);
  loops.flip(values.data(), n, seed);
  if (n && std::memcmp(values.data(), data + 9, 4 * n)) std::abort();
  for (size_t start = 0; start + block <= n; start += block) loops.hadamard(values.data() + start, block, 0.5f);
  return 0;
}
