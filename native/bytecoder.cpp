#include "bytecoder.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "common.hpp"
#include "planes_loops.hpp"

namespace phloem {

namespace {

enum Kind : uint8_t { kRaw, kConstant, kOneLane, kManyLanesKind };

constexpr uint32_t kLow = 1u << 15, kTotal = 4096;
constexpr size_t kManyFrom = 4096;
constexpr int kLongestPrefix = 13;

using Frequencies = std::array<uint32_t, 256>;

Frequencies quantise_counts(const uint32_t* counts, uint64_t total) {
  Frequencies frequencies{};
  int64_t missing = kTotal;
  for (size_t v = 0; v < 256; ++v) {
    if (!counts[v]) continue;
    const uint64_t rounded = (2 * uint64_t{counts[v]} * kTotal + total) / (2 * total);
    frequencies[v] = static_cast<uint32_t>(rounded < 1 ? 1 : rounded > kTotal - 1 ? kTotal - 1 : rounded);
    missing -= frequencies[v];
  }
  for (; missing > 0; --missing) {
    size_t best = 0;
    int64_t most = -2;
    for (size_t v = 0; v < 256; ++v) {
      const uint32_t f = frequencies[v];
      const int64_t rate =
          f >= kTotal - 1 ? -1 : static_cast<int64_t>((uint64_t{counts[v]} << 12) / (f < 1 ? 1 : f));
      if (rate > most) most = rate, best = v;
    }
    ++frequencies[best];
  }
  for (; missing < 0; ++missing) {
    size_t best = 256;
    uint64_t fewest = 0;
    for (size_t v = 0; v < 256; ++v) {
      const uint32_t f = frequencies[v];
      if (f < 2) continue;
      const uint64_t rate = (uint64_t{counts[v]} << 12) / (f - 1);
      if (best == 256 || rate < fewest) fewest = rate, best = v;
    }
    --frequencies[best];
  }
  return frequencies;
}

// log2 in Q16 of a number below 4096 (tables.py).
int64_t log2_q16(uint32_t number) {
  const int exponent = bit_length(number) - 1;
  return (int64_t{exponent} << 16) + tables().logs[((number << 12) >> exponent) - 4096];
}

class BitWriter {
 public:
  void put(uint32_t value, int width) {
    bits_ |= uint64_t{value} << size_;
    for (size_ += width; size_ >= 8; size_ -= 8, bits_ >>= 8) bytes.push_back(static_cast<char>(bits_));
  }
  void close() {
    if (size_) bytes.push_back(static_cast<char>(bits_));
  }
  std::string bytes;

