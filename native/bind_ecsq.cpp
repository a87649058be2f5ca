// The `ecsq` kernels for Python: takes arrays apart, lets go of the interpreter, calls the kernels.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "arrays.hpp"
#include "codec.hpp"
#include "levels.hpp"
#include "opened.hpp"

namespace phloem {

namespace {

using Pieces = nb::ndarray<const int64_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;

std::vector<Tensor> tensors_of(const std::vector<Input>& arrays) {
  std::vector<Tensor> tensors;
  for (const Input& array : arrays) tensors.push_back({array.data(), shape_of(array)});
  return tensors;
}

std::vector<Output> outputs_of(const std::vector<Result>& arrays) {
  std::vector<Output> outputs;
  for (const Result& array : arrays) outputs.push_back({array.data(), shape_of(array)});
  return outputs;
}

// A row (part, tensor, start, stop) per piece, as phloem/kernels/parts.py makes them; checked, because the kernels
// read and write where it says.
template <class Shaped>
std::vector<Part> parts_of(const Pieces& pieces, const std::vector<Shaped>& tensors) {
  std::vector<Part> parts;
  std::vector<int64_t> done(tensors.size(), 0);
  const auto refuse = [] { throw nb::value_error("the pieces do not cover the tensors in order"); };
  for (size_t i = 0; i < pieces.shape(0); ++i) {
    const int64_t* row = pieces.data() + 4 * i;
    if (row[1] < 0 || row[1] >= static_cast<int64_t>(tensors.size())) refuse();
    const auto tensor = static_cast<size_t>(row[1]);
    const Shape& shape = tensors[tensor].shape;
    const int64_t unit = shape.rows > 1 ? shape.columns : 1;
    if (row[2] != done[tensor] || row[3] <= row[2] || row[3] > shape.size() || row[3] % unit) refuse();
    done[tensor] = row[3];
    if (row[0] == static_cast<int64_t>(parts.size())) {
      parts.emplace_back();
    } else if (row[0] + 1 != static_cast<int64_t>(parts.size())) {
      refuse();
    }
    parts.back().push_back({tensor, row[2], row[3]});
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (done[t] != tensors[t].shape.size()) refuse();
  }
  return parts;
}

Put put_of(int put) {
  if (put < 0 || put > 3) throw nb::value_error("expected 0 (store), 1 (add), 2 (subtract) or 3 (accumulate)");
  return static_cast<Put>(put);
}

Steps steps_of(uint32_t significand, int exponent, bool weighted, const std::vector<int>& importances) {
  return {{significand, exponent}, weighted, importances};
}

nb::bytes py_encode(const std::vector<Input>& arrays, const Pieces& pieces, uint32_t significand, int exponent,
                    bool weighted, const std::vector<int>& importances, int threads) {
  const auto tensors = tensors_of(arrays);
  const auto parts = parts_of(pieces, tensors);
  if (weighted && importances.size() != tensors.size()) throw nb::value_error("expected an importance per tensor");
  std::string body;
  {
    nb::gil_scoped_release release;
    body = encode(tensors, parts, steps_of(significand, exponent, weighted, importances), loops(), threads);
  }
  return nb::bytes(body.data(), body.size());
}

void py_decode(const nb::bytes& body, const std::vector<Result>& arrays, const Pieces& pieces, uint32_t significand,
               int exponent, bool weighted, int put, int threads) {
  auto outputs = outputs_of(arrays);
  const auto parts = parts_of(pieces, outputs);
  const Put how = put_of(put);
  const std::span<const uint8_t> data(static_cast<const uint8_t*>(body.data()), body.size());
  nb::gil_scoped_release release;
  decode(data, steps_of(significand, exponent, weighted, {}), outputs, parts, how, loops(), threads);
}

// An open body, and all that it needs.
class PyOpened {
 public:
  PyOpened(nb::bytes body, const Table<int64_t>& rows, const Table<int64_t>& columns, const Pieces& pieces,
           uint32_t significand, int exponent, bool weighted)
      : body_(std::move(body)) {
    if (rows.size() != columns.size()) throw nb::value_error("expected as many rows as columns");
    for (size_t t = 0; t < rows.size(); ++t) shapes_.push_back({nullptr, {rows.data()[t], columns.data()[t]}});
    parts_ = parts_of(pieces, shapes_);
    const std::span<const uint8_t> data(static_cast<const uint8_t*>(body_.data()), body_.size());
    nb::gil_scoped_release release;
    opened_ = std::make_unique<Opened>(data, steps_of(significand, exponent, weighted, {}), shapes_, parts_);
  }

