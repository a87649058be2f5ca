#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>

#include "bits.hpp"
#include "codec.hpp"
#include "models.hpp"
#include "rangecoder.hpp"
#include "rans.hpp"
#include "scales.hpp"
#include "side.hpp"

namespace phloem {

namespace {

// What one class contributes to each part of the body.
struct ClassStream {
  int level = 0;
  int64_t size = 0;
  std::vector<uint8_t> tokens;  // dense: one per coefficient; sparse: one per non-zero
  Histogram histogram{};
  BitWriter extra, signs;
  // sparse only
  std::vector<uint64_t> gaps;
  int64_t seen = 0;   // coefficients of this class before the current row
  int64_t after = 0;  // one past the last non-zero
  std::vector<uint8_t> gap_tokens;
  BitWriter gap_bits;
};

struct CentroidSums {
  int64_t total[2][2] = {}, count[2][2] = {};  // (sparse or dense, magnitude 1 or 2); totals in 1024ths
  bool sent[2][2] = {};
};

class Encoder {
 public:
  Encoder(const std::vector<Tensor>& tensors, const Step& step, const Loops& loops)
      : tensors_(tensors), step_(step), loops_(loops) {}

  std::string run(bool& all_zero) {
    measure();
    all_zero = std::all_of(scales_.begin(), scales_.end(), [](const Scales& s) { return s.zero; });
    if (all_zero) return {};
    const auto sizes = class_sizes(scales_);
    for (int c = 0; c < kClasses; ++c) {
      if (!sizes[c]) continue;
      classes_[c] = std::make_unique<ClassStream>();
      classes_[c]->level = c + kClassLowest;
      classes_[c]->size = sizes[c];
      if (is_dense(c + kClassLowest)) classes_[c]->tokens.resize(static_cast<size_t>(sizes[c]));
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (!scales_[i].zero) quantise(tensors_[i], scales_[i]);
    }
    return write();
  }

 private:
  ClassStream& stream(int level) { return *classes_[static_cast<size_t>(level - kClassLowest)]; }

  void measure() {
    for (const Tensor& tensor : tensors_) {
      Scales scale;
      scale.shape = tensor.shape;
      if (tensor.shape.size()) measure(tensor, scale);
      scales_.push_back(std::move(scale));
    }
  }

  void measure(const Tensor& tensor, Scales& scale) {
    const int64_t rows = tensor.shape.rows, columns = tensor.shape.columns;
    const bool levelled = tensor.shape.levelled();
    const auto width = static_cast<size_t>(columns);
    std::vector<int64_t> row_sums(levelled ? static_cast<size_t>(rows) : 0);
    std::vector<int64_t> column_sums(levelled ? width : 0);
    std::vector<uint32_t> recent(levelled ? width : 0);  // of at most 128 rows
    int64_t total = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = tensor.data + r * columns;
      const auto sum = static_cast<int64_t>(
          loops_.coarse(row, width, step_.inverse, levelled ? recent.data() : nullptr));
      total += sum;
      if (!levelled) continue;
      row_sums[static_cast<size_t>(r)] = sum;
      if (r % 128 == 127 || r == rows - 1) {
        for (size_t c = 0; c < width; ++c) column_sums[c] += recent[c];
        std::fill(recent.begin(), recent.end(), 0);
      }
    }
    scale.zero = total == 0;
    if (scale.zero) return;
    scale.level = tensor_level(total, tensor.shape.size());
    if (!levelled) return;
    scale.rows = choose_direction(row_sums, columns, total, scale.level);
    scale.columns = choose_direction(column_sums, rows, total, scale.level);
  }

  void quantise(const Tensor& tensor, const Scales& scale) {
    const Groups columns(scale.columns, tensor.shape.columns);
    std::array<std::vector<float>, 2 * kLevelReach + 1> thresholds;  // per row level, where it was needed
    for (int64_t r = 0; r < tensor.shape.rows; ++r) {
      const float* row = tensor.data + r * tensor.shape.columns;
      const int level = scale.level + scale.rows.at(r);
      bool sparse = false;
      for (const Group& group : columns.groups) {
        if (is_dense(level + group.level)) {
          quantise_dense(row, columns, group, stream(level + group.level));
        } else {
          sparse = true;
        }
      }
      if (!sparse) continue;
      auto& wanted = thresholds[static_cast<size_t>(scale.rows.at(r) + kLevelReach)];
      if (wanted.empty()) wanted = column_thresholds(level, scale.columns, columns, tensor.shape.columns);
      quantise_sparse(row, tensor.shape.columns, level, scale.columns, columns, wanted);
      for (const Group& group : columns.groups) {
        if (!is_dense(level + group.level)) stream(level + group.level).seen += group.count;
      }
    }
  }

