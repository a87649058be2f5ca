// PHLOEM_LEVEL is the namespace of this SIMD level; the build compiles this file once for each.
#include "trellis.hpp"

#include <cmath>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace phloem::PHLOEM_LEVEL {

namespace {

uint64_t coarse(const float* x, size_t n, float inverse, uint32_t* column_sums) {
  uint64_t total = 0;
  for (size_t start = 0; start < n; start += 128) {  // 128 magnitudes below 2^24 fit an unsigned int
    const size_t end = start + 128 < n ? start + 128 : n;
    uint32_t sum = 0;
    for (size_t i = start; i < end; ++i) {
      const float scaled = std::fabs(x[i]) * inverse * 0.5f + kScaleOffset;
      const auto magnitude = static_cast<int32_t>(scaled < 16777215.0f ? scaled : 16777215.0f);
      if (column_sums) column_sums[i] += static_cast<uint32_t>(magnitude);
      sum += static_cast<uint32_t>(magnitude);
    }
    total += sum;
  }
  return total;
}

uint64_t magnitudes(const int32_t* indices, size_t n, uint32_t* column_sums) {
  uint64_t total = 0;
  for (size_t start = 0; start < n; start += 128) {
    const size_t end = start + 128 < n ? start + 128 : n;
    uint32_t sum = 0;
    for (size_t i = start; i < end; ++i) {
      const auto magnitude = static_cast<uint32_t>(indices[i] < 0 ? -indices[i] : indices[i]);
      if (column_sums) column_sums[i] += magnitude;
      sum += magnitude;
    }
    total += sum;
  }
  return total;
}

inline int32_t rate(const int32_t* table, int32_t index) {
  return table[index < kTrellisRates ? index : kTrellisRates - 1];
}

// One kind of position above one grid step: the positions next below and above compete. Kind 3 has zero for -1.
inline int32_t branch(int kind, int32_t below, int32_t rest, int32_t highest, const int32_t* table, uint8_t& upper) {
  const int32_t down = (below - kind) & 3;
  const int32_t position = below - down;
  const int32_t index = (position + (kind & 1)) >> 1;
  const int32_t above = 1024 - 256 * down - rest;
  const int32_t upper_cost = above * above + rate(table, index + 2);
  const int32_t distance = (position < 0 ? 256 * below : 256 * down) + rest;
  const int32_t lower_cost = distance * distance + rate(table, index < 0 ? 0 : index);
  bool take = upper_cost < lower_cost && position + 4 <= highest;
  if (kind == 1 || kind == 2) take = take || position < 0;
  upper = static_cast<uint8_t>(upper | take << kind);
  return take ? upper_cost : lower_cost;
}

void branches(const float* x, size_t n, float inverse, int32_t highest, const int32_t* costs, const uint8_t* classes,
              int32_t* out, uint8_t* upper) {
  const auto most = static_cast<float>(highest);
  for (size_t i = 0; i < n; ++i, out += 4) {
    const float magnitude = std::fabs(x[i]) * inverse;
    const float scaled = magnitude < most ? magnitude : most;
    const auto below = static_cast<int32_t>(scaled);
    const auto rest = static_cast<int32_t>((scaled - static_cast<float>(below)) * 256.0f + 0.5f);
    const int32_t* even = costs + size_t{classes[i]} * 2 * kTrellisRates;
    const int32_t* odd = even + kTrellisRates;
    if (below == 0) {
      out[0] = rest * rest + even[0];
      out[1] = (256 - rest) * (256 - rest) + odd[1];
      out[2] = (512 - rest) * (512 - rest) + even[1];
      out[3] = rest * rest + odd[0];
      upper[i] = 6;
    } else {
      uint8_t flags = 0;
      out[0] = branch(0, below, rest, highest, even, flags);
      out[1] = branch(1, below, rest, highest, odd, flags);
      out[2] = branch(2, below, rest, highest, even, flags);
      out[3] = branch(3, below, rest, highest, odd, flags);
      upper[i] = flags;
    }
  }
}

#if defined(__GNUC__) && (defined(__clang__) || __GNUC__ >= 12)

typedef int32_t Four __attribute__((vector_size(16)));
typedef int32_t Eight __attribute__((vector_size(32)));

void search4(const int32_t* branches, size_t n, int32_t* metrics, uint8_t* decisions) {
  Four metric;
  std::memcpy(&metric, metrics, sizeof metric);
  for (size_t i = 0; i < n; ++i) {
    Four cost;
    std::memcpy(&cost, branches + 4 * i, sizeof cost);
    const Four even = __builtin_shufflevector(metric, metric, 0, 2, 1, 3) +
                      __builtin_shufflevector(cost, cost, 0, 3, 0, 3);
    const Four odd = __builtin_shufflevector(metric, metric, 1, 3, 0, 2) +
                     __builtin_shufflevector(cost, cost, 2, 1, 2, 1);
    const Four take = odd < even;
    metric = (odd & take) | (even & ~take);
#if defined(__SSE2__)
    decisions[i] = static_cast<uint8_t>(_mm_movemask_ps(_mm_castsi128_ps(reinterpret_cast<__m128i>(take))));
#else
    decisions[i] = static_cast<uint8_t>((take[0] & 1) | (take[1] & 2) | (take[2] & 4) | (take[3] & 8));
#endif
    if (i % 64 == 63) metric -= metric[0];
  }
  std::memcpy(metrics, &metric, sizeof metric);
}

void search8(const int32_t* branches, size_t n, int32_t* metrics, uint8_t* decisions) {
  Eight metric;
  std::memcpy(&metric, metrics, sizeof metric);
  for (size_t i = 0; i < n; ++i) {
    Four cost;
    std::memcpy(&cost, branches + 4 * i, sizeof cost);
    const Eight even = __builtin_shufflevector(metric, metric, 0, 2, 6, 5, 1, 3, 4, 7) +
                       __builtin_shufflevector(cost, cost, 0, 0, 3, 3, 0, 0, 3, 3);
    const Eight odd = __builtin_shufflevector(metric, metric, 2, 0, 5, 6, 3, 1, 7, 4) +
                      __builtin_shufflevector(cost, cost, 2, 2, 1, 1, 2, 2, 1, 1);
    const Eight take = odd < even;
    metric = (odd & take) | (even & ~take);
#if defined(__AVX2__)
    decisions[i] = static_cast<uint8_t>(_mm256_movemask_ps(_mm256_castsi256_ps(reinterpret_cast<__m256i>(take))));
#elif defined(__SSE2__)
    Four halves[2];
    std::memcpy(halves, &take, sizeof take);
    const int low = _mm_movemask_ps(_mm_castsi128_ps(reinterpret_cast<__m128i>(halves[0])));
    const int high = _mm_movemask_ps(_mm_castsi128_ps(reinterpret_cast<__m128i>(halves[1])));
    decisions[i] = static_cast<uint8_t>(low | high << 4);
#else
    int bits = 0;
    for (int s = 0; s < 8; ++s) bits |= take[s] & 1 << s;
    decisions[i] = static_cast<uint8_t>(bits);
#endif
    if (i % 64 == 63) metric -= metric[0];
  }
  std::memcpy(metrics, &metric, sizeof metric);
}

#else

template <int kStates>
void search(const uint8_t (&next)[kStates][2], const int32_t* branches, size_t n, int32_t* metrics,
            uint8_t* decisions) {
  constexpr int kKinds[2][2] = {{0, 2}, {3, 1}};
  for (size_t i = 0; i < n; ++i) {
    int32_t reached[2][kStates];
    for (int s = 0; s < kStates; ++s) {
      for (int parity = 0; parity < 2; ++parity) {
        reached[parity][next[s][parity]] = metrics[s] + branches[4 * i + kKinds[s >= kStates / 2][parity]];
      }
    }
    int bits = 0;
    for (int s = 0; s < kStates; ++s) {
      const bool odd = reached[1][s] < reached[0][s];
      metrics[s] = odd ? reached[1][s] : reached[0][s];
      bits |= odd << s;
    }
    decisions[i] = static_cast<uint8_t>(bits);
    if (i % 64 == 63) {
      const int32_t first = metrics[0];
      for (int s = 0; s < kStates; ++s) metrics[s] -= first;
    }
  }
}

void search4(const int32_t* branches, size_t n, int32_t* metrics, uint8_t* decisions) {
  search<4>(kTrellis4, branches, n, metrics, decisions);
}

void search8(const int32_t* branches, size_t n, int32_t* metrics, uint8_t* decisions) {
  search<8>(kTrellis8, branches, n, metrics, decisions);
}

#endif

}  // namespace

const TrellisLoops kTrellisLoops = {coarse, magnitudes, branches, search4, search8};

}  // namespace phloem::PHLOEM_LEVEL
