#include "models.hpp"

#include <algorithm>
#include <cstdlib>

namespace phloem {

namespace {

using Wide = unsigned __int128;

void set_starts(TokenTable& table) {
  uint32_t start = 0;
  for (int t = 0; t < table.count; ++t) {
    table.starts[t] = start;
    start += table.frequencies[t];
  }
}

}  // namespace

int gap_shift(int64_t others, int64_t ones) {
  int shift = 0;
  while (2 * (others >> (shift + 1)) >= 5 * ones) ++shift;
  return shift;
}

TokenTable gap_table(int64_t others, int64_t ones, int shift) {
  uint64_t survival = static_cast<uint64_t>((Wide(others) << 32) / Wide(others + ones));
  for (int i = 0; i < shift; ++i) survival = static_cast<uint64_t>((Wide(survival) * survival) >> 32);
  TokenTable table;
  table.count = kTokens;
  uint64_t reach = uint64_t{1} << 32;
  uint32_t total = 0;
  for (int t = 0; t < kTokens; ++t) {
    const uint64_t further = t == kTokens - 1 ? 0 : static_cast<uint64_t>((Wide(reach) * survival) >> 32);
    const uint64_t share = ((reach - further) * 4096 + (uint64_t{1} << 31)) >> 32;
    table.frequencies[t] = static_cast<uint32_t>(std::max<uint64_t>(1, share));
    total += table.frequencies[t];
    reach = further;
  }
  table.frequencies[0] += 4096 - total;
  set_starts(table);
  return table;
}

TokenTable hazard_table(const Hazards& hazards) {
  TokenTable table;
  table.count = static_cast<int>(hazards.size()) + 1;
  uint32_t rest = 4096;
  for (int t = 0; t < table.count - 1; ++t) {
    const uint32_t share = (rest * tables().ladder[hazards[t]] + 32768) >> 16;
    const uint32_t most = rest - static_cast<uint32_t>(table.count - 1 - t);
    table.frequencies[t] = std::max(1u, std::min(share, most));
    rest -= table.frequencies[t];
  }
  table.frequencies[table.count - 1] = rest;
  set_starts(table);
  return table;
}

Hazards choose_hazards(const Histogram& counts, const std::array<int, kTokens>& predictions) {
  int highest = kTokens - 1;
  while (highest > 0 && counts[highest] == 0) --highest;
  int64_t beyond = 0;
  for (int64_t count : counts) beyond += count;
  Hazards hazards;
  for (int t = 0; t < highest; ++t) {
    beyond -= counts[t];
    int best = 0;
    int64_t least = INT64_MAX;
    for (int step = 0; step < kLadder; ++step) {
      const int distance = std::abs(step - predictions[t]);
      const int64_t side = distance == 0 ? 46000 : 118000 + 59000 * distance;
      const auto& costs = tables().ladder_costs;
      const int64_t cost = counts[t] * costs[step] + beyond * costs[kLadderTop - step] + side;
      if (cost < least) {
        least = cost;
        best = step;
      }
    }
    hazards.push_back(best);
  }
  return hazards;
}

}  // namespace phloem
