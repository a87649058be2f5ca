// Planes of differences from a base, by the base's classes (specification: phloem/kernels/planes.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace phloem {

// Where each class of a base ends; classes of fewer than 8,192 elements are joined.
std::vector<int64_t> differences_ends(const uint8_t* base, size_t n, size_t itemsize, int exponent_bits);
// The planes of n elements' differences, in class order, and back. An item has 1, 2, 4 or 8 bytes.
void split_differences(const uint8_t* elements, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits,
                       uint8_t* planes);
void merge_differences(const uint8_t* planes, const uint8_t* base, size_t n, size_t itemsize, int exponent_bits,
                       uint8_t* elements);

}  // namespace phloem
