// The rANS loops of one SIMD level, see `Loops`.
#pragma once

#include "loops.hpp"

namespace phloem::PHLOEM_LEVEL {

uint16_t* rans_encode(const uint8_t* tokens, size_t n, const Divisors& by, uint32_t* states, uint16_t* word);
const uint8_t* rans_decode(const uint32_t* slots, uint8_t* tokens, size_t n, uint32_t* states, const uint8_t* word,
                           const uint8_t* end);

}  // namespace phloem::PHLOEM_LEVEL