  static std::vector<float> column_thresholds(int level, const Direction& direction, const Groups& columns,
                                              int64_t count) {
    if (direction.mode == kNone) return {tables().class_thresholds[static_cast<size_t>(level - kClassLowest)]};
    std::vector<float> thresholds(static_cast<size_t>(count));
    for (const Group& group : columns.groups) {
      const int at = level + group.level;
      const float threshold = is_dense(at) ? std::numeric_limits<float>::infinity()
                                           : tables().class_thresholds[static_cast<size_t>(at - kClassLowest)];
      for (int64_t j = group.start; j < group.start + group.count; ++j) {
        thresholds[columns.order[static_cast<size_t>(j)]] = threshold;
      }
    }
    return thresholds;
  }

  void quantise_dense(const float* row, const Groups& columns, const Group& group, ClassStream& into) {
    const auto at = static_cast<size_t>(into.level - kClassLowest);
    const float threshold = tables().class_thresholds[at], offset = tables().class_offsets[at];
    const auto most = static_cast<float>(step_.magnitude_highest);
    const int low = low_bits(into.level);
    for (int64_t done = 0; done < group.count; done += static_cast<int64_t>(kChunk)) {
      const auto n = static_cast<size_t>(std::min<int64_t>(kChunk, group.count - done));
      const float* x = row + group.start + done;
      if (!columns.order.empty()) {
        const uint32_t* order = columns.order.data() + group.start + done;
        for (size_t j = 0; j < n; ++j) gathered_[j] = row[order[j]];
        x = gathered_.data();
      }
      const Quantised found =
          loops_.quantise(x, n, step_.inverse, threshold, offset, most, magnitudes_.data());
      for (int size = 0; size < 2; ++size) {
        sums_.count[1][size] += found.counts[size];
        sums_.total[1][size] += found.sums[size];
      }
      uint8_t* tokens = into.tokens.data() + into.seen;
      into.seen += static_cast<int64_t>(n);
      if (low == 0 && found.largest < 8) {
        for (size_t j = 0; j < n; ++j) tokens[j] = static_cast<uint8_t>(magnitudes_[j]);
      } else {
        BitWriter extra = std::move(into.extra);  // a local object stays in registers
        for (size_t j = 0; j < n; ++j) {
          const int64_t magnitude = magnitudes_[j];
          const int token = tokenise(magnitude >> low);
          tokens[j] = static_cast<uint8_t>(token);
          const int width = kTokenBits[token] + low;
          if (width) extra.put(static_cast<uint64_t>(magnitude - (kTokenBase[token] << low)), width);
        }
        into.extra = std::move(extra);
      }
      add_histogram({tokens, n}, into.histogram);
      BitWriter signs = std::move(into.signs);
      for (size_t j = 0; j < n; ++j) {
        const bool counts = magnitudes_[j] != 0;
        signs.put(counts & std::signbit(x[j]), counts);
      }
      into.signs = std::move(signs);
    }
  }

  void quantise_sparse(const float* row, int64_t count, int level, const Direction& direction,
                       const Groups& columns, const std::vector<float>& thresholds) {
    const size_t stride = direction.mode == kNone ? 0 : 1;
    const auto most = static_cast<float>(step_.magnitude_highest);
    for (int64_t start = 0; start < count; start += static_cast<int64_t>(kChunk)) {
      const auto n = static_cast<size_t>(std::min<int64_t>(kChunk, count - start));
      const size_t found = loops_.scan(row + start, thresholds.data() + (stride ? start : 0), stride, n,
                                       step_.inverse, hits_.data());
      for (size_t h = 0; h < found; ++h) {
        const int64_t column = start + hits_[h];
        ClassStream& into = stream(level + direction.at(column));
        const int64_t rank = stride ? columns.rank[static_cast<size_t>(column)] : column;
        add_event(into, into.seen + rank, row[column], most);
      }
    }
  }

  void add_event(ClassStream& into, int64_t place, float x, float most) {
    const auto at = static_cast<size_t>(into.level - kClassLowest);
    const float scaled = std::fabs(x) * step_.inverse;
    const float shifted = scaled + tables().class_offsets[at];
    const int64_t magnitude = std::max<int64_t>(1, static_cast<int64_t>(shifted < most ? shifted : most));
    if (magnitude <= 2) {
      const auto size = static_cast<size_t>(magnitude - 1);
      sums_.count[0][size] += 1;
      sums_.total[0][size] += static_cast<int64_t>(scaled * 1024.0f);
    }
    into.gaps.push_back(static_cast<uint64_t>(place - into.after));
    into.after = place + 1;
    into.signs.put(std::signbit(x), 1);
    const int token = tokenise(magnitude - 1);
    into.tokens.push_back(static_cast<uint8_t>(token));
    ++into.histogram[token];
    into.extra.put(static_cast<uint64_t>(magnitude - 1 - kTokenBase[token]), kTokenBits[token]);
  }

