// The encoder and the decoder of the `ecsq` body (specification: phloem/kernels/reference.py).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common.hpp"
#include "loops.hpp"

namespace phloem {

struct Tensor {
  const float* data;
  Shape shape;
};

struct Output {
  float* data;  // zeros
  Shape shape;
};

std::string encode(const std::vector<Tensor>& tensors, const Step& step, const Loops& loops);
void decode(std::span<const uint8_t> body, const Step& step, std::vector<Output>& outputs);

}  // namespace phloem
