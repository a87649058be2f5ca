// What a sender still owes after a frame, without decoding it.
#include "codec.hpp"
#include "frame.hpp"
#include "rounding.hpp"
#include "side.hpp"
#include "threads.hpp"

namespace phloem {

namespace {

// The rounding of a row's columns, made once per row level.
class Roundings {
 public:
  Roundings(const Scales& scale, const Groups& columns, const SmallValues& small)
      : scale_(scale), columns_(columns), small_(small) {}

  ColumnRounding at(int row_level) {
    Columns& columns = rows_[static_cast<size_t>(row_level + kLevelReach)];
    if (columns.thresholds.empty()) make(scale_.level + row_level, columns);
    return {columns.thresholds.data(), columns.offsets.data(), columns.ones.data(), columns.twos.data(),
            columns_.order.empty() ? size_t{0} : size_t{1}};
  }

 private:
  struct Columns {
    std::vector<float> thresholds, offsets, ones, twos;
  };

  void make(int level, Columns& into) const {
    const size_t width = columns_.order.empty() ? 1 : columns_.order.size();
    for (auto* values : {&into.thresholds, &into.offsets, &into.ones, &into.twos}) values->resize(width);
    for (const Group& group : columns_.groups) {
      const size_t at = rounding_at(level + group.level, scale_.excess);
      const bool dense = is_dense(level + group.level);
      const int64_t count = columns_.order.empty() ? 1 : group.count;
      for (int64_t j = group.start; j < group.start + count; ++j) {
        const size_t column = columns_.order.empty() ? 0 : columns_.order[static_cast<size_t>(j)];
        into.thresholds[column] = tables().thresholds[at];
        into.offsets[column] = tables().offsets[at];
        into.ones[column] = small_[dense][1];
        into.twos[column] = small_[dense][2];
      }
    }
  }

  const Scales& scale_;
  const Groups& columns_;
  const SmallValues& small_;
  std::array<Columns, 2 * kLevelReach + 1> rows_;
};

void subtract(float* x, const Piece& piece, const Frame& frame, const Loops& loops) {
  const Scales& scale = frame.scales[piece.tensor];
  const Rows rows(piece, scale);
  const Groups columns(scale.columns, rows.width);
  const SmallValues small = frame.small_values(piece.tensor);
  Roundings roundings(scale, columns, small);
  const auto most = static_cast<float>(frame.steps.magnitude_highest);
  for (int64_t r = rows.first; r < rows.first + rows.count; ++r, x += rows.width) {
    loops.subtract_quantised(x, static_cast<size_t>(rows.width), roundings.at(scale.rows.at(r)),
                             frame.steps.inverse(piece.tensor), most, frame.steps.step(piece.tensor));
  }
}

// What the encoder knew of every tensor's scale and the body does not say.
void measure(const std::vector<Output>& tensors, const std::vector<Part>& parts, Frame& frame, const Loops& loops,
             int threads) {
  std::vector<std::vector<int64_t>> sums(parts.size());
  in_parallel(parts.size(), threads, [&](size_t p) {
    for (const Piece& piece : parts[p]) {
      const float* x = tensors[piece.tensor].data + piece.start;
      const auto count = static_cast<size_t>(piece.stop - piece.start);
      const float inverse = frame.steps.inverse(piece.tensor);
      const bool zero = frame.scales[piece.tensor].zero;
      sums[p].push_back(zero ? 0 : static_cast<int64_t>(loops.coarse(x, count, inverse, nullptr)));
    }
  });
  std::vector<int64_t> totals(tensors.size());
  for (size_t p = 0; p < parts.size(); ++p) {
    for (size_t i = 0; i < parts[p].size(); ++i) totals[parts[p][i].tensor] += sums[p][i];
  }
  for (size_t tensor = 0; tensor < tensors.size(); ++tensor) {
    Scales& scale = frame.scales[tensor];
    if (totals[tensor] > 0) scale.excess = excess_of(totals[tensor], scale.shape.size(), scale.level);
  }
}

}  // namespace

void subtract_encoded(std::span<const uint8_t> body, const Steps& steps, std::vector<Output>& outputs,
                      const std::vector<Part>& parts, const Loops& loops, int threads) {
  RangeDecoder coder(kContexts, body.data(), kStepBytes, body.size());
  Frame frame(coder, steps, outputs, parts);
  measure(outputs, parts, frame, loops, threads);
  in_parallel(parts.size(), threads, [&](size_t p) {
    for (const Piece& piece : parts[p]) {
      if (!frame.scales[piece.tensor].zero) {
        subtract(outputs[piece.tensor].data + piece.start, piece, frame, loops);
      }
    }
  });
}

}  // namespace phloem
