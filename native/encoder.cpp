#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "bits.hpp"
#include "codec.hpp"
#include "models.hpp"
#include "rangecoder.hpp"
#include "rans.hpp"
#include "rounding.hpp"
#include "scales.hpp"
#include "side.hpp"
#include "steps.hpp"
#include "threads.hpp"

namespace phloem {

namespace {

// What one class of one part contributes to the body.
struct ClassStream {
  int level = 0;
  int64_t size = 0;
  Buffer<uint8_t> tokens;  // dense: one per coefficient; sparse: one per non-zero
  Histogram histogram{};
  BitWriter extra, signs;
  int64_t seen = 0;  // coefficients of this class before the current row
  // sparse only
  Buffer<uint32_t> gaps;
  int64_t after = 0;  // one past the last non-zero
  Buffer<uint8_t> gap_tokens;
  BitWriter gap_bits;
};

struct CentroidSums {
  int64_t total[2][2] = {}, count[2][2] = {};  // (sparse or dense, magnitude 1 or 2); totals in 1024ths
};

// What one thread works in.
struct Scratch {
  std::array<int32_t, kChunk> magnitudes;
  std::array<uint8_t, kChunk> small, negative;
  std::array<uint32_t, kChunk> hits;
  std::array<uint64_t, kChunk> fields;
  std::array<uint8_t, kChunk> widths;
};

// A part on its way: streams, then bytes.
class PartEncoder {
 public:
  PartEncoder(const Part& pieces, const std::vector<Tensor>& tensors, const std::vector<Scales>& scales,
              const TensorSteps& steps, const Loops& loops)
      : pieces_(pieces), tensors_(tensors), scales_(scales), steps_(steps), loops_(loops) {}

  std::array<std::unique_ptr<ClassStream>, kClasses> classes;
  CentroidSums sums;

  void quantise() {
    std::array<int64_t, kClasses> sizes{};
    for (const Piece& piece : pieces_) {
      const Scales& scale = scales_[piece.tensor];
      if (scale.zero) continue;
      const Rows rows(piece, scale);
      add_class_sizes(rows, scale, Groups(scale.columns, rows.width), sizes);
    }
    for (int c = 0; c < kClasses; ++c) {
      if (!sizes[c]) continue;
      classes[c] = std::make_unique<ClassStream>();
      classes[c]->level = c + kClassLowest;
      classes[c]->size = sizes[c];
      if (!is_dense(c + kClassLowest)) continue;
      classes[c]->tokens.resize(static_cast<size_t>(sizes[c]));
      classes[c]->signs.reserve(static_cast<uint64_t>(sizes[c]));
    }
    const auto scratch = std::make_unique<Scratch>();
    for (const Piece& piece : pieces_) {
      if (!scales_[piece.tensor].zero) quantise(piece, *scratch);
    }
  }

  static void write_gaps(ClassStream& part, int shift) {
    const uint32_t block = static_cast<uint32_t>(kGapRepeat) << shift, low = (1u << shift) - 1;
    part.gap_tokens.reserve(part.gaps.size());
    part.gap_bits.reserve(part.gaps.size() * static_cast<uint64_t>(shift));
    for (uint32_t gap : part.gaps) {
      for (; gap >= block; gap -= block) part.gap_tokens.push_back(kGapRepeat);
      part.gap_tokens.push_back(static_cast<uint8_t>(gap >> shift));
      part.gap_bits.put_reserved(gap & low, shift);
    }
  }

  // The tokens, in the order of the body.
  std::vector<Run> runs(const std::array<TokenTable, kClasses>& gap_tables,
                        const std::array<TokenTable, kClasses>& tables) const {
    std::vector<Run> runs;
    for (int c = 0; c < kClasses; ++c) {
      if (!classes[c]) continue;
      ClassStream& part = *classes[c];
      if (!part.gap_tokens.empty()) runs.push_back({{part.gap_tokens.data(), part.gap_tokens.size()}, &gap_tables[c]});
      if (!part.tokens.empty() && tables[c].count) {
        runs.push_back({{part.tokens.data(), part.tokens.size()}, &tables[c]});
      }
    }
    return runs;
  }

