// The `lossless` kernels for Python: checks sizes, lets go of the interpreter, calls the kernels.
#include <array>
#include <cstring>
#include <vector>

#include "arrays.hpp"
#include "bytecoder.hpp"
#include "levels.hpp"
#include "planes_loops.hpp"

namespace phloem {

const PlaneLoops& plane_loops() {
#if defined(PHLOEM_X86_LEVELS)
  if (&loops() == &avx512::kLoops) return avx512::kPlaneLoops;
  if (&loops() == &avx2::kLoops) return avx2::kPlaneLoops;
#endif
  return portable::kPlaneLoops;
}

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr int64_t kSmallestClass = 8192;

size_t elements_of(size_t bytes, size_t others, size_t itemsize) {
  if (itemsize != 1 && itemsize != 2 && itemsize != 4 && itemsize != 8) throw nb::value_error("no such item size");
  if (bytes != others || bytes % itemsize) throw nb::value_error("expected whole items in arrays of equal size");
  return bytes / itemsize;
}

void check_exponent(int exponent_bits, size_t itemsize) {
  const std::array<int, 9> most = {0, 7, 8, 0, 8, 0, 0, 0, 11};
  if (exponent_bits < 0 || exponent_bits > most[itemsize]) throw nb::value_error("no such float");
}

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

void py_split(Bytes words, size_t itemsize, bool turned, Output planes) {
  const size_t n = elements_of(words.size(), planes.size(), itemsize);
  nb::gil_scoped_release release;
  plane_loops().split(words.data(), n, itemsize, turned, planes.data());
}

void py_merge(Bytes planes, size_t itemsize, bool turned, Output words) {
  const size_t n = elements_of(words.size(), planes.size(), itemsize);
  nb::gil_scoped_release release;
  plane_loops().merge(planes.data(), n, itemsize, turned, words.data());
}

nb::list py_ends(Bytes base, size_t itemsize, int exponent_bits) {
  const size_t n = elements_of(base.size(), base.size(), itemsize);
  check_exponent(exponent_bits, itemsize);
  std::vector<int64_t> ends;
  {
    nb::gil_scoped_release release;
    std::vector<uint8_t> classes(n);
    plane_loops().classify(base.data(), n, itemsize, exponent_bits, classes.data());
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
  }
  nb::list list;
  for (int64_t end : ends) list.append(end);
  return list;
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

void py_split_differences(Bytes words, Bytes base, size_t itemsize, int exponent_bits, Output planes) {
  const size_t n = elements_of(words.size(), planes.size(), itemsize);
  elements_of(words.size(), base.size(), itemsize);
  check_exponent(exponent_bits, itemsize);
  nb::gil_scoped_release release;
  std::vector<uint8_t> folded(words.size()), placed(words.size()), classes(n);
  plane_loops().fold(words.data(), base.data(), n, itemsize, exponent_bits, folded.data(), classes.data());
  if (itemsize == 1) scatter<uint8_t>(folded, classes, placed);
  if (itemsize == 2) scatter<uint16_t>(folded, classes, placed);
  if (itemsize == 4) scatter<uint32_t>(folded, classes, placed);
  if (itemsize == 8) scatter<uint64_t>(folded, classes, placed);
  plane_loops().split(placed.data(), n, itemsize, false, planes.data());
}

void py_merge_differences(Bytes planes, Bytes base, size_t itemsize, int exponent_bits, Output words) {
  const size_t n = elements_of(words.size(), planes.size(), itemsize);
  elements_of(words.size(), base.size(), itemsize);
  check_exponent(exponent_bits, itemsize);
  nb::gil_scoped_release release;
  std::vector<uint8_t> placed(words.size()), folded(words.size()), classes(n);
  plane_loops().merge(planes.data(), n, itemsize, false, placed.data());
  plane_loops().classify(base.data(), n, itemsize, exponent_bits, classes.data());
  if (itemsize == 1) gather<uint8_t>(placed, classes, folded);
  if (itemsize == 2) gather<uint16_t>(placed, classes, folded);
  if (itemsize == 4) gather<uint32_t>(placed, classes, folded);
  if (itemsize == 8) gather<uint64_t>(placed, classes, folded);
  plane_loops().unfold(folded.data(), base.data(), n, itemsize, exponent_bits, words.data());
}

nb::bytes py_block_encode(Bytes bytes) {
  if (bytes.size() > kBlockMost) throw nb::value_error("a block is at most 16 MiB");
  std::string block;
  {
    nb::gil_scoped_release release;
    block = block_encode({bytes.data(), bytes.size()});
  }
  return nb::bytes(block.data(), block.size());
}

size_t py_block_decode(Bytes body, size_t start, Output bytes) {
  nb::gil_scoped_release release;
  return block_decode({body.data(), body.size()}, start, {bytes.data(), bytes.size()});
}

}  // namespace

void bind_planes(nb::module_& m) {
  m.def("planes_split", py_split);
  m.def("planes_merge", py_merge);
  m.def("differences_ends", py_ends);
  m.def("differences_split", py_split_differences);
  m.def("differences_merge", py_merge_differences);
  m.def("block_encode", py_block_encode);
  m.def("block_decode", py_block_decode);
}

}  // namespace phloem
