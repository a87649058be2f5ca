// Constants, errors and tables that every part of the native kernels shares. The numbers of `Tables` are made in
// Python (phloem/kernels/tables.py) and handed over once, so that both kernels use the same.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace phloem {

constexpr int kLevelLowest = -64, kLevelHighest = 48, kLevelReach = 8;
constexpr int kClassLowest = kLevelLowest - 2 * kLevelReach;
constexpr int kClassHighest = kLevelHighest + 2 * kLevelReach;
constexpr int kClasses = kClassHighest - kClassLowest + 1;
constexpr int kClassParts = 16;
constexpr int kSparseHighest = -8;
constexpr int64_t kLevelsSmallest = 512;
constexpr float kScaleOffset = 0.125f;
constexpr int kCentroidLowest = -16;
constexpr int64_t kMagnitudeHighest = (1 << 24) - 1;
constexpr int kTokens = 16, kGapRepeat = 15, kEscape = 15;
constexpr int64_t kLanesFrom = 20000;
constexpr int kLanes = 32;
constexpr int kLadder = 41, kLadderTop = kLadder - 1;
constexpr int64_t kPartLargest = int64_t{1} << 22;
constexpr uint8_t kFlagAllZero = 1, kFlagImportance = 2;
constexpr int kImportanceReach = 128;
constexpr size_t kStepBytes = 3;

constexpr std::array<int64_t, kTokens> kTokenBase = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 64, 0};
constexpr std::array<int, kTokens> kTokenBits = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 5, 8, 24};
constexpr int64_t kEscapeFrom = 320;

// The bytes are not a body for these shapes; becomes phloem.errors.FormatError.
struct FormatError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Tables {
  std::vector<double> half_octaves, octaves;
  std::vector<int64_t> logs, ladder_costs, class_costs;
  std::vector<uint64_t> class_means;
  std::vector<float> thresholds, offsets;  // kClassParts per class
  std::vector<uint32_t> ladder;
};

inline Tables& tables() {
  static Tables instance;
  return instance;
}

// A step of `significand` * 2^(exponent - 11).
struct Step {
  uint32_t significand;
  int exponent;
};

// The matrix view of a tensor: the first dimension by all others; a vector is one row, and so is a tensor with rows
// longer than a part.
struct Shape {
  int64_t rows, columns;
  int64_t size() const { return rows * columns; }
  bool levelled() const { return rows > 1 && size() >= kLevelsSmallest; }
};

enum Mode : int { kNone = 0, kOctaves = 1, kHalves = 2 };

struct Direction {
  int mode = kNone;
  std::vector<int8_t> levels;  // empty where mode is none: all zero
  int at(int64_t i) const { return mode == kNone ? 0 : levels[static_cast<size_t>(i)]; }
};

struct Scales {
  Shape shape{};
  bool zero = true;
  int level = 0;
  Direction rows, columns;
  int excess = 0;  // of the tensor's scale over its level, in parts of a class; only encoders know
};

inline bool is_dense(int level) { return level > kSparseHighest; }
inline int low_bits(int level) { return level >= 6 ? level / 2 - 2 : 0; }
inline int bit_length(uint64_t value) { return value ? 64 - __builtin_clzll(value) : 0; }

inline int tokenise(int64_t value) {
  if (value < 8) return static_cast<int>(value);
  if (value < 12) return 8 + static_cast<int>((value - 8) >> 1);
  if (value < 16) return 10;
  if (value < 32) return 11 + static_cast<int>((value - 16) >> 3);
  if (value < 64) return 13;
  return value < kEscapeFrom ? 14 : kEscape;
}

}  // namespace phloem
