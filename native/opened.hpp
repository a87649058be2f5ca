// An `ecsq` body whose side information was read, so that some of its parts can be decoded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec.hpp"
#include "frame.hpp"
#include "rangecoder.hpp"

namespace phloem {

class PartDecoder;

class Opened {
 public:
  // Reads the side information; of the outputs only the shapes count. The bytes and the parts must outlive this.
  Opened(std::span<const uint8_t> body, const Steps& steps, const std::vector<Output>& outputs,
         const std::vector<Part>& parts);
  // Decodes the parts from `first` to before `last`; outputs of tensors in other parts may have no data. May be called
  // by several threads at a time. Outputs change only where all of these parts are right.
  void decode(std::vector<Output>& outputs, size_t first, size_t last, Put put, const Loops& loops, int threads) const;
  // Adds bodies of the same shapes to the outputs, one after another: for each value that is one float32 addition per
  // body. Values are touched stretch by stretch, so that they are in the cache from one body to the next.
  static void add_all(const std::vector<const Opened*>& bodies, std::vector<Output>& outputs, size_t first, size_t last,
                      const Loops& loops, int threads);

 private:
  void read(PartDecoder& decoder, size_t part) const;

  std::span<const uint8_t> body_;
  const std::vector<Part>& parts_;
  RangeDecoder coder_;  // after the side information
  Frame frame_;
  std::vector<std::span<const uint8_t>> spans_;  // of each part, where there are several
};

}  // namespace phloem
