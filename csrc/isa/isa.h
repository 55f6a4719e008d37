// What a CPU can do, as the kernels see it: the contract that every struct of this folder fulfils.
//
// The unit is not the register but sixteen virtual lanes: `F` is sixteen float32 and `I` sixteen
// int32, whatever number of registers a CPU needs for them (one zmm, two ymm, four NEON quads, an
// array). Sums across a row are therefore written once, and in one order, for all. A struct that
// adds instructions to another inherits it and shadows what is better.
//
// Every function is one rounding, or exact, and gives the same bits on every CPU:
//   add sub mul div fma, root     IEEE, round to nearest even (root: of one float)
//   max(a, b)                     a > b ? a : b     (so max(bound, x) keeps a NaN in x)
//   less(a, b), select(m, a, b)   m = a < b;  m ? a : b
//   to_int                        nearest even, |x| < 2^22;  to_float is exact
//   ldexp(x, n)                   x * 2^n for 0.5 < x < 2 and integer n in [-151, 129], rounded
//   once split(x, e)                   x = m * 2^e with m in [sqrt(1/2), sqrt(2)), for positive
//   normal x sum, max of one F             lanes l and l + 8, then + 4, + 2, + 1 load_f16,
//   store_f16           exact; nearest even, magnitudes beyond 65504 are clipped, NaN stays
//
// The int8 dot product is the only place where CPUs differ in kind. Weights come as bytes w + 128
// and activations as bytes x in [-127, 127]; `W` is what a CPU makes of 64 bytes of weights (16
// outputs x 4 inputs, the inputs of an output side by side), `X` of 4 bytes of activations, and
//   dot(dot_start(sum of all x), W, X) accumulated over inputs  =  sum of w * x,   exactly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// Loops of constant length over arrays of registers must vanish, or the arrays live in memory.
#if defined(__clang__)
#define GPT2FAST_UNROLL _Pragma("unroll")
#else
#define GPT2FAST_UNROLL _Pragma("GCC unroll 16")
#endif

#define GPT2FAST_INLINE [[gnu::always_inline]] static inline
#define GPT2FAST_NOINLINE [[gnu::noinline]] static

namespace gpt2fast {

inline constexpr int kLanes = 16;

template <class T>
concept Isa = requires(typename T::F f, typename T::I i, typename T::M m, float* p, uint16_t* h,
                       int8_t* q, const uint8_t* w, int n) {
  f = T::zero();
  f = T::set(1.0f);
  f = T::load(p);
  f = T::load(p, n);  // the first n lanes, zeros behind them; reads nothing past them
  T::store(p, f);
  T::store(p, f, n);
  f = T::keep(f, n);  // zeros from lane n on
  f = T::load_f16(h);
  T::store_f16(h, f);
  f = T::add(f, f);
  f = T::sub(f, f);
  f = T::mul(f, f);
  f = T::div(f, f);
  f = T::fma(f, f, f);
  f = T::max(f, f);
  f = T::abs(f);
  m = T::less(f, f);
  f = T::select(m, f, f);
  f = T::ldexp(f, f);
  f = T::split(f, f);
  f = T::to_float(i);
  i = T::to_int(f);
  *p = T::sum(f);
  *p = T::max(f);
  n = T::sum_int(i);
  i = T::add_int(i, i);
  *p = T::root(*p);
  T::store_bytes(q, i);  // sixteen values in [-128, 127]
  i = T::dot(T::dot_start(n), T::load_weights(w), T::broadcast(q));
  f = T::pin(f);  // keeps an accumulator in its register: an empty asm that the optimiser cannot
                  // see through
  i = T::pin(i);
  T::prefetch(w);
  T::kDotTokens;  // int8 tile: tokens x kDotVectors * 16 outputs
  T::kDotVectors;
  T::kDotWide;    // tokens of a small batch that still goes as one tile
  T::kFmaTokens;  // float tile, for linear layers and attention
  T::kFmaVectors;
};

}  // namespace gpt2fast
