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
  void reserve(uint64_t bits) { words_.reserve(words_.size() + bits / 64 + 2); }
  // Appends the `width` low bits of `value`, whose other bits are zero; width is at most 64.
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
    reserve(other.bits());
    for (const uint64_t word : other.words_) put(word, 64);
    if (other.count_) put(other.held_, other.count_);
  }
  uint64_t bits() const { return words_.size() * 64 + static_cast<uint64_t>(count_); }
  void finish(std::string& out) const {
    if (!words_.empty()) out.append(reinterpret_cast<const char*>(words_.data()), words_.size() * 8);
    out.append(reinterpret_cast<const char*>(&held_), static_cast<size_t>(count_ + 7) / 8);
  }

 private:
  Buffer<uint64_t> words_;
  uint64_t held_ = 0;
  int count_ = 0;
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
