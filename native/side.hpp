// The side information, one description for both directions (specification: phloem/kernels/side.py).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "common.hpp"
#include "models.hpp"

namespace phloem {

constexpr int kCtxZero = 0, kCtxTensor = 2, kCtxMode = 12, kCtxLevel = 16;
constexpr int kCtxLevelSet = 3 + 3 + 2 * kLevelReach;
constexpr int kCtxCount = kCtxLevel + 4 * kCtxLevelSet;
constexpr int kCtxRepeats = kCtxCount + 8;
constexpr int kCtxHighest = kCtxRepeats + 8;
constexpr int kCtxHazard = kCtxHighest + 2 * 8;
constexpr int kCtxImportance = kCtxHazard + 6 * 10;
constexpr int kContexts = kCtxImportance + 10;
constexpr int kFirstLevel = -10;

template <class Coder>
void code_direction(Coder& coder, int side, int64_t count, Direction& given) {
  if (!coder.bit(kCtxMode + 2 * side, given.mode != kNone)) {
    given.mode = kNone;
    given.levels.clear();
    return;
  }
  given.mode = coder.bit(kCtxMode + 2 * side + 1, given.mode == kHalves) ? kHalves : kOctaves;
  const int unit = given.mode == kHalves ? 1 : 2;
  const int reach = kLevelReach / unit;
  const int first = kCtxLevel + (2 * side + given.mode - kOctaves) * kCtxLevelSet;
  int before = 1;
  given.levels.reserve(static_cast<size_t>(std::min<int64_t>(count, 4096)));
  for (int64_t i = 0; i < count; ++i) {  // the decoder's vector grows as the body pays for it
    const auto at = static_cast<size_t>(i);
    if (at == given.levels.size()) given.levels.push_back(0);
    int8_t& value = given.levels[at];
    int level = 0;
    if (coder.bit(first + before, value != 0)) {
      const bool negative = coder.bit(first + 3 + before, value < 0);
      const int further = first + 6 + kLevelReach * negative;
      const int wanted = (value < 0 ? -value : value) / unit;
      level = 1;
      while (level < reach && coder.bit(further + level, wanted > level)) ++level;
      if (negative) level = -level;
    }
    value = static_cast<int8_t>(level * unit);
    before = std::max(-1, std::min(level, 1)) + 1;
  }
}

// Every tensor's importance against the previous one's; an empty tensor has none.
template <class Coder>
void code_importances(Coder& coder, const std::vector<Scales>& scales, std::vector<int>& importances) {
  int64_t importance = 0;
  importances.resize(scales.size());
  for (size_t i = 0; i < scales.size(); ++i) {
    if (scales[i].shape.size() == 0) continue;
    importance += coder.integer(kCtxImportance, 8, importances[i] - importance);
    if (importance < -kImportanceReach || importance > kImportanceReach) {
      throw FormatError("A tensor's importance is out of range.");
    }
    importances[i] = static_cast<int>(importance);
  }
}

// The levels of all tensors; an empty tensor has none and takes no bits.
template <class Coder>
void code_scales(Coder& coder, std::vector<Scales>& scales) {
  bool was_zero = false;
  int64_t level = kFirstLevel;
  for (Scales& scale : scales) {
    if (scale.shape.size() == 0) continue;
    was_zero = coder.bit(kCtxZero + was_zero, scale.zero);
    scale.zero = was_zero;
    if (was_zero) continue;
    level += coder.integer(kCtxTensor, 8, scale.level - level);
    if (level < kLevelLowest || level > kLevelHighest) throw FormatError("A tensor's level is out of range.");
    scale.level = static_cast<int>(level);
    if (scale.shape.levelled()) {
      code_direction(coder, 0, scale.shape.rows, scale.rows);
      code_direction(coder, 1, scale.shape.columns, scale.columns);
    }
  }
}

// A number near an expected one: the difference of their lengths in bits, then the bits below the first.
template <class Coder>
int64_t code_near(Coder& coder, int context, int64_t expected, int64_t value) {
  int64_t length = bit_length(static_cast<uint64_t>(expected));
  length += coder.integer(context, 6, bit_length(static_cast<uint64_t>(value)) - length);
  if (length < 0 || length > 48) throw FormatError("A count is out of range.");
  if (length == 0) return 0;
  const int64_t top = int64_t{1} << (length - 1);
  return top + static_cast<int64_t>(coder.raw(static_cast<int>(length) - 1, static_cast<uint64_t>(value - top)));
}

// The number of non-zeros that a class of this level has by its name.
inline int64_t expected_count(int64_t size, int level) {
  const unsigned __int128 mean = tables().class_means[static_cast<size_t>(level - kClassLowest)];
  return static_cast<int64_t>((mean * static_cast<uint64_t>(size)) >> 32);
}

template <class Coder>
int64_t code_count(Coder& coder, int64_t size, int64_t expected, int64_t count = 0) {
  count = code_near(coder, kCtxCount, expected, count);
  if (count > size) throw FormatError("A class has more non-zeros than coefficients.");
  return count;
}

// Codes the non-zeros of a class, part by part: the first as its level says, the next as those before.
template <class Coder>
class CountCoder {
 public:
  CountCoder(Coder& coder, int level) : coder_(coder), level_(level) {}
  int64_t code(int64_t size, int64_t count = 0) {
    const int64_t expected =
        sizes_ ? static_cast<int64_t>(static_cast<unsigned __int128>(size) * static_cast<uint64_t>(counts_) /
                                      static_cast<uint64_t>(sizes_))
               : expected_count(size, level_);
    count = code_count(coder_, size, expected, count);
    sizes_ += size;
    counts_ += count;
    return count;
  }

