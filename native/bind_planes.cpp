// The `lossless` kernels for Python: checks sizes, lets go of the interpreter, calls the kernels.
#include <array>
#include <vector>

#include "arrays.hpp"
#include "bytecoder.hpp"
#include "levels.hpp"
#include "planes.hpp"
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

size_t elements_of(size_t bytes, size_t others, size_t itemsize) {
  if (itemsize != 1 && itemsize != 2 && itemsize != 4 && itemsize != 8) throw nb::value_error("no such item size");
  if (bytes != others || bytes % itemsize) throw nb::value_error("expected whole items in arrays of equal size");
  return bytes / itemsize;
}

void check_exponent(int exponent_bits, size_t itemsize) {
  const std::array<int, 9> most = {0, 7, 8, 0, 8, 0, 0, 0, 11};
  if (exponent_bits < 0 || exponent_bits > most[itemsize]) throw nb::value_error("no such float");
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
    ends = differences_ends(base.data(), n, itemsize, exponent_bits);
  }
  nb::list list;
  for (int64_t end : ends) list.append(end);
  return list;
}

void py_split_differences(Bytes words, Bytes base, size_t itemsize, int exponent_bits, Output planes) {
  const size_t n = elements_of(words.size(), planes.size(), itemsize);
  elements_of(words.size(), base.size(), itemsize);
  check_exponent(exponent_bits, itemsize);
  nb::gil_scoped_release release;
  split_differences(words.data(), base.data(), n, itemsize, exponent_bits, planes.data());
}

void py_merge_differences(Bytes planes, Bytes base, size_t itemsize, int exponent_bits, Output words) {
  const size_t n = elements_of(words.size(), planes.size(), itemsize);
  elements_of(words.size(), base.size(), itemsize);
  check_exponent(exponent_bits, itemsize);
  nb::gil_scoped_release release;
  merge_differences(planes.data(), base.data(), n, itemsize, exponent_bits, words.data());
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