  std::string write() {
    RangeEncoder coder(kContexts);
    code_scales(coder, scales_);
    TablePredictor predictors[2] = {TablePredictor(false), TablePredictor(true)};
    std::vector<Run> runs;
    for (auto& part : classes_) {
      if (part) write_class(coder, *part, predictors[is_dense(part->level)], runs);
    }
    write_centroids(coder);
    int64_t total = 0;
    for (const Run& run : runs) total += static_cast<int64_t>(run.tokens.size());
    if (total < kLanesFrom) {
      for (const Run& run : runs) {
        for (uint8_t token : run.tokens) coder.symbol(run.table.starts[token], run.table.frequencies[token]);
      }
    }
    std::string body = std::move(coder.finish());
    if (total >= kLanesFrom) rans_encode(runs, body);
    BitWriter raw;
    for (const auto& part : classes_) if (part) raw.append(part->gap_bits);
    for (const auto& part : classes_) if (part) raw.append(part->extra);
    for (const auto& part : classes_) if (part) raw.append(part->signs);
    raw.finish(body);
    return body;
  }

  void write_class(RangeEncoder& coder, ClassStream& part, TablePredictor& predictor, std::vector<Run>& runs) {
    const bool dense = is_dense(part.level);
    if (!dense) {
      const auto ones = static_cast<int64_t>(part.gaps.size());
      code_count(coder, part.size, part.level, ones);
      if (ones == 0) return;
      const int shift = gap_shift(part.size - ones, ones);
      write_gaps(part, shift);
      const auto repeats = static_cast<int64_t>(part.gap_tokens.size()) - ones;
      code_repeats(coder, ones, part.size / (int64_t{kGapRepeat} << shift), repeats);
      runs.push_back({part.gap_tokens, gap_table(part.size - ones, ones, shift)});
    }
    predictor.advance(part.level);
    const Hazards hazards = choose_hazards(part.histogram, predictor.hazards);
    predictor.code(coder, hazards);
    sums_.sent[dense][0] = true;
    sums_.sent[dense][1] |= dense || !hazards.empty();
    if (!hazards.empty()) runs.push_back({part.tokens, hazard_table(hazards)});
  }

  static void write_gaps(ClassStream& part, int shift) {
    const uint64_t block = uint64_t{kGapRepeat} << shift;
    for (uint64_t gap : part.gaps) {
      for (; gap >= block; gap -= block) part.gap_tokens.push_back(kGapRepeat);
      part.gap_tokens.push_back(static_cast<uint8_t>(gap >> shift));
      part.gap_bits.put(gap & ((uint64_t{1} << shift) - 1), shift);
    }
  }

  void write_centroids(RangeEncoder& coder) {
    for (int kind = 0; kind < 2; ++kind) {
      for (int size = 0; size < 2; ++size) {
        if (!sums_.sent[kind][size]) continue;
        int64_t centre = 0;  // in 64ths
        if (const int64_t count = sums_.count[kind][size]; count) {
          centre = (2 * sums_.total[kind][size] + 16 * count) / (32 * count);
        }
        const int64_t code = centre - 64 * (size + 1) - kCentroidLowest;
        coder.raw(6, static_cast<uint64_t>(std::max<int64_t>(0, std::min<int64_t>(code, 63))));
      }
    }
  }

  const std::vector<Tensor>& tensors_;
  const Step& step_;
  const Loops& loops_;
  std::vector<Scales> scales_;
  std::array<std::unique_ptr<ClassStream>, kClasses> classes_;
  CentroidSums sums_;
  std::vector<float> gathered_ = std::vector<float>(kChunk);
  std::vector<int32_t> magnitudes_ = std::vector<int32_t>(kChunk);
  std::vector<uint32_t> hits_ = std::vector<uint32_t>(kChunk);
};

}  // namespace

std::string encode(const std::vector<Tensor>& tensors, const Step& step, const Loops& loops) {
  bool all_zero = false;
  const std::string rest = Encoder(tensors, step, loops).run(all_zero);
  const uint32_t head = static_cast<uint32_t>(step.exponent + 127) << 16 | (step.significand - 2048) << 5 |
                        (all_zero ? kFlagAllZero : 0);
  std::string body;
  body.reserve(kStepBytes + rest.size());
  for (int shift = 16; shift >= 0; shift -= 8) body.push_back(static_cast<char>(head >> shift));
  return body + rest;
}

}  // namespace phloem
