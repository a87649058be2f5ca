#include "adaptive.hpp"

#include <cmath>

#include "adaptive_model.hpp"

namespace phloem {

namespace {

constexpr uint8_t kNext1[1][2] = {{0, 0}};
constexpr uint8_t kNext4[4][2] = {{0, 2}, {2, 0}, {1, 3}, {3, 1}};
constexpr uint8_t kNext8[8][2] = {{0, 1}, {4, 5}, {1, 0}, {5, 4}, {6, 7}, {3, 2}, {2, 3}, {7, 6}};

// The state machine of the dependent quantiser; a scalar quantiser has one state, on the even grid.
struct Grid {
  explicit Grid(int states)
      : next(states == 8 ? kNext8 : states == 4 ? kNext4 : kNext1), odd_from(states ? states / 2 : 1) {}
  bool odd(int state) const { return state >= odd_from; }
  const uint8_t (*next)[2];
  int odd_from;
};

inline int64_t position_of(int64_t magnitude, bool odd) { return 2 * magnitude - (odd && magnitude); }

// A piece seen as rows. A long vector is folded, so that it has columns and neighbours too.
struct Fold {
  Fold(int64_t rows, int64_t columns) : size(rows * columns), width(columns) {
    if (rows == 1 && columns > 4096) width = 1024;
    count = width ? (size + width - 1) / width : 0;
  }
  int64_t size, width, count = 0;
};

constexpr int kLevels = 48, kNear = 10, kSides = 40, kAround = 64, kRowLevels = 32, kColumnLevels = 16;
constexpr int kOctaves = 24, kTensors = 128, kHeld = 8, kSigns = 16;
constexpr uint32_t kPriorUses = 2;
constexpr int kLevelMost = 40, kExponentMost = 23;
// Squared steps per sixteenth of a bit: an encoder's choice.
constexpr float kWeight = 1.0f / 120.0f;

inline int half_octave(int log, int count) { return std::clamp((log + 164) >> 3, 0, count - 1); }
inline int octave(int log) { return std::clamp((log + 168) >> 4, 0, kOctaves - 1); }

// A signed sum in sixteenths, by the logarithm of its size: 8 stands for none.
inline int lean(int value, const uint8_t* logs) {
  const int size = (log16(64 + 4 * static_cast<uint64_t>(std::abs(value)), logs) - 96 + 4) >> 3;
  return std::clamp(8 + (value < 0 ? -size : size), 0, kSigns - 1);
}
inline int sign_of(int value) { return value > 0 ? 2 : value < 0 ? 0 : 1; }
inline int held_size(int held) {
  const int size = std::abs(held);
  return size < 3 ? size : std::min(7, bit_length(static_cast<uint64_t>(size - 1)) + 1);
}

// The chances of one context each.
struct Chances {
  explicit Chances(const std::vector<uint32_t>& priors)
      : zero(2 * kLevels * kNear), more(zero.size()), most(zero.size()), sign(kSigns * kSigns) {
    for (size_t i = 0; i < zero.size(); ++i) {
      zero[i].state = more[i].state = most[i].state = priors[i / kNear % kLevels] << 10 | kPriorUses;
    }
  }
  std::vector<Chance> zero, more, most, sign;
};

template <bool kWithHeld>
struct Mixers {
  static constexpr size_t kContexts = kWithHeld ? 7 : 6, kSignContexts = kWithHeld ? 4 : 3;
  using Magnitude = Mixer<kContexts, 3>;
  using Sign = Mixer<kSignContexts, 2>;
  static std::array<size_t, kContexts> sizes() {
    std::array<size_t, kContexts> found{2 * kLevels * kNear, 2 * kSides * 9,      2 * kSides * 9,
                                        2 * kAround,         2 * kRowLevels * 16, 2 * kTensors * kOctaves};
    if constexpr (kWithHeld) found[6] = 2 * kHeld * kOctaves;
    return found;
  }
  static std::array<size_t, kSignContexts> sign_sizes() {
    std::array<size_t, kSignContexts> found{kSigns * kSigns, 81, kTensors * kSigns};
    if constexpr (kWithHeld) found[3] = 2 * kHeld;
    return found;
  }
  Magnitude zero{sizes(), 12288, 5}, more{sizes(), 12288, 5}, most{sizes(), 12288, 5};
  Sign sign{sign_sizes(), 24576, 16};
};

template <class Coder, bool kMixing, bool kWithHeld>
class Body {
  struct Nothing {};

