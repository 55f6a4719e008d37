// The specification: sixteen lanes as plain arrays, in portable C++. Every other ISA must give
// these bits.
//
// Without FMA hardware the fused multiply-add is computed in float64: the product of two float32 is
// exact there, the sum is rounded to odd (so that rounding it again to float32 is as good as
// rounding once: 53 >= 2 * 24 + 2 bits), by way of the exact error of the sum (Knuth's two-sum).
// Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008. Bound by that
// emulation: about ten float64 operations for one.
#pragma once

#include "isa/float16.h"
#include "isa/isa.h"

namespace gpt2fast {
namespace {

struct Scalar {
  struct F {
    float v[kLanes];
  };
  struct I {
    int32_t v[kLanes];
  };
  struct M {
    uint32_t v[kLanes];
  };
  struct W {
    int8_t v[64];
  };
  struct X {
    int8_t v[4];
  };

  static constexpr int kDotTokens = 2, kDotVectors = 1, kDotWide = 2, kFmaTokens = 2,
                       kFmaVectors = 1;

  template <class Function>
  GPT2FAST_INLINE F each(Function f) {
    F r;
    for (int l = 0; l < kLanes; ++l) r.v[l] = f(l);
    return r;
  }
  template <class To, class From>
  GPT2FAST_INLINE To bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To r;
    std::memcpy(&r, &x, sizeof r);
    return r;
  }

  GPT2FAST_INLINE float fma(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
    return __builtin_fmaf(a, b, c);
#else
    const double product = static_cast<double>(a) * b, addend = c;
    const double s = product + addend;
    const double part = s - product;
    const double error = (product - (s - part)) + (addend - part);
    const int64_t pattern = bits<int64_t>(s);
    // An inexact even sum moves to its odd neighbour on the side of the error. NaN compares false:
    // infinities stay.
    const int64_t inexact = (error > 0) | (error < 0);
    const int64_t outward = (error > 0) == (pattern >= 0) ? 1 : -1;
    return static_cast<float>(bits<double>(pattern + (inexact & ~pattern & 1) * outward));
#endif
  }

  GPT2FAST_INLINE F zero() { return set(0.0f); }
  GPT2FAST_INLINE F set(float x) {
    return each([=](int) { return x; });
  }
  GPT2FAST_INLINE F load(const float* p) {
    return each([=](int l) { return p[l]; });
  }
  GPT2FAST_INLINE F load(const float* p, int n) {
    return each([=](int l) { return l < n ? p[l] : 0.0f; });
  }
  GPT2FAST_INLINE void store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
  GPT2FAST_INLINE void store(float* p, F a, int n) {
    for (int l = 0; l < n && l < kLanes; ++l) p[l] = a.v[l];
  }
  GPT2FAST_INLINE F keep(F a, int n) {
    return each([=](int l) { return l < n ? a.v[l] : 0.0f; });
  }
  GPT2FAST_INLINE F load_f16(const uint16_t* p) {
    return each([=](int l) { return widen_f16(p[l]); });
  }
  GPT2FAST_INLINE void store_f16(uint16_t* p, F a) {
    for (int l = 0; l < kLanes; ++l) p[l] = narrow_f16(a.v[l]);
  }

