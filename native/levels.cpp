#include "levels.hpp"

#include <atomic>

namespace phloem {

namespace {

std::atomic<const Loops*>& current() {
  static std::atomic<const Loops*> loops{levels().back().loops};
  return loops;
}

}  // namespace

std::vector<Level> levels() {
  std::vector<Level> found = {{"portable", &portable::kLoops}};
#if defined(PHLOEM_X86_LEVELS)
  __builtin_cpu_init();
  const bool bits = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  if (bits && __builtin_cpu_supports("avx2")) found.push_back({"avx2", &avx2::kLoops});
  if (bits && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back({"avx512", &avx512::kLoops});
  }
#endif
  return found;
}

const Loops& loops() { return *current().load(); }

bool use_level(const std::string& name) {
  for (const Level& level : levels()) {
    if (name == level.name) {
      current() = level.loops;
      return true;
    }
  }
  return false;
}

}  // namespace phloem
