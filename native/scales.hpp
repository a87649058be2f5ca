// Scale classes: how levels are chosen, and the columns of a tensor grouped by level.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common.hpp"

namespace phloem {

// Columns of one level: `count` of them from `start` in the order of `Groups`.
struct Group {
  int level;
  int64_t start, count;
};

// A tensor's columns grouped by level, highest first, ascending within a group. Without column levels there is one
// group, and `order` and `rank` are empty: the identity.
struct Groups {
  Groups(const Direction& direction, int64_t columns);
  std::vector<Group> groups;
  std::vector<uint32_t> order;  // the column at each place
  std::vector<uint32_t> rank;   // each column's place within its group
};

// A run of a tensor's elements: whole rows, or any stretch of a tensor that is one row.
struct Piece {
  size_t tensor;
  int64_t start, stop;
  bool operator==(const Piece&) const = default;
};

// A piece as rows; where the tensor has a single level, one row of everything.
struct Rows {
  Rows(const Piece& piece, const Scales& scale);
  int64_t first, count, width;
};

int tensor_level(int64_t total, int64_t size);
int excess_of(int64_t total, int64_t size, int level);
Direction choose_direction(const std::vector<int64_t>& sums, int64_t others, int64_t total, int level);
// Adds the sizes of the classes of rows; `columns` are their groups.
void add_class_sizes(const Rows& rows, const Scales& scale, const Groups& columns,
                     std::array<int64_t, kClasses>& sizes);

}  // namespace phloem
