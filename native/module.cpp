// The Python module `phloem.kernels._native`: takes arrays apart, lets go of the interpreter, calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "codec.hpp"
#include "loops.hpp"

namespace nb = nanobind;
using namespace phloem;

namespace {

using Input = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

struct Level {
  const char* name;
  const Loops* loops;
};

std::vector<Level> levels() {
  std::vector<Level> found = {{"portable", &portable::kLoops}};
#if defined(PHLOEM_X86_LEVELS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", &avx2::kLoops});
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back({"avx512", &avx512::kLoops});
  }
#endif
  return found;
}

std::atomic<const Loops*>& current() {
  static std::atomic<const Loops*> loops{levels().back().loops};
  return loops;
}

template <class Array>
Shape shape_of(const Array& array) {
  if (array.ndim() < 2) return {1, static_cast<int64_t>(array.size())};
  int64_t columns = 1;
  for (size_t d = 1; d < array.ndim(); ++d) columns *= static_cast<int64_t>(array.shape(d));
  return {static_cast<int64_t>(array.shape(0)), columns};
}

std::vector<Tensor> tensors_of(const std::vector<Input>& arrays) {
  std::vector<Tensor> tensors;
  for (const Input& array : arrays) tensors.push_back({array.data(), shape_of(array)});
  return tensors;
}

Step step_of(uint32_t significand, int exponent, int64_t magnitude_highest, double value) {
  const auto narrow = static_cast<float>(value);
  return {significand, exponent, narrow, 1.0f / narrow, magnitude_highest};
}

nb::bytes py_encode(const std::vector<Input>& arrays, uint32_t significand, int exponent, int64_t highest,
                    double value) {
  const auto tensors = tensors_of(arrays);
  std::string body;
  {
    nb::gil_scoped_release release;
    body = encode(tensors, step_of(significand, exponent, highest, value), *current().load());
  }
  return nb::bytes(body.data(), body.size());
}

void py_decode(const nb::bytes& body, const std::vector<Result>& arrays, uint32_t significand, int exponent,
               int64_t highest, double value) {
  std::vector<Output> outputs;
  for (const Result& array : arrays) outputs.push_back({array.data(), shape_of(array)});
  const std::span<const uint8_t> data(static_cast<const uint8_t*>(body.data()), body.size());
  nb::gil_scoped_release release;
  decode(data, step_of(significand, exponent, highest, value), outputs);
}

std::pair<double, int64_t> py_extent(const std::vector<Input>& arrays) {
  const auto tensors = tensors_of(arrays);
  nb::gil_scoped_release release;
  uint32_t largest = 0;
  int64_t broken = -1;
  for (size_t i = 0; i < tensors.size() && broken < 0; ++i) {
    const uint32_t bits = current().load()->extent(tensors[i].data, static_cast<size_t>(tensors[i].shape.size()));
    if (bits >= 0x7f800000u) {
      broken = static_cast<int64_t>(i);
    } else {
      largest = std::max(largest, bits);
    }
  }
  float value;
  std::memcpy(&value, &largest, 4);
  return {value, broken};
}

double py_energy(const std::vector<Input>& arrays, const std::vector<Input>& others) {
  if (!others.empty() && others.size() != arrays.size()) throw nb::value_error("expected as many arrays to subtract");
  const auto tensors = tensors_of(arrays), subtracted = tensors_of(others);
  for (size_t i = 0; i < subtracted.size(); ++i) {
    if (subtracted[i].shape.size() != tensors[i].shape.size()) throw nb::value_error("expected arrays of equal size");
  }
  nb::gil_scoped_release release;
  double total = 0.0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    double lanes[16] = {};
    const float* other = subtracted.empty() ? nullptr : subtracted[i].data;
    current().load()->energy(tensors[i].data, other, static_cast<size_t>(tensors[i].shape.size()), lanes);
    for (double lane : lanes) total += lane;
  }
  return total;
}

template <class T>
using Table = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
std::vector<T> copy(const Table<T>& table) {
  return std::vector<T>(table.data(), table.data() + table.size());
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native kernels; use them through phloem.kernels.";
  nb::exception<FormatError>(m, "FormatError", PyExc_ValueError);
  m.def("load_tables",
        [](Table<double> half_octaves, Table<double> octaves, Table<int64_t> logs, Table<int64_t> ladder_costs,
           Table<int64_t> class_costs, Table<uint64_t> class_means, Table<float> class_thresholds,
           Table<float> class_offsets, Table<uint32_t> ladder) {
          if (logs.size() != 4096 || ladder_costs.size() != kLadder || ladder.size() != kLadder ||
              half_octaves.size() != 199 || octaves.size() != 99 || class_costs.size() != kClasses ||
              class_means.size() != kClasses || class_thresholds.size() != kClasses ||
              class_offsets.size() != kClasses) {
            throw nb::value_error("the tables do not have the sizes that this module was built for");
          }
          tables() = {copy(half_octaves), copy(octaves),          copy(logs),          copy(ladder_costs),
                      copy(class_costs),  copy(class_means),      copy(class_thresholds),
                      copy(class_offsets), copy(ladder)};
        });
  m.def("simd_levels", [] {
    std::vector<std::string> names;
    for (const Level& level : levels()) names.emplace_back(level.name);
    return names;
  });
  m.def("set_simd", [](const std::string& name) {
    for (const Level& level : levels()) {
      if (name == level.name) {
        current() = level.loops;
        return;
      }
    }
    throw nb::value_error("this processor does not have that SIMD level");
  });
  m.def("extent", py_extent);
  m.def("energy", py_energy);
  m.def("encode", py_encode);
  m.def("decode", py_decode);
}
