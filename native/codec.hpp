// The encoder and the decoder of the `ecsq` body (specification: phloem/kernels/reference.py).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common.hpp"
#include "loops.hpp"
#include "scales.hpp"

namespace phloem {

using Part = std::vector<Piece>;

struct Tensor {
  const float* data;
  Shape shape;
};

struct Output {
  float* data;
  Shape shape;
};

// How a body's steps are given: one for all, or, where there are importances, finer ones for some tensors, in quarters
// of an octave.
struct Steps {
  Step base{};
  bool weighted = false;
  std::vector<int> importances;  // as many as tensors, where weighted
};

// What decoded values do to the outputs: replace zeros, or are added or subtracted; kAccumulate: are added to sums of
// earlier adds, among which there is no negative zero.
enum class Put : int { kStore = 0, kAdd = 1, kSubtract = 2, kAccumulate = 3 };

std::string encode(const std::vector<Tensor>& tensors, const std::vector<Part>& parts, const Steps& steps,
                   const Loops& loops, int threads);
void decode(std::span<const uint8_t> body, const Steps& steps, std::vector<Output>& outputs,
            const std::vector<Part>& parts, Put put, const Loops& loops, int threads);
// The outputs minus what the body decodes to, where the body is what `encode` made of these very outputs: by
// quantising again, without a look at the tokens.
void subtract_encoded(std::span<const uint8_t> body, const Steps& steps, std::vector<Output>& outputs,
                      const std::vector<Part>& parts, const Loops& loops, int threads);

}  // namespace phloem