 public:
  Body(Coder& coder, const AdaptiveMode& mode)
      : coder_(coder), tables_(logistic_tables()), grid_(mode.states), dependent_(mode.states != 0),
        lengths_(kOctaves * 32), leading_(32 * 4), side_(16) {}

  void piece(const Block& block) {
    const Fold fold(block.rows, block.columns);
    if (!fold.size) return;
    const uint64_t total = Coder::kDecodes ? 0 : block.x ? coarse_total(block) : total_of(block.indices, fold.size);
    const bool zero = adaptive_bit(side_[was_zero_], total == 0);
    was_zero_ = zero;
    highest_ = block.highest;
    const int number = std::min(number_++, kTensors - 1);
    if (zero) {
      if (Coder::kDecodes || block.x) std::fill_n(block.indices, fold.size, 0);
      return;
    }
    code_level(total, static_cast<uint64_t>(fold.size));
    Surroundings around(fold.width, level_, tables_);
    int state = 0;
    for (int64_t row = 0; row < fold.count; ++row) {
      const int64_t start = row * fold.width;
      const int64_t length = std::min(fold.width, fold.size - start);
      code_row(around, block, start, length, number, state);
      around.end_row(row, length);
    }
  }

 private:
  uint64_t total_of(const int32_t* indices, int64_t size) const {
    uint64_t total = 0;
    int state = 0;
    for (int64_t i = 0; i < size; ++i) {
      total += static_cast<uint64_t>(position_of(std::abs(indices[i]), grid_.odd(state)));
      state = grid_.next[state][indices[i] & 1];
    }
    return total;
  }

  bool adaptive_bit(Chance& chance, bool bit) {
    bit = coder_.bit(safe_share(chance.share()), bit);
    chance.learn(bit, tables_.rates.data());
    return bit;
  }

  // The tensor's mean position in octaves, against the previous one's.
  void code_level(uint64_t total, uint64_t size) {
    const auto mean = static_cast<uint64_t>((static_cast<unsigned __int128>(total) << 24) / size);
    const int level = (log16(mean + 1, tables_.log16.data()) - 376) >> 4;
    const int difference = level - level_;
    if (!adaptive_bit(side_[2], difference != 0)) return;
    const bool negative = adaptive_bit(side_[3], difference < 0);
    int size_of = 1;
    while (adaptive_bit(side_[static_cast<size_t>(3 + std::min(size_of, 8))], size_of < std::abs(difference))) {
      if (++size_of > 2 * kLevelMost) break;
    }
    level_ += negative ? -size_of : size_of;
    if (std::abs(level_) > kLevelMost) throw FormatError("The level of a tensor is out of range.");
  }

  // The positions that coarse rounding would give; decides only the level and whether there is anything to code.
  static uint64_t coarse_total(const Block& block) {
    uint64_t total = 0;
    for (int64_t i = 0; i < block.rows * block.columns; ++i) {
      const float scaled = std::fabs(block.x[i]) * block.inverse + 0.2f;
      total += 2 * static_cast<uint64_t>(scaled < 16777215.0f ? scaled : 16777215.0f);
    }
    return total;
  }