  void write_raw(std::string& out) const {
    BitWriter raw;
    for (const auto& part : classes) if (part) raw.append(part->gap_bits);
    for (const auto& part : classes) if (part) raw.append(part->extra);
    for (const auto& part : classes) if (part) raw.append(part->signs);
    raw.finish(out);
  }

 private:
  ClassStream& stream(int level) { return *classes[static_cast<size_t>(level - kClassLowest)]; }

  Rounding rounding(size_t tensor, int level) const {
    const size_t at = rounding_at(level, scales_[tensor].excess);
    return {steps_.inverse(tensor), tables().thresholds[at], tables().offsets[at],
            static_cast<float>(steps_.magnitude_highest)};
  }

  void quantise(const Piece& piece, Scratch& scratch) {
    const Scales& scale = scales_[piece.tensor];
    const Rows rows(piece, scale);
    const Groups columns(scale.columns, rows.width);
    RowThresholds thresholds(scale, columns, rows.width);
    const float* row = tensors_[piece.tensor].data + piece.start;
    for (int64_t r = rows.first; r < rows.first + rows.count; ++r, row += rows.width) {
      const int level = scale.level + scale.rows.at(r);
      bool sparse = false;
      for (const Group& group : columns.groups) {
        if (is_dense(level + group.level)) {
          quantise_dense(row, columns, group, piece.tensor, stream(level + group.level), scratch);
        } else {
          sparse = true;
        }
      }
      if (!sparse) continue;
      quantise_sparse(row, rows.width, level, piece.tensor, scale.columns, columns, thresholds.at(scale.rows.at(r)),
                      scratch);
      for (const Group& group : columns.groups) {
        if (!is_dense(level + group.level)) stream(level + group.level).seen += group.count;
      }
    }
  }

  void quantise_dense(const float* row, const Groups& columns, const Group& group, size_t tensor, ClassStream& into,
                      Scratch& scratch) {
    const Rounding by = rounding(tensor, into.level);
    const int low = low_bits(into.level);
    for (int64_t done = 0; done < group.count; done += static_cast<int64_t>(kChunk)) {
      const auto n = static_cast<size_t>(std::min<int64_t>(kChunk, group.count - done));
      const bool ordered = !columns.order.empty();
      const float* x = ordered ? row : row + group.start + done;
      const uint32_t* order = ordered ? columns.order.data() + group.start + done : nullptr;
      uint8_t* tokens = into.tokens.data() + into.seen;
      const Quantised found =
          loops_.quantise(x, order, n, by, scratch.magnitudes.data(), scratch.small.data(), scratch.negative.data());
      for (int size = 0; size < 2; ++size) {
        sums.count[1][size] += found.counts[size];
        sums.total[1][size] += found.sums[size];
      }
      into.seen += static_cast<int64_t>(n);
      put_signs(n, into.signs, scratch);
      if (low == 0 && found.largest < 8) {
        std::copy_n(scratch.small.data(), n, tokens);
      } else {
        put_extra_bits(n, low, found.largest, tokens, into.extra, scratch);
      }
    }
  }

  void put_signs(size_t n, BitWriter& signs, Scratch& scratch) const {
    loops_.pack_flags(scratch.small.data(), scratch.negative.data(), n, scratch.fields.data(), scratch.widths.data());
    signs.reserve(n);
    BitWriter local = std::move(signs);  // a local object stays in registers
    for (size_t i = 0; i * 64 < n; ++i) local.put_word_reserved(scratch.fields[i], scratch.widths[i]);
    signs = std::move(local);
  }

  void put_extra_bits(size_t n, int low, int32_t largest, uint8_t* tokens, BitWriter& extra, Scratch& scratch) const {
    const int widest = kTokenBits[tokenise(largest >> low)] + low;
    loops_.tokenise(scratch.magnitudes.data(), n, low, widest, tokens, scratch.fields.data(), scratch.widths.data());
    const size_t fields = 4 * widest > 56 ? n : (n + 3) / 4;
    extra.reserve(n * static_cast<uint64_t>(widest));
    BitWriter local = std::move(extra);
    for (size_t i = 0; i < fields; ++i) local.put_reserved(scratch.fields[i], scratch.widths[i]);
    extra = std::move(local);
  }

