// Choosing scale classes (specification: phloem/kernels/scales.py).
#include "scales.hpp"

#include <algorithm>
#include <array>

namespace phloem {

namespace {

using Cost = __int128;

constexpr int64_t kOverhead = 16 << 16;
constexpr int kReachBins = 2 * kLevelReach + 1;

int64_t log2_q16(int64_t number) {
  const int exponent = bit_length(static_cast<uint64_t>(number)) - 1;
  const auto lead = static_cast<uint64_t>((static_cast<unsigned __int128>(number) << 12) >> exponent);
  return (int64_t{exponent} << 16) + tables().logs[lead - 4096];
}

int place(const std::vector<double>& boundaries, double value) {
  return static_cast<int>(std::upper_bound(boundaries.begin(), boundaries.end(), value) - boundaries.begin());
}

Cost geometric_cost(int64_t count, int64_t mass, int level) {
  const Cost cost = tables().class_costs[static_cast<size_t>(level - kClassLowest)];
  return (Cost(count) + mass) * cost - Cost(mass) * level * 32768;
}

Cost direction_cost(const std::vector<int64_t>& sums, const std::vector<int8_t>& levels, int64_t others, int level) {
  std::array<int64_t, kReachBins> counts{}, masses{};
  for (size_t i = 0; i < sums.size(); ++i) {
    ++counts[static_cast<size_t>(levels[i] + kLevelReach)];
    masses[static_cast<size_t>(levels[i] + kLevelReach)] += sums[i];
  }
  const auto n = static_cast<int64_t>(sums.size());
  Cost cost = kOverhead + Cost(n) * log2_q16(n);
  for (int bin = 0; bin < kReachBins; ++bin) {
    if (counts[bin] == 0) continue;
    cost += geometric_cost(counts[bin] * others, masses[bin], level + bin - kLevelReach);
    cost -= Cost(counts[bin]) * log2_q16(counts[bin]);
  }
  return cost;
}

}  // namespace

int tensor_level(int64_t total, int64_t size) {
  const int level = place(tables().half_octaves, static_cast<double>(total) / static_cast<double>(size)) - 100;
  return std::max(kLevelLowest, std::min(level, kLevelHighest));
}

int excess_of(int64_t total, int64_t size, int level) {
  const int64_t above = 2 * (log2_q16(total) - log2_q16(size)) - int64_t{level} * 65536;  // Q16
  const int64_t parts = (above * kClassParts + (1 << 15)) >> 16;
  return static_cast<int>(std::clamp<int64_t>(parts, -kClassParts / 2, kClassParts / 2));
}

Direction choose_direction(const std::vector<int64_t>& sums, int64_t others, int64_t total, int level) {
  const auto n = static_cast<int64_t>(sums.size());
  Direction best;
  Cost least = geometric_cost(n * others, total, level);
  std::vector<int8_t> levels(sums.size());
  for (const int64_t prior : {2, 6}) {
    const auto whole = static_cast<double>(total + prior * n);
    for (const int mode : {kOctaves, kHalves}) {
      for (size_t i = 0; i < sums.size(); ++i) {
        const double ratio = static_cast<double>((sums[i] + prior) * n) / whole;
        const int found = mode == kHalves ? place(tables().half_octaves, ratio) - 100
                                          : 2 * place(tables().octaves, ratio) - 100;
        levels[i] = static_cast<int8_t>(std::max(-kLevelReach, std::min(found, kLevelReach)));
      }
      const Cost cost = direction_cost(sums, levels, others, level);
      if (cost < least) {
        least = cost;
        best.mode = mode;
        best.levels = levels;
      }
    }
  }
  return best;
}

Groups::Groups(const Direction& direction, int64_t columns) {
  if (direction.mode == kNone) {
    groups.push_back({0, 0, columns});
    return;
  }
  std::array<int64_t, kReachBins> counts{}, starts{};
  for (int8_t level : direction.levels) ++counts[static_cast<size_t>(level + kLevelReach)];
  int64_t start = 0;
  for (int bin = kReachBins - 1; bin >= 0; --bin) {
    starts[bin] = start;
    if (counts[bin]) groups.push_back({bin - kLevelReach, start, counts[bin]});
    start += counts[bin];
  }
  order.resize(static_cast<size_t>(columns));
  rank.resize(static_cast<size_t>(columns));
  const auto begins = starts;
  for (int64_t c = 0; c < columns; ++c) {
    const auto bin = static_cast<size_t>(direction.levels[static_cast<size_t>(c)] + kLevelReach);
    rank[static_cast<size_t>(c)] = static_cast<uint32_t>(starts[bin] - begins[bin]);
    order[static_cast<size_t>(starts[bin]++)] = static_cast<uint32_t>(c);
  }
}

Rows::Rows(const Piece& piece, const Scales& scale) {
  if (scale.rows.mode == kNone && scale.columns.mode == kNone) {
    first = 0;
    count = 1;
    width = piece.stop - piece.start;
  } else {
    width = scale.shape.columns;
    first = piece.start / width;
    count = piece.stop / width - first;
  }
}

void add_class_sizes(const Rows& rows, const Scales& scale, const Groups& columns,
                     std::array<int64_t, kClasses>& sizes) {
  std::array<int64_t, kReachBins> with{};
  if (scale.rows.mode == kNone) {
    with[kLevelReach] = rows.count;
  } else {
    for (int64_t r = rows.first; r < rows.first + rows.count; ++r) {
      ++with[static_cast<size_t>(scale.rows.at(r) + kLevelReach)];
    }
  }
  for (int bin = 0; bin < kReachBins; ++bin) {
    if (!with[bin]) continue;
    for (const Group& group : columns.groups) {
      sizes[static_cast<size_t>(scale.level + bin - kLevelReach + group.level - kClassLowest)] +=
          with[bin] * group.count;
    }
  }
}

}  // namespace phloem
