// How a fuzzer's bytes become a decoder's arguments: the shapes that the caller knows, then the body.
//
//   byte 0            tensors, 1 to 4 (modulo 4); the other bits are the target's
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
  uint8_t flags = 0;
  std::vector<Shape> shapes;
  int64_t parameters = 0;
  std::span<const uint8_t> body;
};

// False where there are too few bytes.
inline bool take_apart(const uint8_t* data, size_t size, Input& input) {
  if (size < 1) return false;
  const size_t tensors = data[0] % 4 + 1;
  input.flags = data[0];
  if (size < 1 + 3 * tensors) return false;
  for (size_t i = 0; i < tensors; ++i) {
    const uint8_t* at = data + 1 + 3 * i;
    const Shape shape{at[0], (at[1] | at[2] << 8) % 1024};
    input.shapes.push_back(shape);
    input.parameters += shape.size();
  }
  input.body = {data + 1 + 3 * tensors, size - 1 - 3 * tensors};
  return true;
}

}  // namespace phloem::fuzz