  void quantise_sparse(const float* row, int64_t count, int level, size_t tensor, const Direction& direction,
                       const Groups& columns, const std::vector<float>& thresholds, Scratch& scratch) {
    const size_t stride = direction.mode == kNone ? 0 : 1;
    for (int64_t start = 0; start < count; start += static_cast<int64_t>(kChunk)) {
      const auto n = static_cast<size_t>(std::min<int64_t>(kChunk, count - start));
      const size_t found = loops_.scan(row + start, thresholds.data() + (stride ? start : 0), stride, n,
                                       steps_.inverse(tensor), scratch.hits.data());
      for (size_t h = 0; h < found; ++h) {
        const int64_t column = start + scratch.hits[h];
        ClassStream& into = stream(level + direction.at(column));
        const int64_t rank = stride ? columns.rank[static_cast<size_t>(column)] : column;
        add_event(into, into.seen + rank, row[column], rounding(tensor, into.level));
      }
    }
  }

  void add_event(ClassStream& into, int64_t place, float x, const Rounding& by) {
    const float scaled = std::fabs(x) * by.inverse;
    const float shifted = scaled + by.offset;
    const int64_t magnitude = std::max<int64_t>(1, static_cast<int64_t>(shifted < by.most ? shifted : by.most));
    if (magnitude <= 2) {
      const auto size = static_cast<size_t>(magnitude - 1);
      sums.count[0][size] += 1;
      sums.total[0][size] += static_cast<int64_t>(scaled * 1024.0f);
    }
    into.gaps.push_back(static_cast<uint32_t>(place - into.after));
    into.after = place + 1;
    into.signs.put(std::signbit(x), 1);
    const int token = tokenise(magnitude - 1);
    into.tokens.push_back(static_cast<uint8_t>(token));
    ++into.histogram[token];
    into.extra.put(static_cast<uint64_t>(magnitude - 1 - kTokenBase[token]), kTokenBits[token]);
  }

 public:
  // Dense tokens are counted at the end, many at a time.
  void count_tokens() {
    for (auto& part : classes) {
      if (part && is_dense(part->level)) loops_.histogram(part->tokens.data(), part->tokens.size(), part->histogram.data());
    }
  }

 private:
  const Part& pieces_;
  const std::vector<Tensor>& tensors_;
  const std::vector<Scales>& scales_;
  const TensorSteps& steps_;
  const Loops& loops_;
};

class Encoder {
 public:
  Encoder(const std::vector<Tensor>& tensors, const std::vector<Part>& parts, const Steps& steps, const Loops& loops,
          int threads)
      : tensors_(tensors), parts_(parts), steps_(steps), loops_(loops), threads_(threads),
        tensor_steps_(steps, tensors.size()) {}

  std::string run(bool& all_zero) {
    measure();
    all_zero = std::all_of(scales_.begin(), scales_.end(), [](const Scales& s) { return s.zero; });
    if (all_zero) return {};
    coders_.reserve(parts_.size());
    for (const Part& part : parts_) coders_.emplace_back(part, tensors_, scales_, tensor_steps_, loops_);
    in_parallel(coders_.size(), threads_, [&](size_t p) {
      coders_[p].quantise();
      coders_[p].count_tokens();
    });
    for (int c = 0; c < kClasses; ++c) {
      for (const PartEncoder& part : coders_) {
        if (!part.classes[c]) continue;
        sizes_[c] += part.classes[c]->size;
        ones_[c] += static_cast<int64_t>(part.classes[c]->gaps.size());
      }
      if (ones_[c]) shifts_[c] = gap_shift(sizes_[c] - ones_[c], ones_[c]);
    }
    in_parallel(coders_.size(), threads_, [&](size_t p) {
      for (int c = 0; c < kClasses; ++c) {
        if (coders_[p].classes[c]) PartEncoder::write_gaps(*coders_[p].classes[c], shifts_[c]);
      }
    });
    return write();
  }

 private:
  // Sums of one piece's coarse magnitudes.
  struct Measured {
    int64_t total = 0;
    std::vector<int64_t> columns;
  };

