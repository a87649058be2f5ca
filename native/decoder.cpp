#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>

#include "bits.hpp"
#include "codec.hpp"
#include "frame.hpp"
#include "opened.hpp"
#include "rans.hpp"
#include "side.hpp"
#include "threads.hpp"

namespace phloem {

namespace {

constexpr int64_t kStretch = 1 << 16;  // elements that stay in the second cache from one body to the next
constexpr size_t kSpare = 16;  // bytes that may be read beyond the raw bits

// What was read of one class of one part, and how far the output has come.
struct ClassStream {
  int level = 0;
  ClassCounts counts;
  const ClassTables* tables = nullptr;
  Buffer<uint8_t> gap_tokens, tokens;    // no tokens where the table has a single one
  Buffer<uint32_t> places;               // sparse: where the non-zeros are
  uint64_t extra_at = 0, signs_at = 0;   // bit positions
  Histogram histogram{};                 // of the tokens
  int64_t seen = 0;                      // coefficients of this class before the current row
  size_t next = 0;                       // the next non-zero
  bool small_escapes = false;            // magnitudes below eight that are not written in the shortest way
  bool dense() const { return is_dense(level); }
  int low() const { return dense() ? low_bits(level) : 0; }
  int64_t coded() const { return dense() ? counts.size : counts.ones; }
  int token(size_t i) const { return tokens.empty() ? 0 : tokens[i]; }
};

template <Put kPut>
inline void put(float& at, float value) {
  if constexpr (kPut == Put::kStore) at = value;
  if constexpr (kPut == Put::kAdd) at += value;
  if constexpr (kPut == Put::kSubtract) at -= value;
}

template <Put kPut>
void put_all(float* row, const uint32_t* order, const float* values, size_t n) {
  if (order) {
    for (size_t j = 0; j < n; ++j) put<kPut>(row[order[j]], values[j]);
  } else {
    for (size_t j = 0; j < n; ++j) put<kPut>(row[j], values[j]);
  }
}

}  // namespace

class PartDecoder {
 public:
  PartDecoder(const Frame& frame, size_t number, const Part& pieces, const Loops& loops)
      : frame_(frame), pieces_(pieces), loops_(loops) {
    for (int c = 0; c < kClasses; ++c) {
      const ClassCounts& counts = frame.counts[number][c];
      if (!counts.size) continue;
      classes_[c] = std::make_unique<ClassStream>();
      classes_[c]->level = c + kClassLowest;
      classes_[c]->counts = counts;
      classes_[c]->tables = &frame.classes[c];
    }
  }

  // Takes all from the bytes of the part, and refuses what is not right. `shared` is the coder of the side
  // information where this is the only part.
  void read(std::span<const uint8_t> data, RangeDecoder* shared) {
    const size_t position = read_tokens(data, shared);
    const size_t size = data.size() - position;
    raw_.resize(size + kSpare);
    if (size) std::memcpy(raw_.data(), data.data() + position, size);
    std::memset(raw_.data() + size, 0, kSpare);
    read_raw(uint64_t{size} * 8);
  }

  void write(std::vector<Output>& outputs, Put put) {
    for (const Piece& piece : pieces_) {
      float* x = outputs[piece.tensor].data + piece.start;
      const int64_t size = piece.stop - piece.start;
      // what is not touched is x + 0
      if (put == Put::kAdd) loops_.clear_negative_zeros(x, static_cast<size_t>(size));
      begin(piece);
      if (put == Put::kStore) write_stretch<Put::kStore>(x, 0, size);
      if (put == Put::kAdd || put == Put::kAccumulate) write_stretch<Put::kAdd>(x, 0, size);
      if (put == Put::kSubtract) write_stretch<Put::kSubtract>(x, 0, size);
    }
  }

  // The next piece of the part; its stretches follow, in order.
  void begin(const Piece& piece) {
    scale_ = &frame_.scales[piece.tensor];
    place_.reset();
    if (scale_->zero) return;
    const Rows rows(piece, *scale_);
    place_.emplace(Place{rows, Groups(scale_->columns, rows.width)});
    small_ = frame_.small_values(piece.tensor);
    step_ = frame_.steps.step(piece.tensor);
  }

