#include "rans.hpp"

#include <array>
#include <cstring>

#include "common.hpp"

namespace phloem {

namespace {

constexpr uint32_t kLow = 1u << 15;

// One entry per slot: frequency, slot - start, token.
struct Slot {
  uint16_t frequency, offset;
  uint8_t token;
};

std::array<Slot, 4096> slots_of(const TokenTable& table) {
  std::array<Slot, 4096> slots;
  for (int t = 0; t < table.count; ++t) {
    for (uint32_t i = 0; i < table.frequencies[t]; ++i) {
      slots[table.starts[t] + i] = {static_cast<uint16_t>(table.frequencies[t]), static_cast<uint16_t>(i),
                                    static_cast<uint8_t>(t)};
    }
  }
  return slots;
}

// What the encoder needs of a token. x * reciprocal >> shift is x / frequency for all x below 2^31: the reciprocal
// is 2^shift / frequency plus less than one, so the product is too large by less than x / 2^shift < 1 / frequency.
struct Divisor {
  uint32_t limit, start, complement, reciprocal;
  int shift;
};

std::array<Divisor, kTokens> divisors_of(const TokenTable& table) {
  std::array<Divisor, kTokens> divisors{};
  for (int t = 0; t < table.count; ++t) {
    const uint32_t frequency = table.frequencies[t];
    const int shift = 31 + bit_length(frequency - 1);
    const uint64_t reciprocal = ((uint64_t{1} << shift) + frequency - 1) / frequency;
    divisors[t] = {frequency << 19, table.starts[t], 4096 - frequency, static_cast<uint32_t>(reciprocal), shift};
  }
  return divisors;
}

uint16_t load16(const uint8_t* at) {
  uint16_t value;
  std::memcpy(&value, at, 2);
  return value;
}

}  // namespace

void rans_encode(const std::vector<Run>& runs, std::string& out) {
  size_t total = 0;
  for (const Run& run : runs) total += run.tokens.size();
  std::array<uint32_t, kLanes> states;
  states.fill(kLow);
  std::vector<uint16_t> words(total + 1);  // filled from the back: at most one word per token, one place spare
  uint16_t* word = words.data() + total + 1;
  size_t index = total;
  for (size_t r = runs.size(); r-- > 0;) {
    const auto divisors = divisors_of(runs[r].table);
    const uint8_t* tokens = runs[r].tokens.data();
    for (size_t i = runs[r].tokens.size(); i-- > 0;) {
      --index;
      uint32_t& state = states[index % kLanes];
      const Divisor& by = divisors[tokens[i]];
      const bool full = state >= by.limit;
      word[-1] = static_cast<uint16_t>(state);  // overwritten by the next unless it counts
      word -= full;
      const uint32_t kept = full ? state >> 16 : state;
      const auto quotient = static_cast<uint32_t>((uint64_t{kept} * by.reciprocal) >> by.shift);
      // quotient * 4096 + remainder + start
      state = kept + by.start + quotient * by.complement;
    }
  }
  out.append(reinterpret_cast<const char*>(states.data()), 4 * kLanes);
  out.append(reinterpret_cast<const char*>(word), 2 * static_cast<size_t>(words.data() + total + 1 - word));
}

uint64_t rans_most_tokens(size_t bytes) {
  return bytes < 4 * kLanes ? 0 : uint64_t{kLanes + (bytes - 4 * kLanes) / 2} << 16;
}

size_t rans_decode(std::span<const uint8_t> data, size_t start, const std::vector<Run>& runs) {
  if (data.size() < start + 4 * kLanes) throw FormatError("The frame ends inside the coder states.");
  std::array<uint32_t, kLanes> states;
  std::memcpy(states.data(), data.data() + start, 4 * kLanes);
  for (uint32_t state : states) {
    if (state < kLow || state >> 31) throw FormatError("A coder state is out of range.");
  }
  const uint8_t* word = data.data() + start + 4 * kLanes;
  const uint8_t* const end = word + (data.size() - start - 4 * kLanes) / 2 * 2;
  size_t index = 0;
  for (const Run& run : runs) {
    const auto slots = slots_of(run.table);
    const size_t count = run.tokens.size();
    uint8_t* tokens = run.tokens.data();
    size_t i = 0;
    while (i < count) {
      // a block needs at most as many words as it has tokens; so many are not checked one by one
      const size_t block = count - i < 4096 ? count - i : 4096;
      if (static_cast<size_t>(end - word) >= 2 * block + 2) {
        for (const size_t stop = i + block; i < stop; ++i, ++index) {
          uint32_t& state = states[index % kLanes];
          const Slot slot = slots[state & 4095];
          const uint32_t next = slot.frequency * (state >> 12) + slot.offset;
          const bool hungry = next < kLow;
          state = hungry ? next << 16 | load16(word) : next;
          word += hungry ? 2 : 0;
          tokens[i] = slot.token;
        }
      } else {
        for (const size_t stop = i + block; i < stop; ++i, ++index) {
          uint32_t& state = states[index % kLanes];
          const Slot slot = slots[state & 4095];
          state = slot.frequency * (state >> 12) + slot.offset;
          if (state < kLow) {
            if (word == end) throw FormatError("The frame ends inside the tokens.");
            state = state << 16 | load16(word);
            word += 2;
          }
          tokens[i] = slot.token;
        }
      }
    }
  }
  for (uint32_t state : states) {
    if (state != kLow) throw FormatError("A coder does not end where it must.");
  }
  return static_cast<size_t>(word - data.data());
}

}  // namespace phloem