  void measure() {
    std::vector<std::vector<int64_t>> row_sums(tensors_.size());
    for (size_t i = 0; i < tensors_.size(); ++i) {
      scales_.emplace_back();
      scales_[i].shape = tensors_[i].shape;
      if (tensors_[i].shape.levelled()) row_sums[i].resize(static_cast<size_t>(tensors_[i].shape.rows));
    }
    std::vector<std::vector<Measured>> found(parts_.size());
    in_parallel(parts_.size(), threads_, [&](size_t p) {
      for (const Piece& piece : parts_[p]) found[p].push_back(measure(piece, row_sums[piece.tensor]));
    });
    std::vector<Measured> sums(tensors_.size());
    for (size_t p = 0; p < parts_.size(); ++p) {
      for (size_t i = 0; i < parts_[p].size(); ++i) {
        Measured& sum = sums[parts_[p][i].tensor];
        Measured& more = found[p][i];
        sum.total += more.total;
        if (sum.columns.empty()) {
          sum.columns = std::move(more.columns);
        } else {
          for (size_t c = 0; c < sum.columns.size(); ++c) sum.columns[c] += more.columns[c];
        }
      }
    }
    in_parallel(tensors_.size(), threads_, [&](size_t i) {
      Scales& scale = scales_[i];
      const int64_t total = sums[i].total;
      scale.zero = total == 0;
      if (scale.zero) return;
      scale.level = tensor_level(total, scale.shape.size());
      scale.excess = excess_of(total, scale.shape.size(), scale.level);
      if (!scale.shape.levelled()) return;
      scale.rows = choose_direction(row_sums[i], scale.shape.columns, total, scale.level);
      scale.columns = choose_direction(sums[i].columns, scale.shape.rows, total, scale.level);
    });
  }

  Measured measure(const Piece& piece, std::vector<int64_t>& row_sums) const {
    const float* x = tensors_[piece.tensor].data + piece.start;
    const Shape& shape = tensors_[piece.tensor].shape;
    const float inverse = tensor_steps_.inverse(piece.tensor);
    Measured found;
    if (!shape.levelled()) {
      found.total = static_cast<int64_t>(loops_.coarse(x, static_cast<size_t>(piece.stop - piece.start), inverse, nullptr));
      return found;
    }
    const auto width = static_cast<size_t>(shape.columns);
    const int64_t first = piece.start / shape.columns, last = piece.stop / shape.columns;
    std::vector<uint32_t> recent(width);  // of at most 128 rows
    found.columns.resize(width);
    for (int64_t r = first; r < last; ++r, x += width) {
      const auto sum = static_cast<int64_t>(loops_.coarse(x, width, inverse, recent.data()));
      found.total += sum;
      row_sums[static_cast<size_t>(r)] = sum;
      if ((r - first) % 128 == 127 || r == last - 1) {
        for (size_t c = 0; c < width; ++c) found.columns[c] += recent[c];
        std::fill(recent.begin(), recent.end(), 0);
      }
    }
    return found;
  }

  std::string write() {
    RangeEncoder coder(kContexts);
    if (steps_.weighted) {
      std::vector<int> importances = steps_.importances;
      code_importances(coder, scales_, importances);
    }
    code_scales(coder, scales_);
    TablePredictor predictors[2] = {TablePredictor(false), TablePredictor(true)};
    for (int c = 0; c < kClasses; ++c) {
      std::vector<ClassStream*> streams;
      for (PartEncoder& part : coders_) {
        if (part.classes[c]) streams.push_back(part.classes[c].get());
      }
      if (!streams.empty()) write_class(coder, c, streams, predictors[is_dense(c + kClassLowest)]);
    }
    write_centroids(coder);
    std::vector<std::string> bytes(coders_.size());
    if (coders_.size() == 1) {
      const auto runs = coders_[0].runs(gap_tables_, tables_);
      write_tokens(coder, runs);
      bytes[0] = std::move(coder.finish());
      if (count(runs) >= kLanesFrom) rans_encode(runs, loops_, bytes[0]);
      coders_[0].write_raw(bytes[0]);
      return std::move(bytes[0]);
    }
    in_parallel(coders_.size(), threads_, [&](size_t p) {
      const auto runs = coders_[p].runs(gap_tables_, tables_);
      RangeEncoder own(0);
      write_tokens(own, runs);
      if (const int64_t tokens = count(runs); tokens >= kLanesFrom) {
        rans_encode(runs, loops_, bytes[p]);
      } else if (tokens) {
        bytes[p] = std::move(own.finish());
      }
      coders_[p].write_raw(bytes[p]);
    });
    std::string body = std::move(coder.finish());
    for (size_t p = 0; p + 1 < bytes.size(); ++p) {
      uint64_t size = bytes[p].size();
      for (; size >= 128; size >>= 7) body.push_back(static_cast<char>(size | 128));
      body.push_back(static_cast<char>(size));
    }
    for (const std::string& part : bytes) body += part;
    return body;
  }