  void code_row(Surroundings& around, const Block& block, int64_t start, int64_t length, int number, int& state) {
    int32_t* indices = block.indices + start;
    [[maybe_unused]] const int8_t* held = block.held ? block.held + start : nullptr;
    [[maybe_unused]] const float* x = block.x ? block.x + start : nullptr;
    around.begin_row();
    const int8_t* row = around.row(0);
    const int8_t* up = around.row(1);
    const int8_t* far = around.row(2);
    const uint8_t* logs = tables_.log16.data();
    const int16_t* columns = around.column_logs.data();
    const int empty = log16(2 * around.mean(), logs) - 256;
    int row_log = 0;
    for (int64_t k = 0; k < length; ++k) {
      if ((k & 7) == 0) row_log = around.row_log(k);
      const int along = around.mean_log + row_log, across = columns[k] - around.expected_log;
      const int level = along + across;
      const int first = std::abs(row[signed_place(k) - 1]), second = std::abs(row[signed_place(k) - 2]);
      const int last = std::min((first + 1) >> 1, 2), before = std::min((second + 1) >> 1, 2);
      const int near = std::min(around.above[static_cast<size_t>(k)] + 2 * last + before, kNear - 1);
      const bool odd = grid_.odd(state);
      const int step = octave(level);

      [[maybe_unused]] std::array<int, Mixed::kContexts> contexts;
      [[maybe_unused]] std::array<int, 3> extras;
      [[maybe_unused]] size_t single = 0;
      if constexpr (kMixing) {
        const uint64_t weight = around.weights[static_cast<size_t>(k)] + static_cast<uint64_t>(8 * first + 5 * second) +
                                static_cast<uint64_t>(3 * std::abs(row[signed_place(k) - 3]));
        const int local = weight ? log16((weight << 13) + 2 * around.mean(), logs) - 256 : empty;
        const int side = mean_octave(around.mean_log, across);
        contexts[0] = half_octave(level, kLevels) * kNear + near + odd * kLevels * kNear;
        contexts[1] = half_octave(along, kSides) * 9 + 3 * last + before + odd * kSides * 9;
        contexts[2] = side * 9 + around.pairs[static_cast<size_t>(k)] + odd * kSides * 9;
        contexts[3] = std::clamp(((local + 160) * 3 + 8) >> 4, 0, kAround - 1) + odd * kAround;
        contexts[4] = std::clamp(((along + 160) * 3 + 16) >> 5, 0, kRowLevels - 1) * kColumnLevels +
                      std::clamp((across + 68) >> 3, 0, kColumnLevels - 1) + odd * kRowLevels * kColumnLevels;
        contexts[5] = number * kOctaves + step + odd * kTensors * kOctaves;
        if constexpr (kWithHeld) contexts[6] = held_size(held[k]) * kOctaves + step + odd * kHeld * kOctaves;
        extras = {102, 4 * level, 4 * local};
      } else {
        single = static_cast<size_t>(half_octave(level, kLevels) * kNear + near + odd * kLevels * kNear);
      }
      Flag zero(*this, 0, contexts, extras, single);
      int32_t index = 0;
      if constexpr (!Coder::kDecodes) {
        if (x) indices[k] = choose(x[k], block.inverse, zero, contexts, extras, single, step);
        index = indices[k];
      }
      auto magnitude = static_cast<uint32_t>(std::abs(index));
      if (!zero.code(*this, magnitude > 0)) {
        if constexpr (Coder::kDecodes) indices[k] = 0;
        state = grid_.next[state][0];
        continue;
      }
      if (!Flag(*this, 1, contexts, extras, single).code(*this, magnitude > 1)) {
        magnitude = 1;
      } else if (!Flag(*this, 2, contexts, extras, single).code(*this, magnitude > 2)) {
        magnitude = 2;
      } else {
        magnitude = code_large(magnitude, step, odd);
      }
      const int trend = lean(around.row_trend, logs);
      bool negative = index < 0;
      if constexpr (kMixing) {
        std::array<int, Mixed::kSignContexts> signs;
        signs[0] = trend * kSigns + lean(around.trends[static_cast<size_t>(k)], logs);
        const std::ptrdiff_t left = signed_place(k) - 1;
        signs[1] = 27 * sign_of(up[k]) + 9 * sign_of(far[k]) + 3 * sign_of(row[left]) + sign_of(up[left]);
        signs[2] = number * kSigns + trend;
        if constexpr (kWithHeld) signs[3] = (held[k] > 0) * kHeld + held_size(held[k]);
        const std::array<int, 2> leans = {77, std::clamp(32 * around.tilt(k), -2047, 2047)};
        negative = mixers_.sign.code(coder_, tables_, mixers_.sign.predict(tables_, signs, leans), negative);
      } else {
        const int tilt = lean(around.tilt(k), logs);
        negative = adaptive_bit(chances_.sign[static_cast<size_t>(tilt * kSigns + trend)], negative);
      }
      const auto position = static_cast<int>(std::min<int64_t>(position_of(magnitude, odd), 1 << 25));
      around.add(k, position, negative);
      row_log = around.row_log(k + 1);
      if constexpr (Coder::kDecodes) {
        indices[k] = negative ? -static_cast<int32_t>(magnitude) : static_cast<int32_t>(magnitude);
      }
      state = grid_.next[state][magnitude & 1];
    }
  }

