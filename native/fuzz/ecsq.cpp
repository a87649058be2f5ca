// Any body for any shapes either decodes or is refused by a FormatError; the sanitisers see to the rest.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "../codec.hpp"
#include "input.hpp"
#include "tables.inc"

using namespace phloem;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  tables() = fuzz::made_tables();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input;
  Step step{};
  if (!fuzz::take_apart(data, size, input) || !fuzz::read_step(input.body, step)) return 0;
  std::vector<std::vector<float>> arrays;
  std::vector<Output> outputs;
  for (const Shape& shape : input.shapes) arrays.emplace_back(static_cast<size_t>(shape.size()));
  for (size_t i = 0; i < arrays.size(); ++i) outputs.push_back({arrays[i].data(), input.shapes[i]});
  try {
    decode(input.body, step, outputs);
  } catch (const FormatError&) {
    return 0;
  }
  for (const auto& array : arrays) {
    for (float value : array) {
      if (!std::isfinite(value)) {
        std::fprintf(stderr, "a decoded value is not finite\n");
        std::abort();
      }
    }
  }
  return 0;
}
