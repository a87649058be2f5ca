#include <algorithm>
#include <array>
#include <cstring>
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

// What was read of one class, and how far the output has come.
struct ClassStream {
  int level = 0;
  int64_t size = 0, ones = 0, repeats = 0;
  int shift = 0;
  Hazards hazards;
  bool dense() const { return is_dense(level); }
  int low() const { return dense() ? low_bits(level) : 0; }
  int64_t coded() const { return dense() ? size : ones; }
  std::vector<uint8_t> gap_tokens, tokens;  // no tokens where the table has a single one
  std::vector<int64_t> places;              // sparse: where the non-zeros are
  uint64_t extra_at = 0, signs_at = 0;      // bit positions
  float values[8] = {};                     // of magnitudes zero to seven
  Histogram histogram{};                    // of the tokens
  int64_t seen = 0;                         // coefficients of this class before the current row
  size_t next = 0;                          // the next token
  int token(size_t i) const { return tokens.empty() ? 0 : tokens[i]; }
};

class Decoder {
 public:
  Decoder(std::span<const uint8_t> body, const Step& step, std::vector<Output>& outputs)
      : body_(body), step_(step), outputs_(outputs) {}

  void run() {
    for (const Output& output : outputs_) {
      Scales scale;
      scale.shape = output.shape;
      scales_.push_back(std::move(scale));
    }
    RangeDecoder coder(kContexts, body_.data(), kStepBytes, body_.size());
    code_scales(coder, scales_);
    if (std::all_of(scales_.begin(), scales_.end(), [](const Scales& s) { return s.zero; })) {
      throw FormatError("Every tensor of a body that is not all zero is zero.");
    }
    read_classes(coder);
    const size_t position = read_tokens(coder);
    padded_.assign(body_.begin() + static_cast<std::ptrdiff_t>(position), body_.end());
    padded_.resize(padded_.size() + 8);
    read_raw((body_.size() - position) * 8);
    for (size_t i = 0; i < outputs_.size(); ++i) {
      if (!scales_[i].zero) write(outputs_[i], scales_[i]);
    }
  }

 private:
  ClassStream& stream(int level) { return *classes_[static_cast<size_t>(level - kClassLowest)]; }

  void read_classes(RangeDecoder& coder) {
    const auto sizes = class_sizes(scales_);
    TablePredictor predictors[2] = {TablePredictor(false), TablePredictor(true)};
    bool present[2][2] = {};
    for (int c = 0; c < kClasses; ++c) {
      if (!sizes[c]) continue;
      classes_[c] = std::make_unique<ClassStream>();
      ClassStream& part = *classes_[c];
      part.level = c + kClassLowest;
      part.size = sizes[c];
      if (!part.dense()) {
        part.ones = code_count(coder, part.size, part.level);
        if (part.ones == 0) continue;
        part.shift = gap_shift(part.size - part.ones, part.ones);
        part.repeats = code_repeats(coder, part.ones, part.size / (int64_t{kGapRepeat} << part.shift));
      }
      TablePredictor& predictor = predictors[part.dense()];
      predictor.advance(part.level);
      part.hazards = predictor.code(coder, {});
      present[part.dense()][0] = true;
      present[part.dense()][1] |= part.dense() || !part.hazards.empty();
    }
    int centres[2][2] = {{64, 128}, {64, 128}};
    for (int kind = 0; kind < 2; ++kind) {
      for (int size = 0; size < 2; ++size) {
        if (present[kind][size]) centres[kind][size] += static_cast<int>(coder.raw(6)) + kCentroidLowest;
      }
    }
    for (auto& part : classes_) {
      if (!part) continue;
      for (int size = 1; size < 8; ++size) {
        part->values[size] = static_cast<float>(size) * step_.value;
        if (size <= 2) {
          const double centre = centres[part->dense()][size - 1];
          part->values[size] = static_cast<float>(centre * step_.value / 64.0);
        }
      }
    }
  }