  using Mixed = Mixers<kWithHeld>;
  using Contexts = std::array<int, Mixed::kContexts>;
  using Extras = std::array<int, 3>;

  // Whether the magnitude exceeds `size`, predicted and then coded.
  struct Flag {
    Flag(Body& body, int size, const Contexts& contexts, const Extras& extras, size_t single) {
      if constexpr (kMixing) {
        mixer = size == 0 ? &body.mixers_.zero : size == 1 ? &body.mixers_.more : &body.mixers_.most;
        prediction = mixer->predict(body.tables_, contexts, extras);
      } else {
        chance = &(size == 0 ? body.chances_.zero : size == 1 ? body.chances_.more : body.chances_.most)[single];
      }
    }
    uint32_t share() const {
      if constexpr (kMixing) return prediction.share();
      else return safe_share(chance->share());
    }
    bool code(Body& body, bool bit) {
      if constexpr (kMixing) return mixer->code(body.coder_, body.tables_, prediction, bit);
      else return body.adaptive_bit(*chance, bit);
    }
    // Sixteenths of a bit.
    int cost(const Body& body, bool bit) const { return body.cost_of(share(), bit); }

    std::conditional_t<kMixing, typename Mixed::Magnitude*, Chance*> mixer{};
    std::conditional_t<kMixing, typename Mixed::Magnitude::Prediction, Nothing> prediction;
    Chance* chance = nullptr;
  };

  int cost_of(uint32_t share, bool bit) const {
    return 16 * kShareBits - log16(bit ? share : kShareOne - share, tables_.log16.data());
  }

  // The index of least squared error plus kWeight times bits, by what the models say now: the nearest one, the one
  // below it, or zero.
  int32_t choose(float value, float inverse, const Flag& zero, const Contexts& contexts, const Extras& extras,
                 size_t single, int step) {
    const float scaled = std::fabs(value) * inverse;
    const float rounded = scaled + 0.5f;
    const auto most = static_cast<float>(highest_);
    const auto nearest = static_cast<int32_t>(rounded < most ? rounded : most);
    if (nearest == 0) return 0;
    const int nonzero = zero.cost(*this, true) + 16;
    const Flag more(*this, 1, contexts, extras, single);
    int32_t best = 0;
    float least = scaled * scaled + kWeight * static_cast<float>(zero.cost(*this, false));
    for (int32_t index = std::max(nearest - 1, 1); index <= nearest; ++index) {
      int cost = nonzero + more.cost(*this, index > 1);
      if (index > 1) {
        cost += Flag(*this, 2, contexts, extras, single).cost(*this, index > 2);
        if (index > 2) cost += large_cost(static_cast<uint32_t>(index), step);
      }
      const float away = scaled - static_cast<float>(index);
      const float total = away * away + kWeight * static_cast<float>(cost);
      if (total < least) {
        least = total;
        best = index;
      }
    }
    return value < 0.0f ? -best : best;
  }

  int large_cost(uint32_t magnitude, int step) const {
    const int length = bit_length(magnitude - 2) - 1;
    int cost = 16 * length;
    for (int i = 0; i <= length; ++i) {
      cost += cost_of(safe_share(lengths_[static_cast<size_t>(step * 32 + i)].share()), i < length);
    }
    return cost;
  }

  static int mean_octave(int mean_log, int across) { return half_octave(mean_log + across, kSides); }

