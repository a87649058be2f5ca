#include "planes.hpp"

#include <array>
#include <cstring>

#include "planes_loops.hpp"

namespace phloem {

namespace {

constexpr int64_t kSmallestClass = 8192;

// Where each class begins.
std::array<size_t, 256> starts_of(const std::vector<uint8_t>& classes) {
  std::array<uint32_t, 256> counts;
  plane_loops().count(classes.data(), classes.size(), counts.data());
  std::array<size_t, 256> starts;
  size_t position = 0;
  for (size_t c = 0; c < 256; ++c) {
    starts[c] = position;
    position += counts[c];
  }
  return starts;
}

template <class Word>
void scatter(const std::vector<uint8_t>& from, const std::vector<uint8_t>& classes, std::vector<uint8_t>& to) {
  auto starts = starts_of(classes);
  constexpr size_t size = sizeof(Word);
  for (size_t i = 0; i < classes.size(); ++i) {
    std::memcpy(to.data() + size * starts[classes[i]]++, from.data() + size * i, size);
  }
}

template <class Word>
void gather(const std::vector<uint8_t>& from, const std::vector<uint8_t>& classes, std::vector<uint8_t>& to) {
  auto starts = starts_of(classes);
  constexpr size_t size = sizeof(Word);
  for (size_t i = 0; i < classes.size(); ++i) {
    std::memcpy(to.data() + size * i, from.data() + size * starts[classes[i]]++, size);
  }
}

}  // namespace

std::vector<int64_t> differences_ends(const uint8_t* base, size_t n, size_t itemsize, int exponent_bits) {
  std::vector<int64_t> ends;
  std::vector<uint8_t> classes(n);
  plane_loops().classify(base, n, itemsize, exponent_bits, classes.data());
  const auto starts = starts_of(classes);
  int64_t begin = 0;
  for (size_t c = 0; c < 256; ++c) {
    const auto end = static_cast<int64_t>(c < 255 ? starts[c + 1] : n);
    if (end - begin >= kSmallestClass) {
      ends.push_back(end);
      begin = end;
    }
  }
  if (static_cast<int64_t>(n) > begin) {
    if (ends.empty()) ends.push_back(0);
    ends.back() = static_cast<int64_t>(n);
  }
  return ends;
}

void split_differences(const uint8_t* elements, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits,
                       uint8_t* planes) {
  std::vector<uint8_t> folded(n * itemsize), placed(n * itemsize), classes(n);
  plane_loops().fold(elements, base, n, itemsize, exponent_bits, folded.data(), classes.data());
  if (itemsize == 1) scatter<uint8_t>(folded, classes, placed);
  if (itemsize == 2) scatter<uint16_t>(folded, classes, placed);
  if (itemsize == 4) scatter<uint32_t>(folded, classes, placed);
  if (itemsize == 8) scatter<uint64_t>(folded, classes, placed);
  plane_loops().split(placed.data(), n, itemsize, false, planes);
}

void merge_differences(const uint8_t* planes, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits,
                       uint8_t* elements) {
  std::vector<uint8_t> placed(n * itemsize), folded(n * itemsize), classes(n);
  plane_loops().merge(planes, n, itemsize, false, placed.data());
  plane_loops().classify(base, n, itemsize, exponent_bits, classes.data());
  if (itemsize == 1) gather<uint8_t>(placed, classes, folded);
  if (itemsize == 2) gather<uint16_t>(placed, classes, folded);
  if (itemsize == 4) gather<uint32_t>(placed, classes, folded);
  if (itemsize == 8) gather<uint64_t>(placed, classes, folded);
  plane_loops().unfold(folded.data(), base, n, itemsize, exponent_bits, elements);
}

}  // namespace phloem