  // Elements `start` to `stop` of the piece, which begins at `x`: whole rows, where the tensor is a matrix.
  template <Put kPut>
  void write_stretch(float* x, int64_t start, int64_t stop) {
    if (!place_) return;
    const Rows& rows = place_->rows;
    if (scale_->rows.mode == kNone && scale_->columns.mode == kNone) {
      write_group<kPut>(x + start, nullptr, stop - start, stream(scale_->level));
      return;
    }
    const Groups& columns = place_->columns;
    for (int64_t r = start / rows.width; r < stop / rows.width; ++r) {
      const int level = scale_->level + scale_->rows.at(rows.first + r);
      for (const Group& group : columns.groups) {
        const uint32_t* order = columns.order.empty() ? nullptr : columns.order.data() + group.start;
        write_group<kPut>(x + r * rows.width, order, group.count, stream(level + group.level));
      }
    }
  }

 private:
  ClassStream& stream(int level) { return *classes_[static_cast<size_t>(level - kClassLowest)]; }

  size_t read_tokens(std::span<const uint8_t> data, RangeDecoder* shared) {
    int64_t total = 0;
    for (auto& part : classes_) {
      if (!part) continue;
      total += part->counts.ones ? part->counts.ones + part->counts.repeats : 0;
      total += part->tables->tokens.count ? part->coded() : 0;
    }
    const size_t start = shared ? shared->position() : 0;
    if (total >= kLanesFrom && static_cast<uint64_t>(total) > rans_most_tokens(data.size() - start)) {
      throw FormatError("The frame ends inside the tokens.");
    }
    std::vector<Run> runs;
    for (auto& part : classes_) {
      if (!part) continue;
      if (part->counts.ones) {
        part->gap_tokens.resize(static_cast<size_t>(part->counts.ones + part->counts.repeats));
        runs.push_back({{part->gap_tokens.data(), part->gap_tokens.size()}, &part->tables->gaps});
      }
      if (part->tables->tokens.count && part->coded()) {
        part->tokens.resize(static_cast<size_t>(part->coded()));
        runs.push_back({{part->tokens.data(), part->tokens.size()}, &part->tables->tokens});
      }
    }
    size_t position = start;
    if (total >= kLanesFrom) {
      position = rans_decode(data, start, runs, loops_);
    } else if (shared) {
      position = read_runs(*shared, runs);
    } else if (total) {
      RangeDecoder own(0, data.data(), 0, data.size());
      position = read_runs(own, runs);
    }
    for (auto& part : classes_) {
      if (!part) continue;
      if (part->tokens.empty()) {
        part->histogram[0] = part->coded();
      } else {
        loops_.histogram(part->tokens.data(), part->tokens.size(), part->histogram.data());
      }
      if (!part->counts.ones) continue;
      const auto repeats = std::count(part->gap_tokens.begin(), part->gap_tokens.end(), kGapRepeat);
      if (repeats != part->counts.repeats || part->gap_tokens.back() == kGapRepeat) {
        throw FormatError("The gaps of a class do not add up.");
      }
    }
    return position;
  }

  static size_t read_runs(RangeDecoder& coder, const std::vector<Run>& runs) {
    for (const Run& run : runs) {
      const TokenTable& table = *run.table;
      for (uint8_t& token : run.tokens) {
        token = static_cast<uint8_t>(coder.symbol(table.starts.data(), table.frequencies.data(), table.count));
      }
    }
    return coder.position();
  }