 private:
  uint64_t bits_ = 0;
  int size_ = 0;
};

std::string table_of(const Frequencies& frequencies) {
  size_t low = 0, high = 255;
  while (!frequencies[low]) ++low;
  while (!frequencies[high]) --high;
  std::array<uint32_t, 256> values{};
  size_t count = 0;
  int64_t last = 0;
  for (size_t v = low; v < high; ++v) {
    const int64_t change = frequencies[v] - last;
    values[count++] = static_cast<uint32_t>(change >= 0 ? 2 * change : -2 * change - 1);
    last = frequencies[v];
  }
  int order = 0;
  int64_t fewest = INT64_MAX;
  for (int k = 0; k < 8; ++k) {
    int64_t bits = 0;
    for (size_t i = 0; i < count; ++i) bits += 2 * bit_length((values[i] >> k) + 1) - 1 + k;
    if (bits < fewest) fewest = bits, order = k;
  }
  BitWriter out;
  out.bytes = {static_cast<char>(low), static_cast<char>(high)};
  out.put(static_cast<uint32_t>(order), 3);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t shifted = values[i] + (1u << order);
    const int tail = bit_length(shifted) - 1, ones = tail - order;
    out.put((1u << ones) - 1, ones + 1);
    out.put(shifted & ((1u << tail) - 1), tail);
  }
  out.close();
  return out.bytes;
}

size_t read_table(std::span<const uint8_t> body, size_t start, Frequencies& frequencies) {
  if (body.size() - start < 3 || body[start] >= body[start + 1]) {
    throw FormatError("A table's range of values is cut short or empty.");
  }
  const size_t low = body[start], high = body[start + 1], begin = start + 2;
  const size_t size = 8 * (body.size() - begin);
  size_t at = 0;
  // Bits after the end read as zeros; `at` says afterwards that they were not there.
  const auto take = [&](int width) {
    uint32_t value = 0;
    for (int i = 0; i < width; ++i, ++at) {
      if (at < size) value |= static_cast<uint32_t>(body[begin + at / 8] >> (at % 8) & 1) << i;
    }
    return value;
  };
  const auto order = static_cast<int>(take(3));
  int64_t frequency = 0, left = kTotal;
  frequencies.fill(0);
  for (size_t value = low; value < high; ++value) {
    int ones = 0;
    while (take(1)) {
      if (++ones > kLongestPrefix) throw FormatError("A table's number is too long.");
    }
    const int width = ones + order;
    const int64_t change = (int64_t{1} << width | take(width)) - (int64_t{1} << order);
    if (at > size) throw FormatError("The body ends inside a table.");
    frequency += change & 1 ? -((change + 1) >> 1) : change >> 1;
    if (frequency < 0 || frequency >= left || (value == low && frequency == 0)) {
      throw FormatError("A table's frequencies are out of range.");
    }
    frequencies[value] = static_cast<uint32_t>(frequency);
    left -= frequency;
  }
  if (left == kTotal || take(static_cast<int>((8 - at % 8) % 8))) {
    throw FormatError("A table does not end where it must.");
  }
  frequencies[high] = static_cast<uint32_t>(left);
  return begin + (at + 7) / 8;
}

ByteDivisors divisors_of(const Frequencies& frequencies) {
  ByteDivisors by{};
  uint32_t start = 0;
  for (size_t v = 0; v < 256; ++v) {
    const uint32_t frequency = frequencies[v];
    if (!frequency) continue;
    const int extra = bit_length(frequency - 1);
    by.reciprocal[v] = static_cast<uint32_t>(((uint64_t{1} << (31 + extra)) + frequency - 1) / frequency);
    by.packed[v] = start | frequency << 12 | static_cast<uint32_t>(extra) << 24;
    start += frequency;
  }
  return by;
}

std::string rans_bytes(std::span<const uint8_t> bytes, const Frequencies& frequencies, size_t lanes) {
  const ByteDivisors by = divisors_of(frequencies);
  std::array<uint32_t, kManyLanes> states;
  states.fill(kLow);
  std::vector<uint16_t> words(bytes.size() + 1);  // filled from the back, one place spare
  uint16_t* const end = words.data() + bytes.size() + 1;
  uint16_t* word = end;
  const size_t whole = lanes == kManyLanes ? bytes.size() / kManyLanes : 0;
  for (size_t i = bytes.size(); i-- > whole * kManyLanes;) {
    uint32_t& state = states[i % lanes];
    const uint32_t packed = by.packed[bytes[i]], frequency = packed >> 12 & 4095;
    if (state >= frequency << 19) {
      *--word = static_cast<uint16_t>(state);
      state >>= 16;
    }
    const auto quotient = static_cast<uint32_t>((uint64_t{state} * by.reciprocal[bytes[i]]) >> ((packed >> 24) + 31));
    state += (packed & 4095) + quotient * (4096 - frequency);
  }
  word = plane_loops().encode(bytes.data(), whole, by, states.data(), word);
  std::string out(4 * lanes + 2 * static_cast<size_t>(end - word), '\0');
  std::memcpy(out.data(), states.data(), 4 * lanes);
  std::memcpy(out.data() + 4 * lanes, word, 2 * static_cast<size_t>(end - word));
  return out;
}

// One entry per slot: byte value, frequency << 8, place in the frequency << 20.
std::array<uint32_t, 4096> slots_of(const Frequencies& frequencies) {
  std::array<uint32_t, 4096> slots;
  size_t slot = 0;
  for (uint32_t v = 0; v < 256; ++v) {
    for (uint32_t i = 0; i < frequencies[v]; ++i) slots[slot++] = v | frequencies[v] << 8 | i << 20;
  }
  return slots;
}

size_t read_rans(std::span<const uint8_t> body, size_t start, const Frequencies& frequencies, size_t lanes,
                 std::span<uint8_t> bytes) {
  if (body.size() - start < 4 * lanes) throw FormatError("The body ends inside the coder states.");
  std::array<uint32_t, kManyLanes> states;
  std::memcpy(states.data(), body.data() + start, 4 * lanes);
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (states[lane] < kLow || states[lane] >> 31) throw FormatError("A coder state is out of range.");
  }
  const auto slots = slots_of(frequencies);
  const uint8_t* word = body.data() + start + 4 * lanes;
  const uint8_t* const end = body.data() + body.size();
  size_t i = 0;
  if (lanes == kManyLanes) {
    i = kManyLanes *
        plane_loops().decode(slots.data(), states.data(), bytes.data(), bytes.size() / kManyLanes, &word, end);
  }
  for (; i < bytes.size(); ++i) {
    uint32_t& state = states[i % lanes];
    const uint32_t entry = slots[state & 4095];
    state = (entry >> 8 & 4095) * (state >> 12) + (entry >> 20);
    bytes[i] = static_cast<uint8_t>(entry);
    if (state < kLow) {
      if (end - word < 2) throw FormatError("The body ends inside a coded block.");
      uint16_t next;
      std::memcpy(&next, word, 2);
      state = state << 16 | next;
      word += 2;
    }
  }
  for (size_t lane = 0; lane < lanes; ++lane) {
    if (states[lane] != kLow) throw FormatError("A coder does not end where it must.");
  }
  return static_cast<size_t>(word - body.data());
}

}  // namespace

