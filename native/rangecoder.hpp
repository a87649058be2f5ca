// The adaptive binary range coder (specification: phloem/kernels/rangecoder.py).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "common.hpp"

namespace phloem {

constexpr uint32_t kTop = 1u << 24;
constexpr int kSlowest = 30;
constexpr int kPrefixLongest = 40;

template <class Self>
class Adaptive {
 public:
  explicit Adaptive(int contexts)
      : zero_(static_cast<size_t>(contexts), 32768), used_(static_cast<size_t>(contexts), 0) {}

  // A number from 0 up, as Exp-Golomb with an adaptive prefix in `contexts` contexts.
  uint64_t number(int context, int contexts, uint64_t value = 0) {
    const int length = bit_length(value + 1) - 1;
    int prefix = 0;
    while (self().bit(context + std::min(prefix, contexts - 1), prefix < length)) {
      if (++prefix > kPrefixLongest) throw FormatError("A number in the side information is too long.");
    }
    const uint64_t rest = self().raw(prefix, value + 1 - (uint64_t{1} << length));
    return (uint64_t{1} << prefix) + rest - 1;
  }

  // Any integer: zero flag, sign, then the magnitude.
  int64_t integer(int context, int contexts, int64_t value = 0) {
    if (!self().bit(context, value != 0)) return 0;
    const bool negative = self().bit(context + 1, value < 0);
    const uint64_t given = value == 0 ? 0 : static_cast<uint64_t>(value < 0 ? -value : value) - 1;
    const int64_t magnitude = static_cast<int64_t>(number(context + 2, contexts, given)) + 1;
    return negative ? -magnitude : magnitude;
  }

 protected:
  uint32_t share(int context) const { return zero_[static_cast<size_t>(context)] >> 4; }
  void learn(int context, bool bit) {
    uint32_t& zero = zero_[static_cast<size_t>(context)];
    uint8_t& used = used_[static_cast<size_t>(context)];
    const uint32_t rate = 65536u / (used + 2u);
    if (bit) {
      zero -= (zero * rate) >> 16;
      zero = std::max(zero, 64u);
    } else {
      zero += ((65536u - zero) * rate) >> 16;
      zero = std::min(zero, 65536u - 64u);
    }
    if (used < kSlowest) ++used;
  }

 private:
  Self& self() { return static_cast<Self&>(*this); }
  std::vector<uint32_t> zero_;
  std::vector<uint8_t> used_;
};

class RangeEncoder : public Adaptive<RangeEncoder> {
 public:
  using Adaptive::Adaptive;

  bool bit(int context, bool bit) {
    const uint32_t bound = (range_ >> 12) * share(context);
    if (bit) {
      low_ += bound;
      range_ -= bound;
    } else {
      range_ = bound;
    }
    settle();
    learn(context, bit);
    return bit;
  }
  uint64_t raw(int width, uint64_t value) {
    for (int left = width; left;) {
      const int take = std::min(left, 8);
      left -= take;
      range_ >>= take;
      low_ += uint64_t{range_} * ((value >> left) & ((1u << take) - 1));
      settle();
    }
    return value;
  }
  void symbol(uint32_t start, uint32_t frequency) {
    const uint32_t share = range_ >> 12;
    low_ += uint64_t{share} * start;
    range_ = share * frequency;
    settle();
  }
  std::string& finish() {
    low_ += 0xffff;
    settle();
    out_.push_back(static_cast<char>(low_ >> 24));
    out_.push_back(static_cast<char>(low_ >> 16));
    return out_;
  }

 private:
  void settle() {
    if (low_ >> 32) {
      low_ &= 0xffffffffu;
      size_t at = out_.size() - 1;
      while (static_cast<uint8_t>(out_[at]) == 255) out_[at--] = 0;
      out_[at] = static_cast<char>(static_cast<uint8_t>(out_[at]) + 1);
    }
    while (range_ < kTop) {
      out_.push_back(static_cast<char>(low_ >> 24));
      low_ = (low_ << 8) & 0xffffffffu;
      range_ <<= 8;
    }
  }
  uint64_t low_ = 0;
  uint32_t range_ = 0xffffffffu;
  std::string out_;
};

class RangeDecoder : public Adaptive<RangeDecoder> {
 public:
  RangeDecoder(int contexts, const uint8_t* data, size_t start, size_t size)
      : Adaptive(contexts), data_(data), next_(start), size_(size) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | byte();
  }
  // Where the coder's bytes end, never beyond the end of the data.
  size_t position() const { return next_ - 2; }

  bool bit(int context, bool = false) {
    const uint32_t bound = (range_ >> 12) * share(context);
    const bool bit = code_ >= bound;
    if (bit) {
      code_ -= bound;
      range_ -= bound;
    } else {
      range_ = bound;
    }
    fill();
    learn(context, bit);
    return bit;
  }
  uint64_t raw(int width, uint64_t = 0) {
    uint64_t value = 0;
    for (int left = width; left;) {
      const int take = std::min(left, 8);
      left -= take;
      range_ >>= take;
      const uint32_t digit = std::min(code_ / range_, (1u << take) - 1);
      code_ -= digit * range_;
      value = value << take | digit;
      fill();
    }
    return value;
  }
  // A token of a 12-bit table with `count` entries.
  int symbol(const uint32_t* starts, const uint32_t* frequencies, int count) {
    const uint32_t share = range_ >> 12;
    const uint32_t slot = std::min(code_ / share, 4095u);
    int token = count - 1;
    while (starts[token] > slot) --token;
    code_ -= share * starts[token];
    range_ = share * frequencies[token];
    fill();
    return token;
  }

 private:
  // Beyond the end are zeros, of which a whole stream has two at most: the decoder is two bytes ahead.
  uint32_t byte() {
    if (next_ >= size_ + 2) throw FormatError("The body ends inside the side information.");
    const uint32_t value = next_ < size_ ? data_[next_] : 0;
    ++next_;
    return value;
  }
  void fill() {
    while (range_ < kTop) {
      code_ = code_ << 8 | byte();
      range_ <<= 8;
    }
  }
  const uint8_t* data_;
  size_t next_, size_;
  uint32_t range_ = 0xffffffffu;
  uint32_t code_ = 0;
};

}  // namespace phloem