  size_t read_tokens(RangeDecoder& coder) {
    int64_t total = 0;
    for (auto& part : classes_) {
      if (!part) continue;
      total += part->ones ? part->ones + part->repeats : 0;
      total += part->hazards.empty() ? 0 : part->coded();
    }
    if (total >= kLanesFrom && static_cast<uint64_t>(total) > rans_most_tokens(body_.size() - coder.position())) {
      throw FormatError("The frame ends inside the tokens.");
    }
    std::vector<Run> runs;
    for (auto& part : classes_) {
      if (!part) continue;
      if (part->ones) {
        part->gap_tokens.resize(static_cast<size_t>(part->ones + part->repeats));
        runs.push_back({part->gap_tokens, gap_table(part->size - part->ones, part->ones, part->shift)});
      }
      if (!part->hazards.empty()) {
        part->tokens.resize(static_cast<size_t>(part->coded()));
        runs.push_back({part->tokens, hazard_table(part->hazards)});
      }
    }
    size_t position;
    if (total < kLanesFrom) {
      for (Run& run : runs) {
        for (uint8_t& token : run.tokens) {
          token = static_cast<uint8_t>(
              coder.symbol(run.table.starts.data(), run.table.frequencies.data(), run.table.count));
        }
      }
      position = coder.position();
    } else {
      position = rans_decode(body_, coder.position(), runs);
    }
    for (auto& part : classes_) {
      if (!part) continue;
      if (part->tokens.empty()) {
        part->histogram[0] = part->coded();
      } else {
        add_histogram(part->tokens, part->histogram);
      }
      if (!part->ones) continue;
      const auto repeats = std::count(part->gap_tokens.begin(), part->gap_tokens.end(), kGapRepeat);
      if (repeats != part->repeats || part->gap_tokens.back() == kGapRepeat) {
        throw FormatError("The gaps of a class do not add up.");
      }
    }
    return position;
  }

  // Checks that the raw bits are as many as the tokens need, and finds where each class has its own.
  void read_raw(uint64_t available) {
    uint64_t at = 0;
    for (auto& part : classes_) {
      if (part && part->ones) read_places(*part, at, available);
    }
    for (auto& part : classes_) {
      if (!part) continue;
      part->extra_at = at;
      at += extra_width(*part);
      require(at, available);
    }
    for (auto& part : classes_) {
      if (!part) continue;
      part->signs_at = at;
      at += count_non_zero(*part);
      require(at, available);
    }
    if (available - at >= 8 || BitReader(padded_.data(), at).get(static_cast<int>(available - at))) {
      throw FormatError("Bits follow the end of the body.");
    }
  }

  static void require(uint64_t at, uint64_t available) {
    if (at > available) throw FormatError("The body ends inside the raw bits.");
  }

  void read_places(ClassStream& part, uint64_t& at, uint64_t available) const {
    BitReader reader(padded_.data(), at);
    at += static_cast<uint64_t>(part.ones) * static_cast<uint64_t>(part.shift);
    require(at, available);
    part.places.reserve(static_cast<size_t>(part.ones));
    int64_t place = 0;
    for (uint8_t token : part.gap_tokens) {
      place += int64_t{token} << part.shift;
      if (token == kGapRepeat) continue;
      place += static_cast<int64_t>(reader.get(part.shift));
      part.places.push_back(place);
      ++place;
    }
    if (part.places.back() >= part.size) throw FormatError("The gaps of a class lead beyond its end.");
  }

  static uint64_t extra_width(const ClassStream& part) {
    int64_t width = part.coded() * part.low();
    for (size_t t = 0; t < kTokens; ++t) width += part.histogram[t] * kTokenBits[t];
    return static_cast<uint64_t>(width);
  }

  // The number of non-zeros, which is that of sign bits; also refuses magnitudes that are too large.
  uint64_t count_non_zero(const ClassStream& part) const {
    // without an escape and low bits, a magnitude is at most 320
    const bool small = part.low() == 0 && part.histogram[kEscape] == 0 && step_.magnitude_highest >= kEscapeFrom;
    if (!small) return check_magnitudes(part);
    return static_cast<uint64_t>(part.coded() - (part.dense() ? part.histogram[0] : 0));
  }

  // Reads all magnitudes of a class; returns how many are not zero.
  uint64_t check_magnitudes(const ClassStream& part) const {
    BitReader extra(padded_.data(), part.extra_at);
    const int64_t more = part.dense() ? 0 : 1;
    uint64_t ones = 0;
    const auto coded = static_cast<size_t>(part.coded());
    for (size_t i = 0; i < coded; ++i) {
      const int64_t magnitude = this->magnitude(part, i, extra) + more;
      if (magnitude > step_.magnitude_highest) throw FormatError("A magnitude is out of range.");
      ones += magnitude != 0;
    }
    return ones;
  }

  static int64_t magnitude(const ClassStream& part, size_t i, BitReader& extra) {
    const int token = part.token(i), low = part.low();
    return (kTokenBase[token] << low) + static_cast<int64_t>(extra.get(kTokenBits[token] + low));
  }

