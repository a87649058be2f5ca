// The adaptive coder and its quantiser for Python.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "adaptive.hpp"
#include "arrays.hpp"

namespace phloem {

namespace {

template <class T>
using Flat = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Shapes = std::vector<std::pair<int64_t, int64_t>>;

std::vector<Block> blocks_of(const std::vector<Flat<int32_t>>& indices, const std::vector<Flat<const int8_t>>& held,
                             const Shapes& shapes, const std::vector<int64_t>& highest) {
  if (indices.size() != shapes.size() || highest.size() != shapes.size() || (!held.empty() && held.size() != shapes.size())) {
    throw nb::value_error("expected as many arrays as shapes");
  }
  std::vector<Block> blocks;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const auto [rows, columns] = shapes[i];
    const auto size = static_cast<int64_t>(indices[i].size());
    if (rows < 0 || columns < 0 || (columns && rows > size / columns) || rows * columns != size ||
        (!held.empty() && static_cast<int64_t>(held[i].size()) != size)) {
      throw nb::value_error("an array does not have its shape's size");
    }
    blocks.push_back({indices[i].data(), held.empty() ? nullptr : held[i].data(), nullptr, 0.0f, rows, columns, highest[i]});
  }
  return blocks;
}

void check_states(int states) {
  if (states != 0 && states != 4 && states != 8) throw nb::value_error("expected 0, 4 or 8 states");
}

// Chooses the indices where there are values, and takes them as they are where there are none.
nb::bytes py_pack(const std::vector<Flat<const float>>& values, const std::vector<float>& inverses,
                  const std::vector<Flat<int32_t>>& indices, const std::vector<Flat<const int8_t>>& held,
                  const Shapes& shapes, bool mixing, int states, const std::vector<int64_t>& highest) {
  check_states(states);
  auto blocks = blocks_of(indices, held, shapes, highest);
  if (!values.empty() && (values.size() != blocks.size() || inverses.size() != blocks.size() || states)) {
    throw nb::value_error("expected as many values and inverses as shapes, and no states");
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].size() != indices[i].size()) throw nb::value_error("expected arrays of equal size");
    blocks[i].x = values[i].data();
    blocks[i].inverse = inverses[i];
  }
  std::string body;
  {
    nb::gil_scoped_release release;
    body = adaptive_pack(blocks, {mixing, states});
  }
  return nb::bytes(body.data(), body.size());
}

void py_unpack(const nb::bytes& body, const std::vector<Flat<int32_t>>& indices,
               const std::vector<Flat<const int8_t>>& held, const Shapes& shapes, bool mixing, int states,
               const std::vector<int64_t>& highest) {
  check_states(states);
  const auto blocks = blocks_of(indices, held, shapes, highest);
  const std::span<const uint8_t> data(static_cast<const uint8_t*>(body.data()), body.size());
  nb::gil_scoped_release release;
  adaptive_unpack(data, blocks, {mixing, states});
}

std::vector<int64_t> py_centres(const Flat<const float>& x, const Flat<const int32_t>& indices, float inverse,
                                int states) {
  check_states(states);
  if (indices.size() != x.size()) throw nb::value_error("expected arrays of equal size");
  CentreSums found;
  {
    nb::gil_scoped_release release;
    add_centres(x.data(), indices.data(), static_cast<int64_t>(x.size()), inverse, states, found);
  }
  std::vector<int64_t> all(found.sums.begin(), found.sums.end());
  all.insert(all.end(), found.counts.begin(), found.counts.end());
  return all;
}

void py_values(const Flat<const int32_t>& indices, int states, const Table<float>& values, float step, int put,
               const Flat<float>& out) {
  check_states(states);
  if (indices.size() != out.size()) throw nb::value_error("expected arrays of equal size");
  if (values.size() != 4 || put < 0 || put > 2) throw nb::value_error("expected four values and 0, 1 or 2");
  nb::gil_scoped_release release;
  grid_values(indices.data(), static_cast<int64_t>(indices.size()), states, {values.data(), values.size()}, step, put,
              out.data());
}

}  // namespace

void bind_adaptive(nb::module_& m) {
  m.def("load_logistic_tables", [](Table<int16_t> middle, Table<int16_t> tail, Table<uint16_t> squash,
                                   Table<uint8_t> log16, Table<uint32_t> rates, Table<uint32_t> priors) {
    if (middle.size() != 4096 || tail.size() != 4096 || squash.size() != 2 * kStretchMost + 1 || log16.size() != 64 ||
        rates.size() != 256 || priors.size() != 48) {
      throw nb::value_error("the tables do not have the sizes that this module was built for");
    }
    logistic_tables() = {copy(middle), copy(tail), copy(squash), copy(log16), copy(rates), copy(priors)};
  });
  m.def("adaptive_pack", py_pack);
  m.def("adaptive_unpack", py_unpack);
  m.def("adaptive_centres", py_centres);
  m.def("adaptive_values", py_values);
}

}  // namespace phloem