  // Checks that the raw bits are as many as the tokens need, and finds where each class has its own.
  void read_raw(uint64_t available) {
    uint64_t at = 0;
    for (auto& part : classes_) {
      if (part && part->counts.ones) read_places(*part, at, available);
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
    if (available - at >= 8 || BitReader(raw_.data(), at).get(static_cast<int>(available - at))) {
      throw FormatError("Bits follow the end of the body.");
    }
  }

  static void require(uint64_t at, uint64_t available) {
    if (at > available) throw FormatError("The body ends inside the raw bits.");
  }

  void read_places(ClassStream& part, uint64_t& at, uint64_t available) const {
    BitReader reader(raw_.data(), at);
    const int shift = part.tables->shift;
    at += static_cast<uint64_t>(part.counts.ones) * static_cast<uint64_t>(shift);
    require(at, available);
    part.places.reserve(static_cast<size_t>(part.counts.ones));
    int64_t place = 0;
    for (uint8_t token : part.gap_tokens) {
      place += int64_t{token} << shift;
      if (token == kGapRepeat) continue;
      place += static_cast<int64_t>(reader.get(shift));
      if (place >= part.counts.size) throw FormatError("The gaps of a class lead beyond its end.");
      part.places.push_back(static_cast<uint32_t>(place));
      ++place;
    }
  }

  static uint64_t extra_width(const ClassStream& part) {
    int64_t width = part.coded() * part.low();
    for (size_t t = 0; t < kTokens; ++t) width += part.histogram[t] * kTokenBits[t];
    return static_cast<uint64_t>(width);
  }

  // The number of non-zeros, which is that of sign bits; also refuses magnitudes that are too large.
  uint64_t count_non_zero(ClassStream& part) const {
    // without an escape and low bits, a magnitude is at most 320
    const int64_t highest = frame_.steps.magnitude_highest;
    const bool small = part.low() == 0 && part.histogram[kEscape] == 0 && highest >= kEscapeFrom;
    if (!small) return check_magnitudes(part, highest);
    return static_cast<uint64_t>(part.coded() - (part.dense() ? part.histogram[0] : 0));
  }

  // Reads all magnitudes of a class; returns how many are not zero.
  uint64_t check_magnitudes(ClassStream& part, int64_t highest) const {
    BitReader extra(raw_.data(), part.extra_at);
    const int64_t more = part.dense() ? 0 : 1;
    uint64_t ones = 0;
    int64_t largest = 0;
    const auto coded = static_cast<size_t>(part.coded());
    for (size_t i = 0; i < coded; ++i) {
      const int64_t magnitude = this->magnitude(part, i, extra) + more;
      largest = std::max(largest, magnitude);
      ones += magnitude != 0;
      part.small_escapes |= part.token(i) == kEscape && magnitude < 8;
    }
    if (largest > highest) throw FormatError("A magnitude is out of range.");
    return ones;
  }

  static int64_t magnitude(const ClassStream& part, size_t i, BitReader& extra) {
    const int token = part.token(i), low = part.low();
    return (kTokenBase[token] << low) + static_cast<int64_t>(extra.get(kTokenBits[token] + low));
  }

  template <Put kPut>
  void write_group(float* row, const uint32_t* order, int64_t count, ClassStream& part) {
    if (part.dense()) {
      write_dense<kPut>(row, order, count, part);
    } else {
      write_sparse<kPut>(row, order, count, part);
    }
    part.seen += count;
  }

  template <Put kPut>
  void write_dense(float* row, const uint32_t* order, int64_t count, ClassStream& part) {
    if (part.histogram[0] == part.counts.size && part.low() == 0) return;
    std::array<float, kChunk> values;
    for (int64_t done = 0; done < count; done += static_cast<int64_t>(kChunk)) {
      const auto n = static_cast<size_t>(std::min<int64_t>(kChunk, count - done));
      const auto first = static_cast<size_t>(part.seen + done);
      const bool direct = kPut == Put::kStore && !order;
      float* out = direct ? row + done : values.data();
      if (part.low() || part.small_escapes) {
        large_values(part, first, n, out);
      } else {
        const uint8_t* tokens = part.tokens.data() + first;
        part.signs_at += loops_.values(tokens, n, small_[1].data(), raw_.data(), part.signs_at, out);
        if (part.tables->tokens.count > 8) add_extra_bits(part, tokens, n, out);
      }
      if (!direct) put_all<kPut>(order ? row : row + done, order ? order + done : nullptr, values.data(), n);
    }
  }

  // Gives values above seven their size; the signs are there.
  void add_extra_bits(ClassStream& part, const uint8_t* tokens, size_t n, float* values) const {
    BitReader extra(raw_.data(), part.extra_at);
    const auto patch = [&](size_t i) {
      const int token = tokens[i];
      const auto rest = static_cast<int64_t>(extra.get(kTokenBits[token]));
      values[i] = std::copysign(static_cast<float>(kTokenBase[token] + rest) * step_, values[i]);
    };
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, tokens + i, 8);
      for (eight &= 0x0808080808080808u; eight; eight &= eight - 1) {
        patch(i + static_cast<size_t>(__builtin_ctzll(eight)) / 8);
      }
    }
    for (; i < n; ++i) {
      if (tokens[i] >= 8) patch(i);
    }
    part.extra_at = extra.at();
  }