std::string block_encode(std::span<const uint8_t> bytes) {
  std::array<uint32_t, 256> counts;
  plane_loops().count(bytes.data(), bytes.size(), counts.data());
  size_t present = 0, last = 0;
  for (size_t v = 0; v < 256; ++v) {
    if (counts[v]) ++present, last = v;
  }
  if (present == 1) return {static_cast<char>(kConstant), static_cast<char>(last)};
  std::string raw(1, static_cast<char>(kRaw));
  if (present > 1) {
    const Frequencies frequencies = quantise_counts(counts.data(), bytes.size());
    const std::string table = table_of(frequencies);
    int64_t bits = 0;
    for (size_t v = 0; v < 256; ++v) {
      if (counts[v]) bits += int64_t{counts[v]} * ((12 << 16) - log2_q16(frequencies[v]));
    }
    const size_t coded = static_cast<size_t>(bits >> 19) + 1;
    const size_t lanes = coded >= kManyFrom ? kManyLanes : 1;
    if (table.size() + 4 * lanes + coded < bytes.size() - (bytes.size() >> 7)) {
      std::string block(1, static_cast<char>(lanes == kManyLanes ? kManyLanesKind : kOneLane));
      block += table;
      block += rans_bytes(bytes, frequencies, lanes);
      if (block.size() < 1 + bytes.size()) return block;
    }
  }
  raw.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return raw;
}

size_t block_decode(std::span<const uint8_t> body, size_t start, std::span<uint8_t> bytes) {
  if (start >= body.size()) throw FormatError("The body ends before a block.");
  const uint8_t kind = body[start++];
  if (kind == kRaw) {
    if (body.size() - start < bytes.size()) throw FormatError("The body ends inside a raw block.");
    if (!bytes.empty()) std::memcpy(bytes.data(), body.data() + start, bytes.size());
    return start + bytes.size();
  }
  if (kind == kConstant) {
    if (start >= body.size()) throw FormatError("The body ends inside a constant block.");
    if (!bytes.empty()) std::memset(bytes.data(), body[start], bytes.size());
    return start + 1;
  }
  if (kind != kOneLane && kind != kManyLanesKind) {
    throw FormatError("A block has the unknown kind " + std::to_string(kind) + ".");
  }
  Frequencies frequencies;
  start = read_table(body, start, frequencies);
  return read_rans(body, start, frequencies, kind == kManyLanesKind ? kManyLanes : 1, bytes);
}

}  // namespace phloem
