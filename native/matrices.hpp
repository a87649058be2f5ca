// Thin matrices, and matrices' rows and columns (specification: phloem/kernels/matrices.py). Included by loops.cpp inside
// the namespace of each SIMD level.

constexpr size_t kColumns = 256;  // of the right side that stay in the first cache from one row to the next

void add_products(const float* left, const float* right, size_t rows, size_t rank, size_t columns, float* total) {
  for (size_t start = 0; start < columns; start += kColumns) {
    const size_t n = start + kColumns < columns ? kColumns : columns - start;
    for (size_t row = 0; row < rows; ++row) {
      float sums[kColumns];
      float* out = total + row * columns + start;
      std::memcpy(sums, out, n * sizeof(float));
      for (size_t j = 0; j < rank; ++j) {
        const float factor = left[row * rank + j];
        const float* values = right + j * columns + start;
        for (size_t k = 0; k < n; ++k) sums[k] += factor * values[k];
      }
      std::memcpy(out, sums, n * sizeof(float));
    }
  }
}

// Sixteen sums, added in order.
double product(const double* one, const double* other, size_t size) {
  double sums[16] = {};
  size_t i = 0;
  for (; i + 16 <= size; i += 16) {
    for (size_t l = 0; l < 16; ++l) sums[l] += one[i + l] * other[i + l];
  }
  for (; i < size; ++i) sums[i % 16] += one[i] * other[i];
  double total = 0.0;
  for (double sum : sums) total += sum;
  return total;
}

void orthonormal(double* rows, size_t count, size_t size) {
  for (size_t j = 0; j < count; ++j) {
    double* row = rows + j * size;
    const double before = std::sqrt(product(row, row, size));
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t i = 0; i < j; ++i) {
        const double* other = rows + i * size;
        const double share = product(other, row, size);
        for (size_t k = 0; k < size; ++k) row[k] -= other[k] * share;
      }
    }
    const double length = std::sqrt(product(row, row, size));
    const bool keeps = length > 1e-10 * before;
    for (size_t k = 0; k < size; ++k) row[k] = keeps ? row[k] / length : 0.0;
  }
}

void scale_rows_and_columns(float* x, size_t rows, size_t columns, const float* by_row, const float* by_column) {
  for (size_t r = 0; r < rows; ++r, x += columns) {
    const float factor = by_row[r];
    for (size_t c = 0; c < columns; ++c) x[c] = x[c] * factor * by_column[c];
  }
}

void squares_of_rows_and_columns(const float* x, size_t rows, size_t columns, double unit, int64_t* by_row,
                                 int64_t* by_column) {
  constexpr double kRounds = 6755399441055744.0;  // 1.5 * 2^52: a sum with it has no bits below one
  const double inverse = 1.0 / unit;  // exact: a power of two
  for (size_t c = 0; c < columns; ++c) by_column[c] = 0;
  for (size_t r = 0; r < rows; ++r, x += columns) {
    int64_t sum = 0;
    for (size_t c = 0; c < columns; ++c) {
      const int64_t whole = static_cast<int32_t>((double(x[c]) * inverse + kRounds) - kRounds);
      sum += whole * whole;
      by_column[c] += whole * whole;
    }
    by_row[r] = sum;
  }
}
