// The binary arithmetic coder of the adaptive efforts (specification: phloem/kernels/arithmetic.py).
//
// 64 bits of range and 22 of probability: a code word leaves 32 bits at a time, and a zero that is all but certain
// costs a millionth of a bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "common.hpp"

namespace phloem {

constexpr int kShareBits = 22;

struct ArithmeticEnd {
  uint64_t value;
  size_t bytes;
};

// The shortest end of a code word: the fewest bytes that stay in [low, low + range) whatever follows them. So no code
// word is the beginning of another.
inline ArithmeticEnd shortest_end(uint64_t low, uint64_t range) {
  for (size_t bytes = 1;; ++bytes) {  // ends with five bytes at the latest, because the range is 2^32 or more
    const uint64_t mask = ~uint64_t{0} >> (8 * bytes);
    const uint64_t value = (low + mask) & ~mask;  // may wrap around: a carry
    if (mask < range && value - low < range - mask) return {value, bytes};
  }
}

class ArithmeticEncoder {
 public:
  static constexpr bool kDecodes = false;

  bool bit(uint32_t one, bool bit) {
    const uint64_t part = (range_ >> kShareBits) * one;
    if (bit) {
      add(range_ - part);
      range_ = part;
    } else {
      range_ -= part;
    }
    settle();
    return bit;
  }
  uint32_t raw(int width, uint32_t value) {
    range_ >>= width;
    add(range_ * value);
    settle();
    return value;
  }
  std::string& finish() {
    const ArithmeticEnd end = shortest_end(low_, range_);
    if (end.value < low_) carry();
    for (size_t i = 0; i < end.bytes; ++i) out_.push_back(static_cast<char>(end.value >> (56 - 8 * i)));
    return out_;
  }

 private:
  void add(uint64_t amount) {
    low_ += amount;
    if (low_ < amount) carry();
  }
  void carry() {
    size_t at = out_.size() - 1;
    while (static_cast<uint8_t>(out_[at]) == 255) out_[at--] = 0;
    out_[at] = static_cast<char>(static_cast<uint8_t>(out_[at]) + 1);
  }
  void settle() {
    if (range_ >> 32) return;
    for (int shift = 56; shift >= 32; shift -= 8) out_.push_back(static_cast<char>(low_ >> shift));
    low_ <<= 32;
    range_ <<= 32;
  }
  uint64_t low_ = 0, range_ = ~uint64_t{0};
  std::string out_;
};

class ArithmeticDecoder {
 public:
  static constexpr bool kDecodes = true;

  explicit ArithmeticDecoder(std::span<const uint8_t> data) : data_(data) {
    code_ = static_cast<uint64_t>(word()) << 32;
    code_ |= word();
  }
  bool bit(uint32_t one, bool = false) {
    const uint64_t part = (range_ >> kShareBits) * one;
    const uint64_t rest = range_ - part;
    const bool bit = code_ >= rest;
    if (bit) {
      code_ -= rest;
      range_ = part;
    } else {
      range_ = rest;
    }
    settle();
    return bit;
  }
  uint32_t raw(int width, uint32_t = 0) {
    range_ >>= width;
    const auto most = (uint64_t{1} << width) - 1;
    const uint64_t value = std::min(code_ / range_, most);
    code_ -= value * range_;
    settle();
    return static_cast<uint32_t>(value);
  }
  // The data must be what the encoder would have written, to the last byte.
  void finish() const {
    const size_t start = next_ - 8;
    uint64_t window = 0;
    for (size_t i = 0; i < 8; ++i) window = window << 8 | at(start + i);
    const ArithmeticEnd end = shortest_end(window - code_, range_);
    if (code_ >= range_ || end.value != window || data_.size() != start + end.bytes) {
      throw FormatError("The coded coefficients do not end where the part ends.");
    }
  }

 private:
  uint32_t at(size_t i) const { return i < data_.size() ? data_[i] : 0; }
  uint32_t word() {
    if (next_ >= data_.size() + 8) throw FormatError("The body ends inside the coded coefficients.");
    const uint32_t value = at(next_) << 24 | at(next_ + 1) << 16 | at(next_ + 2) << 8 | at(next_ + 3);
    next_ += 4;
    return value;
  }
  void settle() {
    if (range_ >> 32) return;
    code_ = code_ << 32 | word();
    range_ <<= 32;
  }
  std::span<const uint8_t> data_;
  size_t next_ = 0;
  uint64_t code_ = 0, range_ = ~uint64_t{0};
};

}  // namespace phloem