  GPT2FAST_INLINE F add(F a, F b) {
    return each([=](int l) { return a.v[l] + b.v[l]; });
  }
  GPT2FAST_INLINE F sub(F a, F b) {
    return each([=](int l) { return a.v[l] - b.v[l]; });
  }
  GPT2FAST_INLINE F mul(F a, F b) {
    return each([=](int l) { return a.v[l] * b.v[l]; });
  }
  GPT2FAST_INLINE F div(F a, F b) {
    return each([=](int l) { return a.v[l] / b.v[l]; });
  }
  static F fma(
      F a, F b,
      F c) {  // not forced inline: sixteen emulations at every call would swell the object tenfold
    return each([=](int l) { return fma(a.v[l], b.v[l], c.v[l]); });
  }
  GPT2FAST_INLINE F max(F a, F b) {
    return each([=](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; });
  }
  GPT2FAST_INLINE F abs(F a) {
    return each([=](int l) { return bits<float>(bits<uint32_t>(a.v[l]) & 0x7fffffffu); });
  }
  GPT2FAST_INLINE M less(F a, F b) {
    M m;
    for (int l = 0; l < kLanes; ++l) m.v[l] = a.v[l] < b.v[l];
    return m;
  }
  GPT2FAST_INLINE F select(M m, F a, F b) {
    return each([=](int l) { return m.v[l] ? a.v[l] : b.v[l]; });
  }
  GPT2FAST_INLINE I to_int(F a) {  // adding 1.5 * 2^23 rounds to an integer
    I r;
    for (int l = 0; l < kLanes; ++l) r.v[l] = bits<int32_t>(a.v[l] + 12582912.0f) - 0x4b400000;
    return r;
  }
  GPT2FAST_INLINE F to_float(I a) {
    return each([=](int l) { return static_cast<float>(a.v[l]); });
  }
  GPT2FAST_INLINE F ldexp(F a, F n) {
    const I e = to_int(n);
    return each([=](int l) {  // in two factors, the first of them exact
      const int32_t first = e.v[l] >> 1, second = e.v[l] - first;
      return a.v[l] * power(first) * power(second);
    });
  }
  GPT2FAST_INLINE float power(int32_t n) {
    return bits<float>(static_cast<uint32_t>((n + 127) << 23));
  }
  GPT2FAST_INLINE F split(F a, F& exponent) {
    F m;
    for (int l = 0; l < kLanes; ++l) {
      // Counting exponents from sqrt(1/2) = 0x3f3504f3 makes the mantissa straddle one.
      const uint32_t offset = bits<uint32_t>(a.v[l]) - 0x3f3504f3u;
      exponent.v[l] = static_cast<float>(static_cast<int32_t>(offset) >> 23);
      m.v[l] = bits<float>((offset & 0x7fffffu) + 0x3f3504f3u);
    }
    return m;
  }
  GPT2FAST_INLINE float sum(F a) {
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) a.v[l] = a.v[l] + a.v[l + half];
    return a.v[0];
  }
  GPT2FAST_INLINE float max(F a) {
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) a.v[l] = a.v[l] > a.v[l + half] ? a.v[l] : a.v[l + half];
    return a.v[0];
  }
  GPT2FAST_INLINE int32_t sum_int(I a) {
    int32_t s = 0;
    for (int l = 0; l < kLanes; ++l) s += a.v[l];
    return s;
  }
  GPT2FAST_INLINE I add_int(I a, I b) {
    for (int l = 0; l < kLanes; ++l) a.v[l] += b.v[l];
    return a;
  }
  GPT2FAST_INLINE float root(float x) { return __builtin_sqrtf(x); }
  GPT2FAST_INLINE void store_bytes(int8_t* p, I a) {
    for (int l = 0; l < kLanes; ++l) p[l] = static_cast<int8_t>(a.v[l]);
  }

  GPT2FAST_INLINE W load_weights(const uint8_t* p) {
    W w;
    for (int b = 0; b < 64; ++b) w.v[b] = static_cast<int8_t>(p[b] ^ 0x80);
    return w;
  }
  GPT2FAST_INLINE X broadcast(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  GPT2FAST_INLINE I dot_start(int32_t) { return I{}; }
  GPT2FAST_INLINE I dot(I acc, const W& w, X x) {
    for (int l = 0; l < kLanes; ++l)
      for (int b = 0; b < 4; ++b) acc.v[l] += w.v[4 * l + b] * x.v[b];
    return acc;
  }
  GPT2FAST_INLINE F pin(F a) { return a; }
  GPT2FAST_INLINE I pin(I a) { return a; }
  GPT2FAST_INLINE void prefetch(const void*) {}
};

static_assert(Isa<Scalar>);

}  // namespace
}  // namespace gpt2fast
