// The float tile: T tokens x 64 outputs, input by input: acc = fma(w, x, acc), in order from 0 to
// n_in - 1.
//
// One token: four independent chains of sixteen lanes, 256 bytes of weights in the four cycles of
// an FMA's latency, more than memory gives. Several tokens: bound by the FMA rate; at T = 6 in
// AVX-512 24 chains hide its latency. On two threads a float32 step of 124M has 80 to 100% of the
// read rate.
#pragma once

#include "formats/planes.h"

namespace gpt2fast {
namespace {

template <class Format>
struct FmaTile {
  using Element = typename Format::Element;
  static constexpr int kPanel = 64;  // inputs: 16 KB of float32 weights, half of L1
  static int steps(int n_in) { return n_in; }
  static size_t row_bytes(int n_in) { return Planes<Format>::row_bytes(n_in); }
  template <class Isa>
  static constexpr int tokens() {
    return Isa::kFmaTokens;
  }
  template <class Isa>
  static constexpr int wide() {
    return Isa::kFmaTokens;
  }

  template <class Isa, int T>
  static void run(const LinearCall& c, const uint8_t* w, int row, int begin, int end, float* sums) {
    constexpr int V = T == 1 ? 4 : Isa::kFmaVectors;
    const auto* weights = reinterpret_cast<const Element*>(w);
    const float* x = c.x.f32 + static_cast<size_t>(row) * c.x.width;
    for (int j = 0; j < 4; j += V)
      part<Isa, T, V>(weights + 16 * j, x, c.x.width, begin, end, sums + 16 * j);
  }

  template <class Isa, int T, int V>
  GPT2FAST_INLINE void part(const Element* w, const float* x, int width, int begin, int end,
                            float* sums) {
    typename Isa::F acc[T][V];
    GPT2FAST_UNROLL
    for (int t = 0; t < T; ++t) {
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v)
        acc[t][v] = begin == 0 ? Isa::zero() : Isa::load(sums + t * kBlock + 16 * v);
    }
    for (int i = begin; i < end; ++i) {
      typename Isa::F weights[V];
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v)
        weights[v] = Format::template load<Isa>(w + static_cast<size_t>(i) * kBlock + 16 * v);
      GPT2FAST_UNROLL
      for (int t = 0; t < T; ++t) {
        const auto xt = Isa::set(x[static_cast<size_t>(t) * width + i]);
        GPT2FAST_UNROLL
        for (int v = 0; v < V; ++v) {
          acc[t][v] = Isa::pin(Isa::fma(weights[v], xt, acc[t][v]));
        }
      }
    }
    GPT2FAST_UNROLL
    for (int t = 0; t < T; ++t) {
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) Isa::store(sums + t * kBlock + 16 * v, acc[t][v]);
    }
  }
};

}  // namespace
}  // namespace gpt2fast
