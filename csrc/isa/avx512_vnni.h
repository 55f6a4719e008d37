// AVX-512 (F, BW, DQ, VL) with VNNI: sixteen lanes are one zmm, and 32 registers hold a tile of 6
// tokens x 64 outputs.
//
// What matters: vpdpbusd zmm (64 multiply-adds; on Zen 4 one a cycle, on Intel servers one or two),
// vfmadd231ps zmm, and broadcasts from memory that cost a load slot only. On Zen 4 zmm operations
// take two passes, so a tile is bound by the dot product alone as long as its accumulators stay in
// registers: hence pin().
#pragma once

#include "isa/avx2.h"

namespace gpt2fast {
namespace {

struct Avx512Vnni {
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;
  using W = __m512i;
  using X = __m512i;

  static constexpr int kDotTokens = 6, kDotVectors = 4, kDotWide = 8, kFmaTokens = 6,
                       kFmaVectors = 4;

  GPT2FAST_INLINE M first(int n) {
    return static_cast<M>(n >= kLanes ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u);
  }

  GPT2FAST_INLINE F zero() { return _mm512_setzero_ps(); }
  GPT2FAST_INLINE F set(float x) { return _mm512_set1_ps(x); }
  GPT2FAST_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  GPT2FAST_INLINE F load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  GPT2FAST_INLINE void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  GPT2FAST_INLINE void store(float* p, F a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
  GPT2FAST_INLINE F keep(F a, int n) { return _mm512_maskz_mov_ps(first(n), a); }
  GPT2FAST_INLINE F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  GPT2FAST_INLINE void store_f16(uint16_t* p, F a) {
    const F limit =
        set(65504.0f);  // the second operand of vminps and vmaxps is what a NaN compares to
    const F clipped = _mm512_min_ps(limit, _mm512_max_ps(set(-65504.0f), a));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(clipped, _MM_FROUND_TO_NEAREST_INT));
  }

  GPT2FAST_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  GPT2FAST_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  GPT2FAST_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  GPT2FAST_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  GPT2FAST_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  GPT2FAST_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  GPT2FAST_INLINE F abs(F a) { return _mm512_abs_ps(a); }
  GPT2FAST_INLINE M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  GPT2FAST_INLINE F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
  GPT2FAST_INLINE I to_int(F a) { return _mm512_cvtps_epi32(a); }
  GPT2FAST_INLINE F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  GPT2FAST_INLINE F ldexp(F a, F n) { return _mm512_scalef_ps(a, n); }
  GPT2FAST_INLINE F split(F a, F& exponent) {
    const I base = _mm512_set1_epi32(0x3f3504f3);
    const I offset = _mm512_sub_epi32(_mm512_castps_si512(a), base);
    exponent = to_float(_mm512_srai_epi32(offset, 23));
    const I mantissa = _mm512_and_si512(offset, _mm512_set1_epi32(0x7fffff));
    return _mm512_castsi512_ps(_mm512_add_epi32(mantissa, base));
  }
  GPT2FAST_INLINE Avx2::F halves(F a) {
    return {_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)};
  }
  GPT2FAST_INLINE float sum(F a) { return Avx2::sum(halves(a)); }
  GPT2FAST_INLINE float max(F a) { return Avx2::max(halves(a)); }
  GPT2FAST_INLINE int32_t sum_int(I a) { return _mm512_reduce_add_epi32(a); }
  GPT2FAST_INLINE I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  GPT2FAST_INLINE float root(float x) { return Avx2::root(x); }
  GPT2FAST_INLINE void store_bytes(int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }

  GPT2FAST_INLINE W load_weights(const uint8_t* p) { return _mm512_loadu_si512(p); }
  GPT2FAST_INLINE X broadcast(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  GPT2FAST_INLINE I dot_start(int32_t sum) { return _mm512_set1_epi32(-128 * sum); }
  GPT2FAST_INLINE I dot(I acc, W w, X x) { return _mm512_dpbusd_epi32(acc, w, x); }
  GPT2FAST_INLINE F pin(F a) {
    asm("" : "+v"(a));
    return a;
  }
  GPT2FAST_INLINE I pin(I a) {
    asm("" : "+v"(a));
    return a;
  }
  GPT2FAST_INLINE void prefetch(const void* p) { Avx2::prefetch(p); }
};

static_assert(Isa<Avx512Vnni>);

}  // namespace
}  // namespace gpt2fast