  // Any magnitudes: classes with low bits have some for each, and an escape may hold a zero, which has no sign.
  void large_values(ClassStream& part, size_t first, size_t n, float* values) const {
    BitReader extra(raw_.data(), part.extra_at);
    const int low = part.low();
    std::array<int32_t, kTokens> bases, widths;
    for (size_t t = 0; t < kTokens; ++t) {
      bases[t] = static_cast<int32_t>(kTokenBase[t]) << low;
      widths[t] = kTokenBits[t] + low;
    }
    std::array<int32_t, kChunk> sizes;
    std::array<uint8_t, kChunk> non_zero;
    const uint8_t* tokens = part.tokens.empty() ? nullptr : part.tokens.data() + first;
    for (size_t i = 0; i < n; ++i) {
      const int token = tokens ? tokens[i] : 0;
      sizes[i] = bases[token] + static_cast<int32_t>(extra.get(widths[token]));
      non_zero[i] = sizes[i] != 0;
    }
    part.extra_at = extra.at();
    constexpr std::array<float, 8> kOne = {0, 1, 1, 1, 1, 1, 1, 1};
    part.signs_at += loops_.values(non_zero.data(), n, kOne.data(), raw_.data(), part.signs_at, values);
    for (size_t i = 0; i < n; ++i) {  // times one, minus one or zero
      const float value = sizes[i] < 8 ? small_[1][static_cast<size_t>(sizes[i])] : static_cast<float>(sizes[i]) * step_;
      values[i] *= value;
    }
  }

  template <Put kPut>
  void write_sparse(float* row, const uint32_t* order, int64_t count, ClassStream& part) const {
    const int64_t end = part.seen + count;
    while (part.next < part.places.size() && part.places[part.next] < end) {
      const size_t i = part.next++;
      BitReader extra(raw_.data(), part.extra_at), sign(raw_.data(), part.signs_at + i);
      const int64_t size = magnitude(part, i, extra) + 1;
      const float value = size < 8 ? small_[0][static_cast<size_t>(size)] : static_cast<float>(size) * step_;
      part.extra_at = extra.at();
      const int64_t j = part.places[i] - part.seen;
      put<kPut>(row[order ? static_cast<int64_t>(order[j]) : j], sign.get(1) ? -value : value);
    }
  }

  const Frame& frame_;
  const Part& pieces_;
  const Loops& loops_;
  std::array<std::unique_ptr<ClassStream>, kClasses> classes_;
  Buffer<uint8_t> raw_;  // the raw bits, and sixteen bytes more
  // Of the piece that is written:
  struct Place {
    Rows rows;
    Groups columns;
  };
  const Scales* scale_ = nullptr;
  std::optional<Place> place_;  // none where all is zero
  SmallValues small_{};
  float step_ = 0;
};

