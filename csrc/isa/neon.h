// NEON of Armv8-A (Raspberry Pi 3 and later): sixteen lanes are four quads; 32 registers hold tiles
// of 4 tokens x 16.
//
// What matters: fmla, and for int8 smull (8 products of 16 bits) + sadalp (pairwise into 32 bits):
// two instructions for 8 multiply-adds. The weights are made signed by one eor.
#pragma once

#include <arm_neon.h>

#include "isa/isa.h"

namespace gpt2fast {
namespace {

struct Neon {
  struct F {
    float32x4_t v[4];
  };
  struct I {
    int32x4_t v[4];
  };
  struct M {
    uint32x4_t v[4];
  };
  struct W {
    int8x16_t v[4];
  };
  using X = int8x16_t;

  static constexpr int kDotTokens = 4, kDotVectors = 1, kDotWide = 4, kFmaTokens = 4,
                       kFmaVectors = 1;

  template <class To, class Function>
  GPT2FAST_INLINE To each(Function f) {
    To r;
    GPT2FAST_UNROLL
    for (int j = 0; j < 4; ++j) r.v[j] = f(j);
    return r;
  }
  GPT2FAST_INLINE uint32x4_t first(int n, int j) {
    const int32_t lanes[4] = {0, 1, 2, 3};
    return vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(n - 4 * j));
  }

  GPT2FAST_INLINE F zero() { return set(0.0f); }
  GPT2FAST_INLINE F set(float x) {
    return each<F>([=](int) { return vdupq_n_f32(x); });
  }
  GPT2FAST_INLINE F load(const float* p) {
    return each<F>([=](int j) { return vld1q_f32(p + 4 * j); });
  }
  GPT2FAST_INLINE F load(const float* p, int n) {
    float lanes[kLanes] = {};
    for (int l = 0; l < n && l < kLanes; ++l) lanes[l] = p[l];
    return load(lanes);
  }
  GPT2FAST_INLINE void store(float* p, F a) {
    for (int j = 0; j < 4; ++j) vst1q_f32(p + 4 * j, a.v[j]);
  }
  GPT2FAST_INLINE void store(float* p, F a, int n) {
    float lanes[kLanes];
    store(lanes, a);
    for (int l = 0; l < n && l < kLanes; ++l) p[l] = lanes[l];
  }
  GPT2FAST_INLINE F keep(F a, int n) {
    return each<F>([=](int j) {
      return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a.v[j]), first(n, j)));
    });
  }
  GPT2FAST_INLINE F load_f16(const uint16_t* p) {
    return each<F>([=](int j) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * j))); });
  }
  GPT2FAST_INLINE void store_f16(uint16_t* p, F a) {
    const F limit = set(65504.0f), clipped = select(less(limit, a), limit, max(set(-65504.0f), a));
    for (int j = 0; j < 4; ++j)
      vst1_u16(p + 4 * j, vreinterpret_u16_f16(vcvt_f16_f32(clipped.v[j])));
  }

  GPT2FAST_INLINE F add(F a, F b) {
    return each<F>([=](int j) { return vaddq_f32(a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE F sub(F a, F b) {
    return each<F>([=](int j) { return vsubq_f32(a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE F mul(F a, F b) {
    return each<F>([=](int j) { return vmulq_f32(a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE F div(F a, F b) {
    return each<F>([=](int j) { return vdivq_f32(a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE F fma(F a, F b, F c) {
    return each<F>([=](int j) { return vfmaq_f32(c.v[j], a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE F max(F a, F b) { return select(less(b, a), a, b); }
  GPT2FAST_INLINE F abs(F a) {
    return each<F>([=](int j) { return vabsq_f32(a.v[j]); });
  }
  GPT2FAST_INLINE M less(F a, F b) {
    return each<M>([=](int j) { return vcltq_f32(a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE F select(M m, F a, F b) {
    return each<F>([=](int j) { return vbslq_f32(m.v[j], a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE I to_int(F a) {
    return each<I>([=](int j) { return vcvtnq_s32_f32(a.v[j]); });
  }
  GPT2FAST_INLINE F to_float(I a) {
    return each<F>([=](int j) { return vcvtq_f32_s32(a.v[j]); });
  }
  GPT2FAST_INLINE float32x4_t power(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
  }
  GPT2FAST_INLINE F ldexp(F a, F n) {
    return each<F>([=](int j) {  // in two factors, the first of them exact
      const int32x4_t e = vcvtnq_s32_f32(n.v[j]), half = vshrq_n_s32(e, 1);
      return vmulq_f32(vmulq_f32(a.v[j], power(half)), power(vsubq_s32(e, half)));
    });
  }
  GPT2FAST_INLINE F split(F a, F& exponent) {
    const int32x4_t base = vdupq_n_s32(0x3f3504f3);
    F m;
    for (int j = 0; j < 4; ++j) {
      const int32x4_t offset = vsubq_s32(vreinterpretq_s32_f32(a.v[j]), base);
      exponent.v[j] = vcvtq_f32_s32(vshrq_n_s32(offset, 23));
      m.v[j] = vreinterpretq_f32_s32(vaddq_s32(vandq_s32(offset, vdupq_n_s32(0x7fffff)), base));
    }
    return m;
  }
  GPT2FAST_INLINE float sum(F a) {
    const float32x4_t b = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
  }
  GPT2FAST_INLINE float larger(float a, float b) { return a > b ? a : b; }
  GPT2FAST_INLINE float max(F a) {
    float lanes[kLanes];
    store(lanes, a);
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) lanes[l] = larger(lanes[l], lanes[l + half]);
    return lanes[0];
  }
  GPT2FAST_INLINE int32_t sum_int(I a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
  }
  GPT2FAST_INLINE I add_int(I a, I b) {
    return each<I>([=](int j) { return vaddq_s32(a.v[j], b.v[j]); });
  }
  GPT2FAST_INLINE float root(float x) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0); }
  GPT2FAST_INLINE void store_bytes(int8_t* p, I a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }

  GPT2FAST_INLINE W load_weights(const uint8_t* p) {
    return each<W>([=](int j) {
      return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * j), vdupq_n_u8(0x80)));
    });
  }
  GPT2FAST_INLINE X broadcast(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  GPT2FAST_INLINE I dot_start(int32_t) {
    return each<I>([=](int) { return vdupq_n_s32(0); });
  }
  GPT2FAST_INLINE I dot(I acc, const W& w, X x) {
    return each<I>(
        [=](int j) {  // pairs of neighbours, then pairs of pairs: the four inputs of an output
          const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w.v[j]), vget_low_s8(x)));
          const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(w.v[j]), vget_high_s8(x)));
          return vaddq_s32(acc.v[j], vpaddq_s32(low, high));
        });
  }
  GPT2FAST_INLINE F pin(F a) { return a; }
  GPT2FAST_INLINE I pin(I a) { return a; }
  GPT2FAST_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
};

static_assert(Isa<Neon>);

}  // namespace
}  // namespace gpt2fast
