// Fuzzes what `lossless` does to the bytes of its blocks: planes and planes of differences of any bytes and any base
// are elements, and splitting these gives the planes again.
//
//   byte 0    bits 0 and 1: an item has 1, 2, 4 or 8 bytes; the others: bits of the exponent
//   the rest  the planes, then as many bytes of the base
#include "../planes.hpp"

#include <array>
#include <cstdlib>
#include <vector>

#include "../planes_loops.hpp"

namespace phloem {

const PlaneLoops& plane_loops() { return PHLOEM_LEVEL::kPlaneLoops; }

}  // namespace phloem

using namespace phloem;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  constexpr std::array<int, 4> kMostExponent = {7, 8, 8, 11};
  const size_t kind = data[0] & 3, itemsize = size_t{1} << kind;
  const int exponent_bits = (data[0] >> 2) % (kMostExponent[kind] + 1);
  const size_t n = (size - 1) / (2 * itemsize), bytes = n * itemsize;
  const std::vector<uint8_t> planes(data + 1, data + 1 + bytes), base(data + 1 + bytes, data + 1 + 2 * bytes);
  std::vector<uint8_t> elements(bytes), again(bytes);
  plane_loops().merge(planes.data(), n, itemsize, exponent_bits > 0, elements.data());
  plane_loops().split(elements.data(), n, itemsize, exponent_bits > 0, again.data());
  if (again != planes) std::abort();
  merge_differences(planes.data(), base.data(), n, itemsize, exponent_bits, elements.data());
  split_differences(elements.data(), base.data(), n, itemsize, exponent_bits, again.data());
  if (again != planes) std::abort();
  const auto ends = differences_ends(base.data(), n, itemsize, exponent_bits);
  if (n && ends.back() != static_cast<int64_t>(n)) std::abort();
  return 0;
}
