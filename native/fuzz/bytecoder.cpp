// Fuzzes the blocks of `lossless`: two bytes of size, then a body that begins with a block.
#include "../bytecoder.hpp"

#include <vector>

#include "../common.hpp"
#include "../planes_loops.hpp"

namespace phloem {

const PlaneLoops& plane_loops() { return PHLOEM_LEVEL::kPlaneLoops; }

}  // namespace phloem

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::vector<uint8_t> bytes(data[0] | data[1] << 8);
  const std::vector<uint8_t> body(data + 2, data + size);  // of its own, so that a read beyond it is seen
  try {
    const size_t end = phloem::block_decode(body, 0, bytes);
    if (end > body.size()) __builtin_trap();
  } catch (const phloem::FormatError&) {
  }
  return 0;
}
