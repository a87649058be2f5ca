// Raw bits, least significant first, without alignment between fields.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "common.hpp"

namespace phloem {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the kernels load and store little-endian words");

// An array that grows and is never filled: what was not written is not touched.
template <class T>
class Buffer {
 public:
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  T& back() { return data_.get()[size_ - 1]; }
  void reserve(size_t capacity) {
    if (capacity <= capacity_) return;
    capacity = std::max(capacity, capacity_ + capacity_ / 2);
    auto* grown = static_cast<T*>(std::realloc(data_.release(), capacity * sizeof(T)));
    if (!grown) throw std::bad_alloc();
    data_.reset(grown);
    capacity_ = capacity;
  }
  void resize(size_t size) {
    reserve(size);
    size_ = size;
  }
  void push_back(T value) {
    if (size_ == capacity_) reserve(size_ + 16);
    data_.get()[size_++] = value;
  }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0, capacity_ = 0;
};

class BitWriter {
 public:
  // Makes room for so many bits more.
  void reserve(uint64_t bits) { bytes_.reserve(size_ + bits / 8 + 24); }
  // Appends the `width` low bits of `value`, whose other bits are zero; width is at most 56. There must be room.
  void put_reserved(uint64_t value, int width) {
    held_ |= value << count_;
    std::memcpy(bytes_.data() + size_, &held_, 8);
    count_ += width;
    size_ += static_cast<size_t>(count_) >> 3;
    held_ >>= count_ & 0x38;
    count_ &= 7;
  }
  void put(uint64_t value, int width) {
    reserve(64);
    put_reserved(value, width);
  }
  // Appends up to 64 bits. There must be room.
  void put_word_reserved(uint64_t value, int width) {
    const int low = width < 32 ? width : 32;
    put_reserved(value & 0xffffffffu, low);
    put_reserved(value >> 32, width - low);
  }
  void append(const BitWriter& other) {
    reserve(other.size_ * 8 + 64);
    size_t at = 0;
    if (count_ == 0) {
      if (other.size_) std::memcpy(bytes_.data() + size_, other.bytes_.data(), other.size_);
      size_ += other.size_;
      at = other.size_;
    }
    for (; at + 7 <= other.size_; at += 7) {
      uint64_t seven = 0;
      std::memcpy(&seven, other.bytes_.data() + at, 7);
      put_reserved(seven, 56);
    }
    for (; at < other.size_; ++at) put_reserved(other.bytes_[at], 8);
    if (other.count_) put_reserved(other.held_, other.count_);
  }
  void finish(std::string& out) const {
    if (size_) out.append(reinterpret_cast<const char*>(bytes_.data()), size_);
    if (count_) out.push_back(static_cast<char>(held_));
  }

 private:
  Buffer<uint8_t> bytes_;
  size_t size_ = 0;  // whole bytes; the buffer has more room
  uint64_t held_ = 0;
  int count_ = 0;  // bits that are held: fewer than eight
};

// Reads from data that is followed by at least sixteen readable bytes; the caller checks the total first.
class BitReader {
 public:
  BitReader(const uint8_t* data, uint64_t at) : data_(data), at_(at) {}
  // At most 57 bits.
  uint64_t get(int width) {
    uint64_t word;
    std::memcpy(&word, data_ + (at_ >> 3), 8);
    word = (word >> (at_ & 7)) & ((uint64_t{1} << width) - 1);
    at_ += static_cast<uint64_t>(width);
    return word;
  }
  uint64_t at() const { return at_; }

 private:
  const uint8_t* data_;
  uint64_t at_;
};

}  // namespace phloem
