// One block of bytes: raw, constant, or order-0 entropy-coded (specification: phloem/kernels/bytecoder.py).
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace phloem {

// The most bytes of a block.
constexpr size_t kBlockMost = size_t{1} << 24;

std::string block_encode(std::span<const uint8_t> bytes);
// Fills `bytes`; returns the position after the block.
size_t block_decode(std::span<const uint8_t> body, size_t start, std::span<uint8_t> bytes);

}  // namespace phloem
