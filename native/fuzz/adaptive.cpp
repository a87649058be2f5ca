// Any stream of the efforts `balanced` and `best` for any shapes either decodes or is refused by a FormatError, no
// index is larger than the largest that was allowed, and the values are put into arrays. Byte 0 of the input: 0x04
// mixes, 0x08 eight states, 0x10 a held update (whose positions are made up), 0x20 a small limit, 0x40 every tensor as
// one row (long ones are folded), 0x80 adds the values to the arrays instead of subtracting them.
#include <array>
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
  const bool mixing = (input.flags & 4) != 0, holds = (input.flags & 0x10) != 0, rows = (input.flags & 0x40) != 0;
  // a coefficient takes a microsecond or more here
  if (input.parameters > (mixing ? 128 : rows ? 5'000 : 384)) return 0;
  const int states = input.flags & 8 ? 8 : 0;
  const int64_t highest = input.flags & 0x20 ? 3 : kMagnitudeHighest;
  std::vector<std::vector<int32_t>> indices;
  std::vector<std::vector<int8_t>> held;
  std::vector<Block> blocks;
  for (const Shape& shape : input.shapes) {
    auto& array = indices.emplace_back(static_cast<size_t>(shape.size()));
    auto& near = held.emplace_back(holds ? array.size() : 0);
    for (size_t i = 0; i < near.size(); ++i) near[i] = static_cast<int8_t>(i * 37 % 11 == 0 ? i % 255 - 127 : 0);
    blocks.push_back({array.data(), holds ? near.data() : nullptr, nullptr, 0.0f, rows ? 1 : shape.rows,
                      rows ? shape.size() : shape.columns, highest});
  }
  const std::vector<uint8_t> own(input.body.begin(), input.body.end());
  try {
    adaptive_unpack(own, blocks, {mixing, states});
  } catch (const FormatError&) {
    return 0;
  }
  constexpr std::array<float, 4> kValues = {1.0f, 2.0f, 0.5f, 1.5f};
  for (const auto& array : indices) {
    for (const int32_t index : array) {
      const int64_t magnitude = index < 0 ? -int64_t{index} : index;
      if (magnitude > highest) {
        std::fprintf(stderr, "an index of %lld is larger than allowed\n", static_cast<long long>(magnitude));
        std::abort();
      }
    }
    std::vector<float> out(array.size());
    const auto n = static_cast<int64_t>(array.size());
    grid_values(array.data(), n, states, kValues, 0.75f, 0, out.data());
    grid_values(array.data(), n, states, kValues, 0.75f, input.flags & 0x80 ? 1 : 2, out.data());
  }
  return 0;
}
