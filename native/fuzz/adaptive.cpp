// Any stream of the efforts `balanced` and `best` for any shapes either decodes or is refused by a FormatError, and no
// index is larger than the largest that was allowed. Byte 0 of the input: 0x04 mixes, 0x08 eight states, 0x10 a held
// update (whose positions are made up), 0x20 a small limit.
#include <cstdio>
#include <cstdlib>

#include "../adaptive.hpp"
#include "input.hpp"
#include "logistic.inc"

using namespace phloem;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  logistic_tables() = fuzz::made_logistic_tables();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input;
  if (!fuzz::take_apart(data, size, input)) return 0;
  int64_t total = 0;
  for (const Shape& shape : input.shapes) total += shape.size();
  if (total > 4096) return 0;  // mixing takes microseconds per parameter here
  const int64_t highest = input.flags & 0x20 ? 3 : kMagnitudeHighest;
  std::vector<std::vector<int32_t>> indices;
  std::vector<std::vector<int8_t>> held;
  for (const Shape& shape : input.shapes) {
    indices.emplace_back(static_cast<size_t>(shape.size()));
    held.emplace_back(static_cast<size_t>(shape.size()));
    for (size_t i = 0; i < held.back().size(); ++i) held.back()[i] = static_cast<int8_t>(i * 37 % 11 == 0 ? i % 255 - 127 : 0);
  }
  std::vector<Block> blocks;
  for (size_t i = 0; i < indices.size(); ++i) {
    const Shape& shape = input.shapes[i];
    const bool holds = (input.flags & 0x10) != 0;
    blocks.push_back({indices[i].data(), holds ? held[i].data() : nullptr, nullptr, 0.0f, shape.rows, shape.columns, highest});
  }
  const std::vector<uint8_t> own(input.body.begin(), input.body.end());
  try {
    adaptive_unpack(own, blocks, {(input.flags & 4) != 0, input.flags & 8 ? 8 : 0});
  } catch (const FormatError&) {
    return 0;
  }
  for (const auto& array : indices) {
    for (int32_t index : array) {
      const int64_t magnitude = index < 0 ? -int64_t{index} : index;
      if (magnitude > highest) {
        std::fprintf(stderr, "an index of %lld is larger than allowed\n", static_cast<long long>(magnitude));
        std::abort();
      }
    }
  }
  return 0;
}