 private:
  Coder& coder_;
  int level_;
  int64_t sizes_ = 0, counts_ = 0;
};

template <class Coder>
int64_t code_repeats(Coder& coder, int64_t ones, int64_t most, int64_t repeats = 0) {
  repeats = code_near(coder, kCtxRepeats, ones >> 5, repeats);
  if (repeats > most) throw FormatError("A class has more gaps than coefficients.");
  return repeats;
}

// What the next table of one kind (sparse or dense) will probably be: like the last one of that kind.
struct TablePredictor {
  explicit TablePredictor(bool is_dense) : dense(is_dense), highest(is_dense ? 2 : 0) {
    hazards.fill(24);
    hazards[0] = 30;
  }

  void advance(int to) {
    if (!dense) return;
    for (int& hazard : hazards) {
      const int moved = seen ? hazard - (to - level) : 20 - to;
      hazard = std::max(0, std::min(moved, kLadderTop));
    }
    seen = true;
    level = to;
  }

  template <class Coder>
  Hazards code(Coder& coder, const Hazards& given) {
    const int kind = dense ? 1 : 0;
    const int64_t top =
        highest + coder.integer(kCtxHighest + 8 * kind, 6, static_cast<int64_t>(given.size()) - highest);
    if (top < 0 || top >= kTokens) throw FormatError("A table's highest token is out of range.");
    highest = static_cast<int>(top);
    Hazards result;
    for (int t = 0; t < highest; ++t) {
      const int64_t difference = given.empty() ? 0 : given[static_cast<size_t>(t)] - hazards[t];
      const int context = kCtxHazard + (3 * kind + std::min(t, 2)) * 10;
      const int64_t hazard = hazards[t] + coder.integer(context, 8, difference);
      if (hazard < 0 || hazard > kLadderTop) throw FormatError("A table entry is out of range.");
      hazards[t] = static_cast<int>(hazard);
      result.push_back(static_cast<int>(hazard));
    }
    return result;
  }

  bool dense;
  int highest;
  int level = 0;
  bool seen = false;
  std::array<int, kTokens> hazards{};
};

}  // namespace phloem
