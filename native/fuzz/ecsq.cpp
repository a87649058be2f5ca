// Any body for any shapes either decodes or is refused by a FormatError; the sanitisers see to the rest. A refused body
// leaves the outputs as they were. Byte 0 of the input: 0x10 up to 40,000 parameters, so that tokens may be in lanes;
// 0x60 store, add, subtract, or subtract as the encoder's own; 0x80 two parts.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../codec.hpp"
#include "../steps.hpp"
#include "input.hpp"
#include "tables.inc"

using namespace phloem;

namespace {

void require(bool kept, const char* what) {
  if (kept) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

// Whole tensors in order, in one part or cut in two.
std::vector<Part> parts_of(const std::vector<Shape>& shapes, bool two) {
  std::vector<Part> parts(1);
  for (size_t i = 0; i < shapes.size(); ++i) {
    const Shape& shape = shapes[i];
    if (!shape.size()) continue;
    const int64_t middle = two && i == shapes.size() / 2 ? shape.rows / 2 * shape.columns : 0;
    if (middle) {
      parts.back().push_back({i, 0, middle});
      parts.emplace_back();
    }
    parts.back().push_back({i, middle, shape.size()});
  }
  return parts;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  tables() = fuzz::made_tables();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input;
  if (!fuzz::take_apart(data, size, input) || input.body.size() < kStepBytes) return 0;
  if (input.parameters > (input.flags & 0x10 ? 40'000 : 1'024)) return 0;
  const auto& body = input.body;
  const uint32_t number = static_cast<uint32_t>(body[0]) << 16 | static_cast<uint32_t>(body[1]) << 8 | body[2];
  const int exponent = static_cast<int>(number >> 16) - 127;
  // Python refuses these, or calls other kernels
  if (exponent < kExponentLowest || exponent > kExponentHighest || (number & 29)) return 0;
  const Steps steps{{2048 + (number >> 5 & 2047), exponent}, (number & kFlagImportance) != 0, {}};
  const int way = input.flags >> 5 & 3;
  std::vector<std::vector<float>> arrays;
  std::vector<Output> outputs;
  for (const Shape& shape : input.shapes) {
    auto& array = arrays.emplace_back(static_cast<size_t>(shape.size()));
    if (way) {
      for (size_t i = 0; i < array.size(); ++i) array[i] = i % 3 ? 1.5f : -0.0f;
    }
  }
  for (size_t i = 0; i < arrays.size(); ++i) outputs.push_back({arrays[i].data(), input.shapes[i]});
  const auto parts = parts_of(input.shapes, (input.flags & 0x80) != 0);
  if (parts.front().empty()) return 0;
  const std::vector<uint8_t> own(body.begin(), body.end());  // of its own, so that a read beyond it is seen
  const auto before = way ? arrays : std::vector<std::vector<float>>();
  bool refused = false;
  try {
    if (way == 3) {
      subtract_encoded(own, steps, outputs, parts, PHLOEM_LEVEL::kLoops, 1);
    } else {
      decode(own, steps, outputs, parts, static_cast<Put>(way), PHLOEM_LEVEL::kLoops, 1);
    }
  } catch (const FormatError&) {
    refused = true;
  }
  for (size_t t = 0; t < arrays.size(); ++t) {
    const size_t n = arrays[t].size();
    if (refused && way && n) {
      require(std::memcmp(arrays[t].data(), before[t].data(), 4 * n) == 0, "a refused body has written values");
    }
    for (const float value : arrays[t]) {
      require(std::isfinite(value), "a decoded value is not finite");
      require(!refused || way || value == 0.0f, "a refused body has written values");
    }
  }
  return 0;
}
