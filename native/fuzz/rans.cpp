// Fuzzes the 32 lanes of tokens: any bytes either fill the runs or are refused by a FormatError.
//
//   byte 0         runs, 1 to 4 (modulo 4)
//   4 bytes each   tokens in two bytes, little-endian (modulo 4,096), and two bytes that make the table
//   the rest       the coder's bytes
#include "../rans.hpp"

#include <cstdlib>
#include <deque>

#include "tables.inc"

using namespace phloem;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  tables() = fuzz::made_tables();
  return 0;
}

namespace {

// A table of gaps, or one of hazards.
TokenTable table_of(int first, int second) {
  if (first & 1) {
    Hazards hazards;
    for (int t = 0; t <= (first >> 1) % 15; ++t) hazards.push_back((second + 7 * t) % kLadder);
    return hazard_table(hazards);
  }
  const int64_t ones = second + 1, others = (first >> 1) * ones;
  return gap_table(others, ones, gap_shift(others, ones));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const size_t count = size ? data[0] % 4 + 1 : 0;
  if (size < 1 + 4 * count) return 0;
  std::deque<std::vector<uint8_t>> tokens;
  std::deque<TokenTable> known;
  std::vector<Run> runs;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* at = data + 1 + 4 * i;
    tokens.emplace_back(static_cast<size_t>(at[0] | at[1] << 8) % 4096);
    known.push_back(table_of(at[2], at[3]));
    runs.push_back({{tokens.back().data(), tokens.back().size()}, &known.back()});
  }
  const std::vector<uint8_t> body(data + 1 + 4 * count, data + size);  // of its own, so that a read beyond it is seen
  try {
    if (rans_decode(body, 0, runs, PHLOEM_LEVEL::kLoops) > body.size()) std::abort();
  } catch (const FormatError&) {
    return 0;
  }
  for (const Run& run : runs) {
    for (const uint8_t token : run.tokens) {
      if (token >= run.table->count) std::abort();
    }
  }
  return 0;
}
