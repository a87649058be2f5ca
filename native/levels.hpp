// The SIMD levels of this processor, and the one that is used.
#pragma once

#include <string>
#include <vector>

#include "loops.hpp"
#include "trellis.hpp"

namespace phloem {

struct Level {
  const char* name;
  const Loops* loops;
  const TrellisLoops* trellis;
};

// The lowest first.
std::vector<Level> levels();
// The loops in use: the highest level, until `use_level`.
const Loops& loops();
const TrellisLoops& trellis_loops();
// False where this processor does not have that level.
bool use_level(const std::string& name);

}  // namespace phloem
