// How the columns of a row round, by the level of the row.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "common.hpp"
#include "scales.hpp"

namespace phloem {

// Where `thresholds` and `offsets` have a class, so many parts of a class above it.
inline size_t rounding_at(int level, int parts) {
  const int last = static_cast<int>(tables().thresholds.size()) - 1;
  return static_cast<size_t>(std::clamp(kClassParts * (level - kClassLowest) + parts, 0, last));
}

// The thresholds of all columns for the sparse classes of a row (infinite for dense ones); one where all are alike.
class RowThresholds {
 public:
  RowThresholds(const Scales& scale, const Groups& columns, int64_t width)
      : scale_(scale), columns_(columns), width_(width) {}
  const std::vector<float>& at(int row_level) {
    auto& thresholds = rows_[static_cast<size_t>(row_level + kLevelReach)];
    if (thresholds.empty()) thresholds = make(scale_.level + row_level);
    return thresholds;
  }

 private:
  std::vector<float> make(int level) const {
    const auto threshold = [&](int at) {
      return is_dense(at) ? std::numeric_limits<float>::infinity()
                          : tables().thresholds[rounding_at(at, scale_.excess)];
    };
    if (scale_.columns.mode == kNone) return {threshold(level)};
    std::vector<float> thresholds(static_cast<size_t>(width_));
    for (const Group& group : columns_.groups) {
      for (int64_t j = group.start; j < group.start + group.count; ++j) {
        thresholds[columns_.order[static_cast<size_t>(j)]] = threshold(level + group.level);
      }
    }
    return thresholds;
  }
  const Scales& scale_;
  const Groups& columns_;
  int64_t width_;
  std::array<std::vector<float>, 2 * kLevelReach + 1> rows_;
};

}  // namespace phloem
