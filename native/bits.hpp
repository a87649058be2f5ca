// Raw bits, least significant first, without alignment between fields.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "common.hpp"

namespace phloem {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the kernels load and store little-endian words");

class BitWriter {
 public:
  // Appends the `width` low bits of `value`, whose other bits are zero; width is at most 57.
  void put(uint64_t value, int width) {
    held_ |= value << count_;
    const int total = count_ + width;
    if (total >= 64) {
      words_.push_back(held_);
      held_ = count_ ? value >> (64 - count_) : 0;
      count_ = total - 64;
    } else {
      count_ = total;
    }
  }
  void append(const BitWriter& other) {
    for (uint64_t word : other.words_) {
      put(word & 0xffffffffu, 32);
      put(word >> 32, 32);
    }
    if (other.count_ > 32) {
      put(other.held_ & 0xffffffffu, 32);
      put(other.held_ >> 32, other.count_ - 32);
    } else if (other.count_) {
      put(other.held_, other.count_);
    }
  }
  void finish(std::string& out) const {
    out.append(reinterpret_cast<const char*>(words_.data()), words_.size() * 8);
    out.append(reinterpret_cast<const char*>(&held_), static_cast<size_t>(count_ + 7) / 8);
  }

 private:
  std::vector<uint64_t> words_;
  uint64_t held_ = 0;
  int count_ = 0;
};

// Reads from data that is followed by at least eight readable bytes; the caller checks the total first.
class BitReader {
 public:
  BitReader(const uint8_t* data, uint64_t at) : data_(data), at_(at) {}
  uint64_t get(int width) {
    uint64_t word;
    std::memcpy(&word, data_ + (at_ >> 3), 8);
    word = (word >> (at_ & 7)) & ((uint64_t{1} << width) - 1);
    at_ += static_cast<uint64_t>(width);
    return word;
  }
  void skip(uint64_t width) { at_ += width; }

 private:
  const uint8_t* data_;
  uint64_t at_;
};

}  // namespace phloem
