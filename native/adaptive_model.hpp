// The models behind the adaptive coder: adaptive probabilities, their logistic mixture, and a tensor's surroundings.
#pragma once

#include <cstddef>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "adaptive.hpp"
#include "arithmetic.hpp"

namespace phloem {

// For places before a row's first: rows have room in front, but an unsigned sum below zero is nobody's address.
inline std::ptrdiff_t signed_place(size_t k) { return static_cast<std::ptrdiff_t>(k); }

constexpr uint32_t kShareOne = 1u << kShareBits, kShareLeast = 32;

inline uint32_t safe_share(uint32_t share) { return std::clamp(share, kShareLeast, kShareOne - kShareLeast); }

// The probability of a one in 22 bits, and in ten more how often it was used.
struct Chance {
  uint32_t state = 1u << 31;
  uint32_t share() const { return state >> 10; }
  void learn(bool bit, const uint32_t* rates) {
    const uint32_t used = state & 1023;
    const auto share = static_cast<int64_t>(state >> 10);
    const int64_t target = bit ? int64_t{kShareOne} : 0;
    const int64_t moved = share + (((target - share) * int64_t{rates[used]}) >> 16);
    state = static_cast<uint32_t>(moved) << 10 | (used < 255 ? used + 1 : used);
  }
};

// Sixteen times the logarithm to base two of a positive number, from its seven leading bits.
inline int log16(uint64_t value, const uint8_t* table) {
  const int top = 63 - __builtin_clzll(value);
  const uint64_t lead = top >= 6 ? value >> (top - 6) : value << (6 - top);
  return 16 * top + table[lead & 63];
}

// Predictions of several contexts, mixed in the logistic domain by weights that learn.
template <int kContexts, int kExtras>
class Mixer {
 public:
  static constexpr int kInputs = kContexts + kExtras;

  Mixer(std::array<size_t, kContexts> sizes, int32_t weight, int rate) : rate_(rate) {
    for (int i = 0; i < kContexts; ++i) chances_[i].resize(sizes[i]);
    for (int i = 0; i < kInputs; ++i) weights_[i] = i < kContexts ? weight : 0;
  }

  struct Prediction {
    std::array<Chance*, kContexts> chances;
    std::array<int32_t, kInputs> inputs;
    int one;  // in 65,536ths
    uint32_t share() const { return static_cast<uint32_t>(one) << 6; }
  };

  Prediction predict(const LogisticTables& tables, const std::array<int, kContexts>& contexts,
                     const std::array<int, kExtras>& extras) {
    Prediction found;
    for (int i = 0; i < kContexts; ++i) {
      found.chances[i] = &chances_[i][static_cast<size_t>(contexts[i])];
      found.inputs[i] = stretch(found.chances[i]->share(), tables);
    }
    for (int i = 0; i < kExtras; ++i) found.inputs[kContexts + i] = extras[i];
    int64_t sum = 0;
    for (int i = 0; i < kInputs; ++i) sum += int64_t{weights_[i]} * found.inputs[i];
    const auto mixed = static_cast<int>(std::clamp<int64_t>((sum + 32768) >> 16, -kStretchMost, kStretchMost));
    found.one = tables.squash[static_cast<size_t>(mixed + kStretchMost)];
    return found;
  }

  template <class Coder>
  bool code(Coder& coder, const LogisticTables& tables, const Prediction& prediction, bool bit) {
    bit = coder.bit(prediction.share(), bit);
    const int32_t error = (((bit ? 65536 : 0) - prediction.one) * rate_) >> 4;
    for (int i = 0; i < kInputs; ++i) {
      const int32_t moved = weights_[i] + ((prediction.inputs[i] * error + 8192) >> 14);
      weights_[i] = std::clamp(moved, -kWeightMost, kWeightMost);
    }
    for (int i = 0; i < kContexts; ++i) prediction.chances[i]->learn(bit, tables.rates.data());
    return bit;
  }

 private:
  static constexpr int32_t kWeightMost = 1 << 19;

  static int32_t stretch(uint32_t share, const LogisticTables& tables) {
    constexpr uint32_t kTail = kShareOne / 64;
    if (share < kTail) return tables.stretch_tail[share >> 4];
    if (share >= kShareOne - kTail) return -tables.stretch_tail[(kShareOne - 1 - share) >> 4];
    return tables.stretch_middle[share >> 10];
  }

  std::array<std::vector<Chance>, kContexts> chances_;
  std::array<int32_t, kInputs> weights_;
  int rate_;
};

// What is known around a coefficient when it is coded. Units: positions on the grid of half steps; logarithms in
// sixteenths of an octave.
class Surroundings {
 public:
  Surroundings(int64_t columns, int level, const LogisticTables& tables)
      : tables_(tables),
        width_(static_cast<size_t>(columns)),
        first_(level >= 0 ? uint64_t{65536} << level : std::max<uint64_t>(uint64_t{65536} >> -level, 4)),
        sums(width_, 0),
        column_logs(width_, static_cast<int16_t>(log16(kPrior, log()))),
        trends(width_, 0),
        tilts(width_, 0),
        above(width_, 0),
        pairs(width_, 0),
        weights(width_, 0),
        lines_(3 * (width_ + 2 * kPad), 0) {
    for (int i = 0; i < 3; ++i) rows_[i] = lines_.data() + static_cast<size_t>(i) * (width_ + 2 * kPad) + kPad;
  }

