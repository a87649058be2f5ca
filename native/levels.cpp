#include "levels.hpp"

#include <atomic>

namespace phloem {

namespace {

std::atomic<size_t>& current() {
  static std::atomic<size_t> index{levels().size() - 1};
  return index;
}

const std::vector<Level>& known() {
  static const std::vector<Level> found = levels();
  return found;
}

}  // namespace

std::vector<Level> levels() {
  std::vector<Level> found = {{"portable", &portable::kLoops, &portable::kTrellisLoops}};
#if defined(PHLOEM_X86_LEVELS)
  __builtin_cpu_init();
  const bool bits = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  if (bits && __builtin_cpu_supports("avx2")) found.push_back({"avx2", &avx2::kLoops, &avx2::kTrellisLoops});
  if (bits && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back({"avx512", &avx512::kLoops, &avx512::kTrellisLoops});
  }
#endif
  return found;
}

const Loops& loops() { return *known()[current()].loops; }

const TrellisLoops& trellis_loops() { return *known()[current()].trellis; }

bool use_level(const std::string& name) {
  for (size_t i = 0; i < known().size(); ++i) {
    if (name == known()[i].name) {
      current() = i;
      return true;
    }
  }
  return false;
}

}  // namespace phloem
