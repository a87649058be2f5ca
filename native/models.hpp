// Token tables (specification: phloem/kernels/models.py).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common.hpp"

namespace phloem {

// A 12-bit table of `count` tokens.
struct TokenTable {
  int count = 0;
  std::array<uint32_t, kTokens> frequencies{}, starts{};
};

using Histogram = std::array<int64_t, kTokens>;
using Hazards = std::vector<int>;

int gap_shift(int64_t others, int64_t ones);
TokenTable gap_table(int64_t others, int64_t ones, int shift);
TokenTable hazard_table(const Hazards& hazards);
Hazards choose_hazards(const Histogram& counts, const std::array<int, kTokens>& predictions);

}  // namespace phloem
