// The int8 tile: T tokens x 64 outputs, block of 64 inputs by block.
//
//   acc = sum over the block of w * x                       exact, in int32
//   total = fma(float(acc), w_scale * x_scale, total)       per block, in order
//
// Bound by the dot product: of 29 registers at T = 6 in AVX-512, 24 are accumulators, so the totals live in L1 and come
// in once per block; conversion, scaling and their traffic cost a sixth of the block's time.
#pragma once

#include "formats/int8.h"

namespace gpt2fast {
namespace {

template <class Format>
struct DotTile {
  static constexpr int kPanel = 4;  // blocks: 17 KB of weights, half of L1
  static int steps(int n_in) { return blocks(n_in); }
  static size_t row_bytes(int n_in) { return Format::row_bytes(n_in); }
  template <class Isa>
  static constexpr int tokens() {
    return Isa::kDotTokens;
  }

  template <class Isa, int T>
  static void run(const LinearCall& c, const uint8_t* w, int row, int begin, int end, float* sums) {
    // A single token takes all 64 outputs at once, so that the weights are one stream.
    constexpr int V = T == 1 ? 4 : Isa::kDotVectors;
    for (int j = 0; j < 4; j += V) part<Isa, T, V>(c, w, row, begin, end, j, sums + 16 * j);
  }

  template <class Isa, int T, int V>
  GPT2FAST_INLINE void part(const LinearCall& c, const uint8_t* w, int row, int begin, int end, int j, float* sums) {
    using F = typename Isa::F;
    constexpr bool kResident = T == 1;
    const int8_t* q = c.x.q + static_cast<size_t>(row) * c.x.width;
    const size_t first = static_cast<size_t>(row) * (c.x.width / kBlock);
    F total[T][V];
    if (begin == 0)
      fill<Isa, T, V>(total, sums);
    else if constexpr (kResident)
      each<T, V>([&](int t, int v) { total[t][v] = Isa::load(sums + t * kBlock + 16 * v); });
    for (int b = begin; b < end; ++b) {
      const uint8_t* block = w + static_cast<size_t>(b) * Format::kBytes;
      typename Isa::I acc[T][V];
      each<T, V>([&](int t, int v) {
        acc[t][v] = Isa::dot_start(c.x.sum[first + static_cast<size_t>(t) * (c.x.width / kBlock) + b]);
      });
      for (int step = 0; step < kBlock / 4; ++step) {
        typename Isa::W weights[V];
        GPT2FAST_UNROLL
        for (int v = 0; v < V; ++v) weights[v] = Format::template weights<Isa>(block, step, j + v);
        GPT2FAST_UNROLL
        for (int t = 0; t < T; ++t) {
          const auto x = Isa::broadcast(q + static_cast<size_t>(t) * c.x.width + b * kBlock + 4 * step);
          GPT2FAST_UNROLL
          for (int v = 0; v < V; ++v) {
            acc[t][v] = Isa::pin(Isa::dot(acc[t][v], weights[v], x));
          }
        }
      }
      F scales[V];
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) scales[v] = Format::template scales<Isa>(block, j + v);
      GPT2FAST_UNROLL
      for (int t = 0; t < T; ++t) {
        const F x_scale = Isa::set(c.x.scale[first + static_cast<size_t>(t) * (c.x.width / kBlock) + b]);
        GPT2FAST_UNROLL
        for (int v = 0; v < V; ++v) {
          float* at = sums + t * kBlock + 16 * v;
          const F before = kResident ? total[t][v] : Isa::load(at);
          const F after = Isa::fma(Isa::to_float(acc[t][v]), Isa::mul(scales[v], x_scale), before);
          if constexpr (kResident)
            total[t][v] = after;
          else
            Isa::store(at, after);
        }
      }
    }
    if constexpr (kResident) each<T, V>([&](int t, int v) { Isa::store(sums + t * kBlock + 16 * v, total[t][v]); });
  }

  template <class Isa, int T, int V>
  GPT2FAST_INLINE void fill(typename Isa::F (&total)[T][V], float* sums) {
    each<T, V>([&](int t, int v) {
      total[t][v] = Isa::zero();
      if constexpr (T > 1) Isa::store(sums + t * kBlock + 16 * v, Isa::zero());
    });
  }

  template <int T, int V, class Function>
  GPT2FAST_INLINE void each(Function f) {
    GPT2FAST_UNROLL
    for (int t = 0; t < T; ++t) {
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) f(t, v);
    }
  }
};

}  // namespace
}  // namespace gpt2fast