  void write(const Output& output, const Scales& scale) {
    const Groups columns(scale.columns, output.shape.columns);
    for (int64_t r = 0; r < output.shape.rows; ++r) {
      float* row = output.data + r * output.shape.columns;
      const int level = scale.level + scale.rows.at(r);
      for (const Group& group : columns.groups) {
        ClassStream& part = stream(level + group.level);
        const uint32_t* order = columns.order.empty() ? nullptr : columns.order.data() + group.start;
        if (part.dense()) {
          write_dense(row, order, group, part);
        } else {
          write_sparse(row, order, group, part);
        }
        part.seen += group.count;
      }
    }
  }

  float value_of(const ClassStream& part, int64_t magnitude) const {
    if (magnitude < 8) return part.values[magnitude];
    return static_cast<float>(magnitude) * step_.value;
  }

  void write_dense(float* row, const uint32_t* order, const Group& group, ClassStream& part) const {
    if (part.histogram[0] == part.size && part.low() == 0) return;
    if (part.low() == 0) {
      write_small(row, order, group, part);
      return;
    }
    BitReader extra(padded_.data(), part.extra_at), signs(padded_.data(), part.signs_at);
    const auto first = static_cast<size_t>(part.seen);
    uint64_t extra_used = 0, signs_used = 0;
    const int low = part.low();
    for (int64_t j = 0; j < group.count; ++j) {
      const size_t i = first + static_cast<size_t>(j);
      const int token = part.token(i);
      const int64_t size = magnitude(part, i, extra);
      extra_used += static_cast<uint64_t>(kTokenBits[token] + low);
      if (size == 0) continue;
      const float value = value_of(part, size);
      ++signs_used;
      row[order ? static_cast<int64_t>(order[j]) : j] = signs.get(1) ? -value : value;
    }
    part.extra_at += extra_used;
    part.signs_at += signs_used;
  }

  // Classes without low bits: nearly all tokens stand for themselves.
  void write_small(float* row, const uint32_t* order, const Group& group, ClassStream& part) const {
    BitReader extra(padded_.data(), part.extra_at), signs(padded_.data(), part.signs_at);
    const uint8_t* tokens = part.tokens.data() + part.seen;
    std::array<uint32_t, 8> values;
    std::memcpy(values.data(), part.values, sizeof part.values);
    uint64_t extra_used = 0, signs_used = 0;
    for (int64_t start = 0; start < group.count; start += 32) {
      const int64_t end = std::min<int64_t>(start + 32, group.count);
      BitReader ahead = signs;
      uint64_t word = ahead.get(32);  // more than there are may be read, but never used
      int taken = 0;
      for (int64_t j = start; j < end; ++j) {
        const uint8_t token = tokens[j];
        const uint32_t counts = token != 0;
        uint32_t bits = values[token & 7];
        if (token >= 8) {
          const auto rest = static_cast<int64_t>(extra.get(kTokenBits[token]));
          const float value = static_cast<float>(kTokenBase[token] + rest) * step_.value;
          std::memcpy(&bits, &value, 4);
          extra_used += static_cast<uint64_t>(kTokenBits[token]);
        }
        bits |= (static_cast<uint32_t>(word) & counts) << 31;
        word >>= counts;
        taken += static_cast<int>(counts);
        std::memcpy(row + (order ? static_cast<int64_t>(order[j]) : j), &bits, 4);
      }
      signs.skip(static_cast<uint64_t>(taken));
      signs_used += static_cast<uint64_t>(taken);
    }
    part.extra_at += extra_used;
    part.signs_at += signs_used;
  }

  void write_sparse(float* row, const uint32_t* order, const Group& group, ClassStream& part) const {
    const int64_t end = part.seen + group.count;
    while (part.next < part.places.size() && part.places[part.next] < end) {
      const size_t i = part.next++;
      BitReader extra(padded_.data(), part.extra_at), sign(padded_.data(), part.signs_at + i);
      const float value = value_of(part, magnitude(part, i, extra) + 1);
      part.extra_at += static_cast<uint64_t>(kTokenBits[part.token(i)]);
      const int64_t j = part.places[i] - part.seen;
      row[order ? static_cast<int64_t>(order[j]) : j] = sign.get(1) ? -value : value;
    }
  }

  std::span<const uint8_t> body_;
  const Step& step_;
  std::vector<Output>& outputs_;
  std::vector<Scales> scales_;
  std::array<std::unique_ptr<ClassStream>, kClasses> classes_;
  std::vector<uint8_t> padded_;  // the raw bits, and eight bytes more
};

}  // namespace

void decode(std::span<const uint8_t> body, const Step& step, std::vector<Output>& outputs) {
  Decoder(body, step, outputs).run();
}

}  // namespace phloem