  // The tensors from `first` on, as many as there are arrays; those are the parts `first_part` to before `last_part`.
  void put(size_t first, const std::vector<Result>& arrays, size_t first_part, size_t last_part, int put,
           int threads) const {
    auto outputs = outputs_at(first, arrays, first_part, last_part);
    const Put how = put_of(put);
    nb::gil_scoped_release release;
    opened_->decode(outputs, first_part, last_part, how, loops(), threads);
  }

  static void add_all(const std::vector<const PyOpened*>& bodies, size_t first, const std::vector<Result>& arrays,
                      size_t first_part, size_t last_part, int threads) {
    if (bodies.empty()) return;
    auto outputs = bodies[0]->outputs_at(first, arrays, first_part, last_part);
    std::vector<const Opened*> opened;
    for (const PyOpened* body : bodies) {
      const auto alike = [](const Output& a, const Output& b) {
        return a.shape.rows == b.shape.rows && a.shape.columns == b.shape.columns;
      };
      if (!std::equal(body->shapes_.begin(), body->shapes_.end(), outputs.begin(), outputs.end(), alike) ||
          body->parts_ != bodies[0]->parts_) {
        throw nb::value_error("expected bodies of the same shapes");
      }
      opened.push_back(body->opened_.get());
    }
    nb::gil_scoped_release release;
    Opened::add_all(opened, outputs, first_part, last_part, loops(), threads);
  }

 private:
  std::vector<Output> outputs_at(size_t first, const std::vector<Result>& arrays, size_t first_part,
                                 size_t last_part) const {
    const auto refuse = [](bool when) {
      if (when) throw nb::value_error("the arrays are not those of these parts");
    };
    refuse(arrays.size() > shapes_.size() || first > shapes_.size() - arrays.size());
    auto outputs = shapes_;
    for (size_t t = 0; t < arrays.size(); ++t) {
      const Shape shape = shape_of(arrays[t]), &wanted = outputs[first + t].shape;
      refuse(shape.rows != wanted.rows || shape.columns != wanted.columns);
      outputs[first + t].data = arrays[t].data();
    }
    refuse(first_part > last_part || last_part > parts_.size());
    for (size_t p = first_part; p < last_part; ++p) {
      for (const Piece& piece : parts_[p]) refuse(outputs[piece.tensor].data == nullptr);
    }
    return outputs;
  }

