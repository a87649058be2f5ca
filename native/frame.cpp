#include "frame.hpp"

#include <algorithm>

#include "side.hpp"

namespace phloem {

namespace {

std::vector<Scales> read_scales(RangeDecoder& coder, Steps& steps, const std::vector<Output>& outputs) {
  std::vector<Scales> scales(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) scales[i].shape = outputs[i].shape;
  if (steps.weighted) code_importances(coder, scales, steps.importances);
  code_scales(coder, scales);
  if (std::all_of(scales.begin(), scales.end(), [](const Scales& s) { return s.zero; })) {
    throw FormatError("Every tensor of a body that is not all zero is zero.");
  }
  return scales;
}

}  // namespace

Frame::Frame(RangeDecoder& coder, const Steps& given, const std::vector<Output>& outputs,
             const std::vector<Part>& parts)
    : steps({}, 0), counts(parts.size()) {
  Steps all = given;
  scales = read_scales(coder, all, outputs);
  steps = TensorSteps(all, outputs.size());
  for (size_t p = 0; p < parts.size(); ++p) {
    std::array<int64_t, kClasses> sizes{};
    for (const Piece& piece : parts[p]) {
      const Scales& scale = scales[piece.tensor];
      if (scale.zero) continue;
      const Rows rows(piece, scale);
      add_class_sizes(rows, scale, Groups(scale.columns, rows.width), sizes);
    }
    for (int c = 0; c < kClasses; ++c) counts[p][c].size = sizes[c];
  }
  TablePredictor predictors[2] = {TablePredictor(false), TablePredictor(true)};
  bool present[2][2] = {};
  for (int c = 0; c < kClasses; ++c) {
    const int level = c + kClassLowest;
    const bool dense = is_dense(level);
    ClassTables& known = classes[c];
    int64_t size = 0, ones = 0;
    CountCoder count(coder, level);
    for (auto& part : counts) {
      if (!part[c].size) continue;
      size += part[c].size;
      if (dense) continue;
      part[c].ones = count.code(part[c].size);
      ones += part[c].ones;
    }
    known.coded = dense ? size > 0 : ones > 0;
    if (!known.coded) continue;
    if (!dense) {
      known.shift = gap_shift(size - ones, ones);
      for (auto& part : counts) {
        if (!part[c].ones) continue;
        part[c].repeats = code_repeats(coder, part[c].ones, part[c].size / (int64_t{kGapRepeat} << known.shift));
      }
      known.gaps = gap_table(size - ones, ones, known.shift);
    }
    predictors[dense].advance(level);
    const Hazards hazards = predictors[dense].code(coder, {});
    if (!hazards.empty()) known.tokens = hazard_table(hazards);
    present[dense][0] = true;
    present[dense][1] |= dense || !hazards.empty();
  }
  for (int kind = 0; kind < 2; ++kind) {
    for (int magnitude = 0; magnitude < 2; ++magnitude) {
      if (present[kind][magnitude]) centres[kind][magnitude] += static_cast<int>(coder.raw(6)) + kCentroidLowest;
    }
  }
}

SmallValues Frame::small_values(size_t tensor) const {
  SmallValues values{};
  for (int kind = 0; kind < 2; ++kind) {
    for (int magnitude = 1; magnitude < 8; ++magnitude) {
      const double in_64ths = magnitude <= 2 ? centres[kind][magnitude - 1] : 64 * magnitude;
      values[kind][magnitude] = static_cast<float>(in_64ths * steps.values[tensor] / 64.0);
    }
  }
  return values;
}

}  // namespace phloem