  static int64_t count(const std::vector<Run>& runs) {
    int64_t tokens = 0;
    for (const Run& run : runs) tokens += static_cast<int64_t>(run.tokens.size());
    return tokens;
  }

  // Few tokens take the range coder.
  static void write_tokens(RangeEncoder& coder, const std::vector<Run>& runs) {
    if (count(runs) >= kLanesFrom) return;
    for (const Run& run : runs) {
      for (uint8_t token : run.tokens) coder.symbol(run.table->starts[token], run.table->frequencies[token]);
    }
  }

  void write_class(RangeEncoder& coder, int c, const std::vector<ClassStream*>& streams, TablePredictor& predictor) {
    const int level = c + kClassLowest;
    const bool dense = is_dense(level);
    Histogram histogram{};
    for (const ClassStream* part : streams) {
      for (int t = 0; t < kTokens; ++t) histogram[t] += part->histogram[t];
    }
    if (!dense) {
      CountCoder counts(coder, level);
      for (const ClassStream* part : streams) counts.code(part->size, static_cast<int64_t>(part->gaps.size()));
      if (ones_[c] == 0) return;
      gap_tables_[c] = gap_table(sizes_[c] - ones_[c], ones_[c], shifts_[c]);
      for (const ClassStream* part : streams) {
        const auto own = static_cast<int64_t>(part->gaps.size());
        if (!own) continue;
        const auto repeats = static_cast<int64_t>(part->gap_tokens.size()) - own;
        code_repeats(coder, own, part->size / (int64_t{kGapRepeat} << shifts_[c]), repeats);
      }
    }
    predictor.advance(level);
    const Hazards hazards = choose_hazards(histogram, predictor.hazards);
    predictor.code(coder, hazards);
    sent_[dense][0] = true;
    sent_[dense][1] |= dense || !hazards.empty();
    if (!hazards.empty()) tables_[c] = hazard_table(hazards);
  }

  void write_centroids(RangeEncoder& coder) {
    for (int kind = 0; kind < 2; ++kind) {
      for (int size = 0; size < 2; ++size) {
        if (!sent_[kind][size]) continue;
        int64_t total = 0, count = 0, centre = 0;  // the centre in 64ths
        for (const PartEncoder& part : coders_) {
          total += part.sums.total[kind][size];
          count += part.sums.count[kind][size];
        }
        if (count) centre = (2 * total + 16 * count) / (32 * count);
        const int64_t code = centre - 64 * (size + 1) - kCentroidLowest;
        coder.raw(6, static_cast<uint64_t>(std::max<int64_t>(0, std::min<int64_t>(code, 63))));
      }
    }
  }

  const std::vector<Tensor>& tensors_;
  const std::vector<Part>& parts_;
  const Steps& steps_;
  const Loops& loops_;
  int threads_;
  TensorSteps tensor_steps_;
  std::vector<Scales> scales_;
  std::vector<PartEncoder> coders_;
  std::array<int64_t, kClasses> sizes_{}, ones_{};  // over all parts; ones of sparse classes only
  std::array<int, kClasses> shifts_{};
  std::array<TokenTable, kClasses> gap_tables_, tables_;
  bool sent_[2][2] = {};
};

}  // namespace

std::string encode(const std::vector<Tensor>& tensors, const std::vector<Part>& parts, const Steps& steps,
                   const Loops& loops, int threads) {
  bool all_zero = false;
  const std::string rest = Encoder(tensors, parts, steps, loops, threads).run(all_zero);
  const int flags = all_zero ? kFlagAllZero : steps.weighted ? kFlagImportance : 0;
  const uint32_t head = static_cast<uint32_t>(steps.base.exponent + 127) << 16 | (steps.base.significand - 2048) << 5 |
                        static_cast<uint32_t>(flags);
  std::string body;
  body.reserve(kStepBytes + rest.size());
  for (int shift = 16; shift >= 0; shift -= 8) body.push_back(static_cast<char>(head >> shift));
  return body + rest;
}

}  // namespace phloem
