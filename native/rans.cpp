#include "rans.hpp"

#include <array>
#include <cstring>

#include "bits.hpp"

namespace phloem {

namespace {

constexpr uint32_t kLow = 1u << 15;
// A run of fewer tokens is decoded by search: filling a table would take longer.
constexpr size_t kTableFrom = 200;

// One entry per slot: frequency, (slot - start) << 12, token << 24. No frequency is 4,096: such tables send nothing.
void fill_slots(const TokenTable& table, std::array<uint32_t, 4096>& slots) {
  for (int t = 0; t < table.count; ++t) {
    const uint32_t first = table.frequencies[t] | static_cast<uint32_t>(t) << 24;
    uint32_t* at = slots.data() + table.starts[t];
    for (uint32_t i = 0; i < table.frequencies[t]; ++i) at[i] = first + (i << 12);
  }
}

// x * reciprocal >> shift is x / frequency for all x below 2^31: the reciprocal is 2^shift / frequency plus less than
// one, so the product is too large by less than x / 2^shift < 1 / frequency.
Divisors divisors_of(const TokenTable& table) {
  Divisors divisors{};
  for (int t = 0; t < table.count; ++t) {
    const uint32_t frequency = table.frequencies[t];
    const int shift = 31 + bit_length(frequency - 1);
    const uint64_t reciprocal = ((uint64_t{1} << shift) + frequency - 1) / frequency;
    divisors.limits[t] = frequency << 19;
    divisors.starts[t] = table.starts[t];
    divisors.complements[t] = 4096 - frequency;
    divisors.reciprocals[t] = static_cast<uint32_t>(reciprocal);
    divisors.shifts[t] = static_cast<uint32_t>(shift);
  }
  return divisors;
}

// The same as `Loops::rans_decode`, without a table of slots.
const uint8_t* decode_by_search(const TokenTable& table, std::span<uint8_t> tokens, uint32_t* states,
                                const uint8_t* word, const uint8_t* end) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    uint32_t& state = states[i % kLanes];
    const uint32_t slot = state & 4095;
    int token = table.count - 1;
    while (table.starts[token] > slot) --token;
    state = table.frequencies[token] * (state >> 12) + slot - table.starts[token];
    if (state < kLow) {
      if (end - word < 2) return nullptr;
      uint16_t next;
      std::memcpy(&next, word, 2);
      state = state << 16 | next;
      word += 2;
    }
    tokens[i] = static_cast<uint8_t>(token);
  }
  return word;
}

}  // namespace

void rans_encode(const std::vector<Run>& runs, const Loops& loops, std::string& out) {
  size_t total = 0;
  for (const Run& run : runs) total += run.tokens.size();
  alignas(64) std::array<uint32_t, kLanes> states;
  states.fill(kLow);
  Buffer<uint16_t> words;  // filled from the back: at most one word per token
  words.resize(total + kLanes);
  uint16_t* const end = words.data() + words.size();
  uint16_t* word = end;
  for (size_t r = runs.size(); r-- > 0;) {
    const Divisors by = divisors_of(*runs[r].table);
    word = loops.rans_encode(runs[r].tokens.data(), runs[r].tokens.size(), by, states.data(), word);
  }
  out.append(reinterpret_cast<const char*>(states.data()), 4 * kLanes);
  out.append(reinterpret_cast<const char*>(word), 2 * static_cast<size_t>(end - word));
}

uint64_t rans_most_tokens(size_t bytes) {
  return bytes < 4 * kLanes ? 0 : uint64_t{kLanes + (bytes - 4 * kLanes) / 2} << 16;
}

size_t rans_decode(std::span<const uint8_t> data, size_t start, const std::vector<Run>& runs, const Loops& loops) {
  if (data.size() < start + 4 * kLanes) throw FormatError("The frame ends inside the coder states.");
  alignas(64) std::array<uint32_t, kLanes> states;
  std::memcpy(states.data(), data.data() + start, 4 * kLanes);
  for (uint32_t state : states) {
    if (state < kLow || state >> 31) throw FormatError("A coder state is out of range.");
  }
  const uint8_t* word = data.data() + start + 4 * kLanes;
  const uint8_t* const end = word + (data.size() - start - 4 * kLanes) / 2 * 2;
  alignas(64) std::array<uint32_t, 4096> slots;
  for (const Run& run : runs) {
    if (run.tokens.size() < kTableFrom) {
      word = decode_by_search(*run.table, run.tokens, states.data(), word, end);
    } else {
      fill_slots(*run.table, slots);
      word = loops.rans_decode(slots.data(), run.tokens.data(), run.tokens.size(), states.data(), word, end);
    }
    if (!word) throw FormatError("The frame ends inside the tokens.");
  }
  for (uint32_t state : states) {
    if (state != kLow) throw FormatError("A coder does not end where it must.");
  }
  return static_cast<size_t>(word - data.data());
}

}  // namespace phloem
