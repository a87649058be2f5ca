// Thirty-two interleaved rANS coders (specification: phloem/kernels/rans.py; their loops: lanes.cpp).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "loops.hpp"
#include "models.hpp"

namespace phloem {

// Tokens that share one table.
struct Run {
  std::span<uint8_t> tokens;
  const TokenTable* table;
};

void rans_encode(const std::vector<Run>& runs, const Loops& loops, std::string& out);
// More tokens than any coder of so many bytes holds (specification: rans.py).
uint64_t rans_most_tokens(size_t bytes);
// Fills the runs' tokens; returns the position after the coder's bytes.
size_t rans_decode(std::span<const uint8_t> data, size_t start, const std::vector<Run>& runs, const Loops& loops);

}  // namespace phloem