namespace {

// Where each part's bytes are: all but the last have their lengths in front.
std::vector<std::span<const uint8_t>> split(std::span<const uint8_t> data, size_t parts) {
  std::vector<uint64_t> sizes;
  size_t at = 0;
  for (size_t p = 0; p + 1 < parts; ++p) {
    uint64_t size = 0;
    for (int shift = 0;; shift += 7) {
      if (at == data.size()) throw FormatError("The body ends inside the lengths of its parts.");
      const uint8_t byte = data[at++];
      if (shift > 42 || (byte == 0 && shift)) throw FormatError("The length of a part is not written in the shortest way.");
      size |= uint64_t{byte & 127u} << shift;
      if (byte < 128) break;
    }
    sizes.push_back(size);
  }
  std::vector<std::span<const uint8_t>> found;
  for (uint64_t size : sizes) {
    if (size > data.size() - at) throw FormatError("The body ends inside a part.");
    found.push_back(data.subspan(at, size));
    at += size;
  }
  found.push_back(data.subspan(at));
  return found;
}

}  // namespace

Opened::Opened(std::span<const uint8_t> body, const Steps& steps, const std::vector<Output>& outputs,
               const std::vector<Part>& parts)
    : body_(body),
      parts_(parts),
      coder_(kContexts, body.data(), kStepBytes, body.size()),
      frame_(coder_, steps, outputs, parts) {
  if (parts.size() > 1) spans_ = split(body.subspan(coder_.position()), parts.size());
}

void Opened::decode(std::vector<Output>& outputs, size_t first, size_t last, Put put, const Loops& loops,
                    int threads) const {
  std::vector<std::unique_ptr<PartDecoder>> decoders;
  for (size_t p = first; p < last; ++p) {
    decoders.push_back(std::make_unique<PartDecoder>(frame_, p, parts_[p], loops));
  }
  in_parallel(decoders.size(), threads, [&](size_t p) { read(*decoders[p], first + p); });
  // only what is right in all these parts changes the outputs
  in_parallel(decoders.size(), threads, [&](size_t p) { decoders[p]->write(outputs, put); });
}

void Opened::add_all(const std::vector<const Opened*>& bodies, std::vector<Output>& outputs, size_t first, size_t last,
                     const Loops& loops, int threads) {
  const std::vector<Part>& parts = bodies[0]->parts_;
  std::vector<std::vector<std::unique_ptr<PartDecoder>>> decoders(last - first);
  in_parallel(decoders.size(), threads, [&](size_t d) {
    for (const Opened* body : bodies) {
      decoders[d].push_back(std::make_unique<PartDecoder>(body->frame_, first + d, body->parts_[first + d], loops));
      body->read(*decoders[d].back(), first + d);
    }
  });
  in_parallel(decoders.size(), threads, [&](size_t d) {
    for (const Piece& piece : parts[first + d]) {
      const Output& output = outputs[piece.tensor];
      float* x = output.data + piece.start;
      const int64_t size = piece.stop - piece.start, unit = output.shape.rows > 1 ? output.shape.columns : 1;
      const int64_t stretch = std::max<int64_t>(1, kStretch / unit) * unit;
      for (auto& decoder : decoders[d]) decoder->begin(piece);
      for (int64_t start = 0; start < size; start += stretch) {
        const int64_t stop = std::min(start + stretch, size);
        loops.clear_negative_zeros(x + start, static_cast<size_t>(stop - start));
        for (auto& decoder : decoders[d]) decoder->write_stretch<Put::kAdd>(x, start, stop);
      }
    }
  });
}

void Opened::read(PartDecoder& decoder, size_t part) const {
  if (parts_.size() > 1) return decoder.read(spans_[part], nullptr);
  RangeDecoder coder = coder_;
  decoder.read(body_, &coder);
}

void decode(std::span<const uint8_t> body, const Steps& steps, std::vector<Output>& outputs,
            const std::vector<Part>& parts, Put put, const Loops& loops, int threads) {
  Opened(body, steps, outputs, parts).decode(outputs, 0, parts.size(), put, loops, threads);
}

}  // namespace phloem
