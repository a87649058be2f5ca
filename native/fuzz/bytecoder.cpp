// Fuzzes the blocks of `lossless`: any bytes either fill the block's or are refused by a FormatError.
//
//   2 bytes   the size of the block (twelve bits, little-endian), and where in the body it starts
//   the rest  the body
#include "../bytecoder.hpp"

#include <cstdlib>
#include <vector>

#include "../common.hpp"
#include "../planes_loops.hpp"

namespace phloem {

const PlaneLoops& plane_loops() { return PHLOEM_LEVEL::kPlaneLoops; }

}  // namespace phloem

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t start = data[1] >> 4;
  std::vector<uint8_t> bytes((data[0] | data[1] << 8) & 4095);
  const std::vector<uint8_t> body(data + 2, data + size);  // of its own, so that a read beyond it is seen
  try {
    const size_t end = phloem::block_decode(body, start, bytes);
    if (end < start || end > body.size()) std::abort();
  } catch (const phloem::FormatError&) {
  }
  return 0;
}
