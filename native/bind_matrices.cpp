// Thin matrices, and matrices' rows and columns, for Python: checks the sizes, lets go of the interpreter, calls the loops
// of this processor.
#include <cmath>

#include "arrays.hpp"
#include "levels.hpp"

namespace phloem {

namespace {

using DoubleRows = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class One, class Row, class Column>
void check_lengths(const One& matrix, const Row& rows, const Column& columns) {
  if (rows.size() != matrix.shape(0) || columns.size() != matrix.shape(1)) {
    throw nb::value_error("expected a number for each row and each column");
  }
}

}  // namespace

void bind_matrices(nb::module_& m) {
  m.def("add_products", [](const Input& left, const Input& right, const Result& total) {
    if (left.ndim() != 2 || right.ndim() != 2 || total.ndim() != 2 || left.shape(1) != right.shape(0) ||
        left.shape(0) != total.shape(0) || right.shape(1) != total.shape(1)) {
      throw nb::value_error("expected matrices that can be multiplied");
    }
    const size_t rows = left.shape(0), rank = left.shape(1), columns = right.shape(1);
    nb::gil_scoped_release release;
    loops().add_products(left.data(), right.data(), rows, rank, columns, total.data());
  }, nb::arg("left"), nb::arg("right"), nb::arg("total").noconvert());
  m.def("orthonormal", [](const DoubleRows& rows) {
    const size_t count = rows.shape(0), size = rows.shape(1);
    double* data = rows.data();
    nb::gil_scoped_release release;
    loops().orthonormal(data, count, size);
  }, nb::arg("rows").noconvert());
  m.def("scale_rows_and_columns", [](const Matrix& matrix, const Table<float>& rows, const Table<float>& columns) {
    check_lengths(matrix, rows, columns);
    float* data = matrix.data();
    nb::gil_scoped_release release;
    loops().scale_rows_and_columns(data, rows.size(), columns.size(), rows.data(), columns.data());
  }, nb::arg("matrix").noconvert(), nb::arg("rows"), nb::arg("columns"));
  m.def("squares_of_rows_and_columns", [](const ConstMatrix& matrix, double unit, const Sums& rows, const Sums& columns) {
    check_lengths(matrix, rows, columns);
    int exponent = 0;
    if (!(unit > 0.0) || std::frexp(unit, &exponent) != 0.5) throw nb::value_error("expected a power of two");
    int64_t* by_row = rows.data();
    int64_t* by_column = columns.data();
    nb::gil_scoped_release release;
    loops().squares_of_rows_and_columns(matrix.data(), matrix.shape(0), matrix.shape(1), unit, by_row, by_column);
  }, nb::arg("matrix"), nb::arg("unit"), nb::arg("rows").noconvert(), nb::arg("columns").noconvert());
}

}  // namespace phloem