  nb::bytes body_;
  std::vector<Output> shapes_;  // without data
  std::vector<Part> parts_;
  std::unique_ptr<Opened> opened_;
};

void py_subtract_encoded(const nb::bytes& body, const std::vector<Result>& arrays, const Pieces& pieces,
                         uint32_t significand, int exponent, bool weighted, int threads) {
  auto outputs = outputs_of(arrays);
  const auto parts = parts_of(pieces, outputs);
  const std::span<const uint8_t> data(static_cast<const uint8_t*>(body.data()), body.size());
  nb::gil_scoped_release release;
  subtract_encoded(data, steps_of(significand, exponent, weighted, {}), outputs, parts, loops(), threads);
}

// The extent of arrays, of sums of arrays (`others` given), or of sums that are also written (`sums` given).
std::pair<double, int64_t> py_extent_of_sum(const std::vector<Input>& arrays, const std::vector<Input>& others,
                                            const std::vector<Result>& sums) {
  const auto tensors = tensors_of(arrays), more = tensors_of(others);
  const auto outputs = outputs_of(sums);
  if (more.size() != tensors.size() || (!outputs.empty() && outputs.size() != tensors.size())) {
    throw nb::value_error("expected as many arrays to add");
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (more[i].shape.size() != tensors[i].shape.size() ||
        (!outputs.empty() && outputs[i].shape.size() != tensors[i].shape.size())) {
      throw nb::value_error("expected arrays of equal size");
    }
  }
  nb::gil_scoped_release release;
  uint32_t largest = 0;
  int64_t broken = -1;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint32_t bits = loops().extent_of_sum(tensors[i].data, more[i].data, outputs.empty() ? nullptr : outputs[i].data,
                                                static_cast<size_t>(tensors[i].shape.size()));
    if (bits >= 0x7f800000u) {
      if (broken < 0) broken = static_cast<int64_t>(i);
    } else if (broken < 0) {
      largest = std::max(largest, bits);
    }
  }
  float value;
  std::memcpy(&value, &largest, 4);
  return {value, broken};
}

std::pair<double, int64_t> py_extent(const std::vector<Input>& arrays) {
  const auto tensors = tensors_of(arrays);
  nb::gil_scoped_release release;
  uint32_t largest = 0;
  int64_t broken = -1;
  for (size_t i = 0; i < tensors.size() && broken < 0; ++i) {
    const uint32_t bits = loops().extent(tensors[i].data, static_cast<size_t>(tensors[i].shape.size()));
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
    loops().energy(tensors[i].data, other, static_cast<size_t>(tensors[i].shape.size()), lanes);
    for (double lane : lanes) total += lane;
  }
  return total;
}

}  // namespace

void bind_ecsq(nb::module_& m) {
  m.def("load_tables",
        [](Table<double> half_octaves, Table<double> octaves, Table<int64_t> logs, Table<int64_t> ladder_costs,
           Table<int64_t> class_costs, Table<uint64_t> class_means, Table<float> thresholds,
           Table<float> offsets, Table<uint32_t> ladder) {
          if (logs.size() != 4096 || ladder_costs.size() != kLadder || ladder.size() != kLadder ||
              half_octaves.size() != 199 || octaves.size() != 99 || class_costs.size() != kClasses ||
              class_means.size() != kClasses || thresholds.size() != kClassParts * (kClasses - 1) + 1 ||
              offsets.size() != thresholds.size()) {
            throw nb::value_error("the tables do not have the sizes that this module was built for");
          }
          tables() = {copy(half_octaves), copy(octaves),          copy(logs),          copy(ladder_costs),
                      copy(class_costs),  copy(class_means),      copy(thresholds),
                      copy(offsets),      copy(ladder)};
        });
  m.def("extent", py_extent);
  // what is written into must be the caller's array, never a converted copy
  m.def("extent_of_sum", py_extent_of_sum, nb::arg("arrays"), nb::arg("others"), nb::arg("sums").noconvert());
  m.def("energy", py_energy);
  m.def("encode", py_encode);
  m.def("decode", py_decode, nb::arg("body"), nb::arg("arrays").noconvert(), nb::arg("pieces"),
        nb::arg("significand"), nb::arg("exponent"), nb::arg("weighted"), nb::arg("put"), nb::arg("threads"));
  nb::class_<PyOpened>(m, "Opened")
      .def(nb::init<nb::bytes, const Table<int64_t>&, const Table<int64_t>&, const Pieces&, uint32_t, int, bool>())
      .def("put", &PyOpened::put, nb::arg("first"), nb::arg("arrays").noconvert(), nb::arg("first_part"),
           nb::arg("last_part"), nb::arg("put"), nb::arg("threads"));
  m.def("add_all", &PyOpened::add_all, nb::arg("bodies"), nb::arg("first"), nb::arg("arrays").noconvert(),
        nb::arg("first_part"), nb::arg("last_part"), nb::arg("threads"));
  m.def("subtract_encoded", py_subtract_encoded, nb::arg("body"), nb::arg("arrays").noconvert(), nb::arg("pieces"),
        nb::arg("significand"), nb::arg("exponent"), nb::arg("weighted"), nb::arg("threads"));
}

}  // namespace phloem
