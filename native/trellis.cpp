#include "trellis.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "scales.hpp"

namespace phloem {

namespace {

constexpr size_t kWindow = 1 << 16;
constexpr int64_t kCostHighest = (1 << 22) - 1;
constexpr int32_t kUnreached = 1 << 28;

using Grids = std::array<std::array<int64_t, kTokens>, 2>;

int64_t log2_q16(int64_t number) {
  const int exponent = bit_length(static_cast<uint64_t>(number)) - 1;
  const auto lead = static_cast<uint64_t>((static_cast<unsigned __int128>(number) << 12) >> exponent);
  return (int64_t{exponent} << 16) + tables().logs[lead - 4096];
}

class Quantiser {
 public:
  Quantiser(const std::vector<Tensor>& tensors, const GridStep& step, int states, int weight, const TrellisLoops& loops,
            std::span<int32_t* const> indices)
      : tensors_(tensors), step_(step), states_(states), weight_(weight), loops_(loops), indices_(indices) {
    const auto& next = states == 8 ? kTrellis8 : kTrellis4;
    for (int s = 0; s < states; ++s) {
      for (int parity = 0; parity < 2; ++parity) {
        const int kind = s >= states / 2 ? (parity ? 1 : 3) : (parity ? 2 : 0);
        before_[next[s][parity]][parity] = {static_cast<uint8_t>(s), static_cast<uint8_t>(kind)};
      }
    }
  }

  void run() {
    measure([this](size_t tensor, int64_t at, size_t n, uint32_t* columns) {
      return loops_.coarse(tensors_[tensor].data + at, n, step_.inverse, columns);
    });
    geometric_costs();
    for (int pass = 0; pass < (weight_ < 128 ? 2 : 3); ++pass) {
      if (pass) {
        measure([this](size_t tensor, int64_t at, size_t n, uint32_t* columns) {
          return loops_.magnitudes(indices_[tensor] + at, n, columns);
        });
        measured_costs();
      }
      for (size_t i = 0; i < tensors_.size(); ++i) {
        if (scales_[i].zero) {
          std::fill_n(indices_[i], tensors_[i].shape.size(), 0);
        } else {
          sweep(i);
        }
      }
    }
  }

 private:
  struct Arrival {
    uint8_t state, kind;
  };

  template <class Sum>
  void measure(const Sum& sum) {
    scales_.clear();
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const Shape shape = tensors_[i].shape;
      Scales scale;
      scale.shape = shape;
      const bool levelled = shape.levelled();
      const auto width = static_cast<size_t>(shape.columns);
      std::vector<int64_t> row_sums(levelled ? static_cast<size_t>(shape.rows) : 0);
      std::vector<int64_t> column_sums(levelled ? width : 0);
      std::vector<uint32_t> recent(levelled ? width : 0);  // of at most 128 rows
      int64_t total = 0;
      for (int64_t r = 0; r < shape.rows && width; ++r) {
        const auto found = static_cast<int64_t>(sum(i, r * shape.columns, width, levelled ? recent.data() : nullptr));
        total += found;
        if (!levelled) continue;
        row_sums[static_cast<size_t>(r)] = found;
        if (r % 128 == 127 || r == shape.rows - 1) {
          for (size_t c = 0; c < width; ++c) column_sums[c] += recent[c];
          std::fill(recent.begin(), recent.end(), 0);
        }
      }
      scale.zero = total == 0;
      if (!scale.zero) {
        scale.level = tensor_level(total, shape.size());
        if (levelled) {
          scale.rows = choose_direction(row_sums, shape.columns, total, scale.level);
          scale.columns = choose_direction(column_sums, shape.rows, total, scale.level);
        }
      }
      scales_.push_back(std::move(scale));
    }
  }

  void geometric_costs() {
    costs_.resize(size_t{kClasses} * 2 * kTrellisRates);
    for (int c = 0; c < kClasses; ++c) {
      const int64_t zero = tables().class_costs[static_cast<size_t>(c)];
      const int64_t rise = std::min<int64_t>(zero - int64_t{c + kClassLowest} * 32768, 16 << 16);
      for (int index = 0; index < kTrellisRates; ++index) {
        const int32_t cost = weighted(zero + rise * index + (index ? 1 << 16 : 0));
        for (int grid = 0; grid < 2; ++grid) cost_table(c, grid)[index] = cost;
      }
    }
  }

