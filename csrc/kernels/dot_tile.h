// The int8 tile: T tokens x 64 outputs, block of 64 inputs by block.
//
//   acc = sum over the block of w * x                       exact, in int32
//   total = fma(float(acc), w_scale * x_scale, total)       per block, in order
//
// Bound by the dot product: of 29 registers at T = 6 in AVX-512, 24 are accumulators, so the totals
// live in L1 and come in once per block. On Zen 4 84% of the dot rate (390 of 466 GOPS): per block
// 24 multiplications and 24 multiply-adds take the ports of 384 dots, so 89% is the most there is.
#pragma once

#include "formats/int8.h"
#include "isa/isa.h"

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
  template <class Isa>
  static constexpr int wide() {
    return Isa::kDotWide;
  }

  template <class Isa, int T>
  static void run(const LinearCall& c, const uint8_t* w, int row, int begin, int end,
                  float* totals) {
    const size_t width = static_cast<size_t>(c.x.width), stride = width / kBlock;
    const size_t at = static_cast<size_t>(row) * width + static_cast<size_t>(begin) * kBlock;
    const Input x{c.x.q + at, c.x.scale + at / kBlock, c.x.sum + at / kBlock, width, stride};
    w += static_cast<size_t>(begin) * Format::kBytes;
    if constexpr (T == 1) {
      stream<Isa>(w, x, begin > 0, end - begin, totals);
    } else {
      if (begin == 0)
        for (int i = 0; i < T * kBlock; i += kLanes) Isa::store(totals + i, Isa::zero());
      constexpr int V =
          T > Isa::kDotTokens ? Isa::kDotTokens * Isa::kDotVectors / T : Isa::kDotVectors;
      Input at_block = x;
      for (int b = begin; b < end;
           ++b, w += Format::kBytes, at_block.q += kBlock, ++at_block.scale, ++at_block.sum) {
        int j = 0;
        for (; j + V <= 4; j += V) one_block<Isa, T, V>(w, j, at_block, totals + 16 * j);
        if constexpr (4 % V != 0) one_block<Isa, T, 4 % V>(w, j, at_block, totals + 16 * j);
      }
    }
  }

 private:
  struct Input {  // T rows from one block on
    const int8_t* q;
    const float* scale;
    const int32_t* sum;
    size_t width, stride;
  };

  // One token and all 64 outputs, so that the weights are one stream; the totals stay in registers.
  template <class Isa>
  static void stream(const uint8_t* w, const Input& x, bool resume, int n, float* totals) {
    typename Isa::F total[4];
    GPT2FAST_UNROLL
    for (int v = 0; v < 4; ++v) total[v] = resume ? Isa::load(totals + 16 * v) : Isa::zero();
    for (int b = 0; b < n; ++b, w += Format::kBytes) {
      typename Isa::I acc[1][4];
      dots<Isa, 1, 4>(w, 0, {x.q + b * kBlock, nullptr, x.sum + b, x.width, x.stride}, acc);
      const auto x_scale = Isa::set(x.scale[b]);
      GPT2FAST_UNROLL
      for (int v = 0; v < 4; ++v)
        total[v] = Isa::fma(Isa::to_float(acc[0][v]),
                            Isa::mul(Format::template scales<Isa>(w, v), x_scale), total[v]);
    }
    GPT2FAST_UNROLL
    for (int v = 0; v < 4; ++v) Isa::store(totals + 16 * v, total[v]);
  }

  // Not inlined: gcc would otherwise keep a second copy of the totals on the stack and store
  // everything twice.
  template <class Isa, int T, int V>
  GPT2FAST_NOINLINE void one_block(const uint8_t* w, int j, const Input& x, float* totals) {
    typename Isa::I acc[T][V];
    dots<Isa, T, V>(w, j, x, acc);
    typename Isa::F scales[V];
    GPT2FAST_UNROLL
    for (int v = 0; v < V; ++v) scales[v] = Format::template scales<Isa>(w, j + v);
    GPT2FAST_UNROLL
    for (int t = 0; t < T; ++t) {
      const auto x_scale = Isa::set(x.scale[static_cast<size_t>(t) * x.stride]);
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) {
        float* at = totals + t * kBlock + 16 * v;
        Isa::store(at,
                   Isa::fma(Isa::to_float(acc[t][v]), Isa::mul(scales[v], x_scale), Isa::load(at)));
      }
    }
  }

  template <class Isa, int T, int V>
  GPT2FAST_INLINE void dots(const uint8_t* w, int j, const Input& x, typename Isa::I (&acc)[T][V]) {
    GPT2FAST_UNROLL
    for (int t = 0; t < T; ++t) {
      const auto start = Isa::dot_start(x.sum[static_cast<size_t>(t) * x.stride]);
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) acc[t][v] = start;
    }
    for (int step = 0; step < kBlock / 4; ++step) {
      typename Isa::W weights[V];
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) weights[v] = Format::template weights<Isa>(w, step, j + v);
      GPT2FAST_UNROLL
      for (int t = 0; t < T; ++t) {
        const auto four = Isa::broadcast(x.q + static_cast<size_t>(t) * x.width + 4 * step);
        GPT2FAST_UNROLL
        for (int v = 0; v < V; ++v) acc[t][v] = Isa::pin(Isa::dot(acc[t][v], weights[v], four));
      }
    }
  }
};

}  // namespace
}  // namespace gpt2fast