  void begin_row() {
    mean_ = std::clamp<uint64_t>(((total_ << 16) + first_ * 100) / (seen_ + 100), 2, uint64_t{1} << 30);
    mean_log = log16(mean_, log()) - 256;
    expected_log = log16((expected_ >> 8) + kPrior, log());
    row_sum_ = 0;
    row_trend = row_tilt = 0;
    std::memset(rows_[0], 0, width_);
    found_.clear();
    if (filled_[1] || filled_[2]) {
      gather_above();
    } else if (gathered_) {
      std::fill(above.begin(), above.end(), 0);
      std::fill(pairs.begin(), pairs.end(), 0);
      std::fill(weights.begin(), weights.end(), 0);
      gathered_ = false;
    }
  }
  // The row's logarithm before column k; asked for at every eighth column and after every non-zero.
  int row_log(int64_t k) const {
    const uint64_t expected = static_cast<uint64_t>(k) * mean_;
    return log16((row_sum_ << 8) + kPrior, log()) - log16((expected >> 8) + kPrior, log());
  }
  void add(int64_t k, int position, bool negative) {
    const auto at = static_cast<size_t>(k);
    const int shown = std::min(position, 127);
    rows_[0][k] = static_cast<int8_t>(negative ? -shown : shown);
    const auto counted = static_cast<uint32_t>(std::min(position, 4095));
    row_sum_ += counted;
    total_ += counted;
    sums[at] += counted;
    column_logs[at] = column_log(sums[at]);
    const int sign = negative ? -16 : 16;
    row_trend += sign - (row_trend >> 3);
    trends[at] = static_cast<int16_t>(trends[at] + sign - (trends[at] >> 3));
    row_tilt += (negative ? -tilts[at] : tilts[at]) - (row_tilt >> 4);
    found_.push_back(static_cast<uint32_t>(k));
  }
  void end_row(int64_t row, int64_t length) {
    for (const uint32_t k : found_) {
      const int sign = (rows_[0][k] < 0) == (row_tilt < 0) ? 16 : -16;
      tilts[k] = static_cast<int16_t>(tilts[k] + sign - (tilts[k] >> 3));
    }
    expected_ += mean_;
    seen_ += static_cast<uint64_t>(length);
    if (row % 256 == 255) {
      for (size_t k = 0; k < width_; ++k) {
        sums[k] -= sums[k] >> 2;
        column_logs[k] = column_log(sums[k]);
      }
      expected_ -= expected_ >> 2;
    }
    if (row % 32 == 31) {
      total_ -= total_ >> 2;
      seen_ -= seen_ >> 2;
    }
    filled_[2] = filled_[1];
    filled_[1] = !found_.empty();
    int8_t* oldest = rows_[2];
    rows_[2] = rows_[1];
    rows_[1] = rows_[0];
    rows_[0] = oldest;
  }
  const int8_t* row(int back) const { return rows_[back]; }
  uint64_t mean() const { return mean_; }
  // How far the row's signs and the column's agree with those of the rows before, as one number.
  int tilt(int64_t k) const { return tilts[static_cast<size_t>(k)] * row_tilt / (std::abs(row_tilt) + 32); }

  const uint8_t* log() const { return tables_.log16.data(); }

 private:
  static constexpr size_t kPad = 3;
  static constexpr uint64_t kPrior = 2 << 8;

  const LogisticTables& tables_;
  size_t width_;
  uint64_t first_, total_ = 0, seen_ = 0, expected_ = 0, mean_ = 0, row_sum_ = 0;
  bool filled_[3] = {}, gathered_ = false;

 public:
  std::vector<uint32_t> sums;
  std::vector<int16_t> column_logs, trends, tilts;
  std::vector<uint8_t> above, pairs;
  std::vector<uint16_t> weights;
  int mean_log = 0, expected_log = 0, row_trend = 0, row_tilt = 0;

 private:
  int16_t column_log(uint32_t sum) const {
    return static_cast<int16_t>(log16((uint64_t{sum} << 8) + kPrior, log()));
  }
  void gather_above() {
    const int8_t* up = rows_[1];
    const int8_t* far = rows_[2];
    for (size_t k = 0; k < width_; ++k) {
      const int here = std::abs(up[k]), left = std::abs(up[signed_place(k) - 1]), right = std::abs(up[k + 1]);
      const int beyond = std::abs(far[k]);
      const int magnitude = std::min((here + 1) >> 1, 2), second = (beyond + 1) >> 1;
      above[k] = static_cast<uint8_t>(2 * magnitude + (left > 0) + (right > 0) + (beyond > 0));
      pairs[k] = static_cast<uint8_t>(3 * magnitude + std::min(second, 2));
      weights[k] = static_cast<uint16_t>(8 * here + 4 * left + 4 * right + 5 * beyond);
    }
    gathered_ = true;
  }

  std::vector<int8_t> lines_;
  int8_t* rows_[3];
  std::vector<uint32_t> found_;
};

}  // namespace phloem