  // A magnitude of three or more: Exp-Golomb of what exceeds it, with modelled length and two leading bits.
  uint32_t code_large(uint32_t magnitude, int step, bool odd) {
    const uint32_t given = Coder::kDecodes ? 1 : magnitude - 2;
    const int wanted = bit_length(given) - 1;
    int length = 0;
    while (adaptive_bit(lengths_[static_cast<size_t>(step * 32 + length)], length < wanted)) {
      if (++length > kExponentMost) throw FormatError("A magnitude is out of range.");
    }
    uint32_t value = 1;
    for (int i = length - 1; i >= 0; --i) {
      const bool bit = given >> i & 1;
      const bool read = value < 4 ? adaptive_bit(leading_[static_cast<size_t>(length * 4) + value], bit)
                                  : coder_.raw(1, bit);
      value = value << 1 | read;
    }
    const int64_t place = dependent_ ? position_of(value + 2, odd) : value + 2;
    if (place > highest_) throw FormatError("A magnitude is out of range.");
    return value + 2;
  }

  std::conditional_t<kMixing, Nothing, Chances> made() const {
    if constexpr (kMixing) return {};
    else return Chances(tables_.priors);
  }

  Coder& coder_;
  const LogisticTables& tables_;
  Grid grid_;
  bool dependent_;
  int64_t highest_ = 0;
  std::conditional_t<kMixing, Mixed, Nothing> mixers_;
  std::conditional_t<kMixing, Nothing, Chances> chances_ = made();
  std::vector<Chance> lengths_, leading_, side_;
  size_t was_zero_ = 0;
  int number_ = 0, level_ = -6;
};

template <class Coder>
void code_blocks(Coder& coder, const std::vector<Block>& blocks, const AdaptiveMode& mode) {
  const auto all = [&]<bool kMixing, bool kWithHeld>() {
    Body<Coder, kMixing, kWithHeld> body(coder, mode);
    for (const auto& block : blocks) body.piece(block);
  };
  if (!mode.mixing) {
    all.template operator()<false, false>();
  } else if (!blocks.empty() && blocks.front().held) {
    all.template operator()<true, true>();
  } else {
    all.template operator()<true, false>();
  }
}

}  // namespace

LogisticTables& logistic_tables() {
  static LogisticTables instance;
  return instance;
}

std::string adaptive_pack(const std::vector<Block>& blocks, const AdaptiveMode& mode) {
  ArithmeticEncoder coder;
  code_blocks(coder, blocks, mode);
  return std::move(coder.finish());
}

void adaptive_unpack(std::span<const uint8_t> data, const std::vector<Block>& blocks,
                     const AdaptiveMode& mode) {
  ArithmeticDecoder coder(data);
  code_blocks(coder, blocks, mode);
  coder.finish();
}

void add_centres(const float* x, const int32_t* indices, int64_t size, float inverse, int states, CentreSums& sums) {
  const Grid grid(states);
  int state = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t magnitude = std::abs(indices[i]);
    if (magnitude == 1 || magnitude == 2) {
      const auto kind = static_cast<size_t>(2 * grid.odd(state) + magnitude - 1);
      const float scaled = std::fabs(x[i]) * inverse;
      sums.sums[kind] += static_cast<int64_t>((scaled < 8.0f ? scaled : 8.0f) * 1024.0f);
      ++sums.counts[kind];
    }
    state = grid.next[state][magnitude & 1];
  }
}

void grid_values(const int32_t* indices, int64_t size, int states, std::span<const float> values, float step, int put,
                 float* out) {
  const Grid grid(states);
  int state = 0;
  for (int64_t i = 0; i < size; ++i) {
    const int32_t index = indices[i];
    const int32_t magnitude = std::abs(index);
    float value = 0.0f;
    if (magnitude) {
      const bool odd = grid.odd(state);
      value = magnitude <= 2 ? values[static_cast<size_t>(2 * odd + magnitude - 1)]
              : states       ? static_cast<float>(position_of(magnitude, odd)) * step
                             : static_cast<float>(magnitude) * step;
      value = index < 0 ? -value : value;
    }
    out[i] = put == 0 ? value : put == 1 ? out[i] + value : out[i] - value;
    state = grid.next[state][magnitude & 1];
  }
}

}  // namespace phloem
