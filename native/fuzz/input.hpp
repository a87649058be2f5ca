// How a fuzzer's bytes become a decoder's arguments: the shapes that the caller knows, then the body.
//
//   byte 0            tensors, 1 to 4 (modulo 4)
//   3 bytes each      rows, and columns in two bytes, little-endian (modulo 1,024): at most 255 x 1,023
//   the rest          the body
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "../common.hpp"

namespace phloem::fuzz {

struct Input {
  std::vector<Shape> shapes;
  std::span<const uint8_t> body;
};

// False where there are too few bytes, or so many parameters that a run would be slow.
inline bool take_apart(const uint8_t* data, size_t size, Input& input) {
  if (size < 1) return false;
  const size_t tensors = data[0] % 4 + 1;
  if (size < 1 + 3 * tensors) return false;
  int64_t total = 0;
  for (size_t i = 0; i < tensors; ++i) {
    const uint8_t* at = data + 1 + 3 * i;
    const Shape shape{at[0], (at[1] | at[2] << 8) % 1024};
    input.shapes.push_back(shape);
    total += shape.size();
  }
  input.body = {data + 1 + 3 * tensors, size - 1 - 3 * tensors};
  return total <= 60'000;
}

// Reads the step that a body begins with (phloem/kernels/steps.py); false where it is out of range.
inline bool read_step(std::span<const uint8_t> body, Step& step) {
  if (body.size() < kStepBytes) return false;
  const uint32_t number = static_cast<uint32_t>(body[0]) << 16 | static_cast<uint32_t>(body[1]) << 8 | body[2];
  const int exponent = static_cast<int>(number >> 16) - 127;
  if (exponent < -124 || exponent > 125) return false;
  const uint32_t significand = 2048 + (number >> 5 & 2047);
  const double value = __builtin_ldexp(significand, exponent - 11);
  const double most = 0x1.fffffep127 / value;
  step = {significand, exponent, static_cast<float>(value), 1.0f / static_cast<float>(value),
          most < double(kMagnitudeHighest) ? static_cast<int64_t>(most) : kMagnitudeHighest};
  return true;
}

}  // namespace phloem::fuzz