  void measured_costs() {
    std::vector<Grids> counts(kClasses, Grids{});
    std::array<uint8_t, kTrellisBlock> classes;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (scales_[i].zero) continue;
      TrellisState state(states_);
      const auto size = static_cast<size_t>(tensors_[i].shape.size());
      for (size_t start = 0; start < size; start += kTrellisBlock) {
        const size_t n = std::min(kTrellisBlock, size - start);
        fill_classes(scales_[i], start, n, classes.data());
        for (size_t j = 0; j < n; ++j) {
          const int32_t index = indices_[i][start + j];
          ++counts[classes[j]][state.odd_grid()][static_cast<size_t>(tokenise(std::abs(index)))];
          state.advance(index);
        }
      }
    }
    for (size_t c = 0; c < kClasses; ++c) {
      for (size_t grid = 0; grid < 2; ++grid) {
        std::array<int64_t, kTokens> smooth{};
        int64_t own = 0, whole = 0;
        for (size_t t = 0; t < kTokens; ++t) {
          own += counts[c][grid][t];
          smooth[t] = 16 * counts[c][grid][t] + 1;
          if (c) smooth[t] += 2 * counts[c - 1][grid][t];
          if (c + 1 < kClasses) smooth[t] += 2 * counts[c + 1][grid][t];
          whole += smooth[t];
        }
        if (!own) continue;
        int32_t* table = cost_table(static_cast<int>(c), static_cast<int>(grid));
        for (int index = 0; index < kTrellisRates; ++index) {
          const auto token = static_cast<size_t>(tokenise(index));
          const int64_t extra = int64_t{kTokenBits[token] + (index ? 1 : 0)} << 16;
          table[index] = weighted(log2_q16(whole) - log2_q16(smooth[token]) + extra);
        }
      }
    }
  }

  // The classes of `n` coefficients from `start`, row-major.
  static void fill_classes(const Scales& scale, size_t start, size_t n, uint8_t* classes) {
    const auto columns = static_cast<size_t>(scale.shape.columns);
    size_t row = start / columns, column = start % columns;
    while (n) {
      const size_t width = std::min(n, columns - column);
      const int level = scale.level + scale.rows.at(static_cast<int64_t>(row)) - kClassLowest;
      if (scale.columns.mode == kNone) {
        std::fill_n(classes, width, static_cast<uint8_t>(level));
      } else {
        const int8_t* levels = scale.columns.levels.data() + column;
        for (size_t c = 0; c < width; ++c) classes[c] = static_cast<uint8_t>(level + levels[c]);
      }
      classes += width;
      n -= width;
      column = 0;
      ++row;
    }
  }

  int32_t weighted(int64_t rate) const {
    return static_cast<int32_t>(std::min(rate * weight_ >> 8, kCostHighest));
  }

  int32_t* cost_table(int c, int grid) { return costs_.data() + (2 * c + grid) * kTrellisRates; }

  void sweep(size_t tensor) {
    const auto size = static_cast<size_t>(tensors_[tensor].shape.size());
    const auto highest = static_cast<int32_t>(step_.magnitude_highest);
    std::array<uint8_t, kTrellisBlock> classes;
    std::vector<int32_t> branches(4 * kTrellisBlock);
    std::vector<uint8_t> upper(std::min(size, kWindow)), decisions(upper.size());
    size_t state = 0;
    for (size_t window = 0; window < size; window += kWindow) {
      const size_t count = std::min(kWindow, size - window);
      const float* x = tensors_[tensor].data + window;
      std::array<int32_t, 8> metrics;
      metrics.fill(kUnreached);
      metrics[state] = 0;
      for (size_t start = 0; start < count; start += kTrellisBlock) {
        const size_t n = std::min(kTrellisBlock, count - start);
        fill_classes(scales_[tensor], window + start, n, classes.data());
        loops_.branches(x + start, n, step_.inverse, highest, costs_.data(), classes.data(), branches.data(),
                        upper.data() + start);
        const auto search = states_ == 8 ? loops_.search8 : loops_.search4;
        search(branches.data(), n, metrics.data(), decisions.data() + start);
      }
      const auto last = std::min_element(metrics.begin(), metrics.begin() + states_);
      state = static_cast<size_t>(last - metrics.begin());
      trace(x, count, state, upper.data(), decisions.data(), indices_[tensor] + window);
    }
  }

  // The indices along the best path, from its end.
  void trace(const float* x, size_t n, size_t state, const uint8_t* upper, const uint8_t* decisions,
             int32_t* indices) const {
    const auto most = static_cast<float>(step_.magnitude_highest);
    for (size_t i = n; i-- > 0;) {
      const Arrival arrival = before_[state][decisions[i] >> state & 1];
      state = arrival.state;
      const int kind = arrival.kind;
      const float magnitude = std::fabs(x[i]) * step_.inverse;
      const auto below = static_cast<int32_t>(magnitude < most ? magnitude : most);
      const int32_t position = below - ((below - kind) & 3);
      const int32_t index = ((position + (kind & 1)) >> 1) + 2 * (upper[i] >> kind & 1);
      indices[i] = x[i] < 0.0f ? -index : index;
    }
  }

  const std::vector<Tensor>& tensors_;
  const GridStep& step_;
  const int states_, weight_;
  const TrellisLoops& loops_;
  std::span<int32_t* const> indices_;
  std::array<std::array<Arrival, 2>, 8> before_{};
  std::vector<Scales> scales_;
  std::vector<int32_t> costs_;
};

}  // namespace

void trellis_quantise(const std::vector<Tensor>& tensors, const GridStep& step, int states, int weight,
                      const TrellisLoops& loops, std::span<int32_t* const> indices) {
  Quantiser(tensors, step, states, weight, loops, indices).run();
}

}  // namespace phloem
