// AVX2 with FMA and F16C (Haswell, Zen and later): sixteen lanes are two ymm, and 16 registers hold
// small tiles.
//
// What matters: vpmaddubsw + vpmaddwd (32 multiply-adds in two multiplies and an add) and
// vfmadd231ps ymm. vpmaddubsw saturates at 16 bits, so the weights are made signed (one xor), and
// each product is |x| * (w with the sign of x): two of them are at most 2 * 127 * 127 < 32768. |x|
// is made once per broadcast.
#pragma once

#include <immintrin.h>

#include "isa/isa.h"

namespace gpt2fast {
namespace {

struct Avx2 {
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  struct M {
    __m256 lo, hi;
  };
  struct W {
    __m256i lo, hi;
  };
  struct X {
    __m256i value, magnitude;
  };

  static constexpr int kDotTokens = 4, kDotVectors = 1, kDotWide = 4, kFmaTokens = 6,
                       kFmaVectors = 1;

  GPT2FAST_INLINE __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  GPT2FAST_INLINE F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  GPT2FAST_INLINE F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  GPT2FAST_INLINE F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  GPT2FAST_INLINE F load(const float* p, int n) {
    return {_mm256_maskload_ps(p, first(n)), _mm256_maskload_ps(p + 8, first(n - 8))};
  }
  GPT2FAST_INLINE void store(float* p, F a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  GPT2FAST_INLINE void store(float* p, F a, int n) {
    _mm256_maskstore_ps(p, first(n), a.lo);
    _mm256_maskstore_ps(p + 8, first(n - 8), a.hi);
  }
  GPT2FAST_INLINE F keep(F a, int n) {
    return {_mm256_and_ps(a.lo, _mm256_castsi256_ps(first(n))),
            _mm256_and_ps(a.hi, _mm256_castsi256_ps(first(n - 8)))};
  }
  GPT2FAST_INLINE F load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  GPT2FAST_INLINE void store_f16(uint16_t* p, F a) {
    store_half(p, a.lo);
    store_half(p + 8, a.hi);
  }
  GPT2FAST_INLINE void store_half(uint16_t* p, __m256 a) {
    // The second operand of vminps and vmaxps is what a NaN compares to.
    const __m256 clipped =
        _mm256_min_ps(_mm256_set1_ps(65504.0f), _mm256_max_ps(_mm256_set1_ps(-65504.0f), a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(clipped, _MM_FROUND_TO_NEAREST_INT));
  }

  GPT2FAST_INLINE F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  GPT2FAST_INLINE F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  GPT2FAST_INLINE F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  GPT2FAST_INLINE F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  GPT2FAST_INLINE F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  GPT2FAST_INLINE F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  GPT2FAST_INLINE F abs(F a) {
    const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(a.lo, mask), _mm256_and_ps(a.hi, mask)};
  }
  GPT2FAST_INLINE M less(F a, F b) {
    return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
  }
  GPT2FAST_INLINE F select(M m, F a, F b) {
    return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
  }
  GPT2FAST_INLINE I to_int(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
  GPT2FAST_INLINE F to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
  GPT2FAST_INLINE __m256 ldexp_half(__m256 a,
                                    __m256i n) {  // in two factors, the first of them exact
    const __m256i bias = _mm256_set1_epi32(127), half = _mm256_srai_epi32(n, 1);
    const __m256i rest = _mm256_sub_epi32(n, half);
    const __m256 x =
        _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(x,
                         _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
  }
  GPT2FAST_INLINE F ldexp(F a, F n) {
    const I e = to_int(n);
    return {ldexp_half(a.lo, e.lo), ldexp_half(a.hi, e.hi)};
  }
  GPT2FAST_INLINE __m256 split_half(__m256 a, __m256& exponent) {
    const __m256i base = _mm256_set1_epi32(0x3f3504f3);
    const __m256i offset = _mm256_sub_epi32(_mm256_castps_si256(a), base);
    exponent = _mm256_cvtepi32_ps(_mm256_srai_epi32(offset, 23));
    const __m256i mantissa = _mm256_and_si256(offset, _mm256_set1_epi32(0x7fffff));
    return _mm256_castsi256_ps(_mm256_add_epi32(mantissa, base));
  }
  GPT2FAST_INLINE F split(F a, F& exponent) {
    return {split_half(a.lo, exponent.lo), split_half(a.hi, exponent.hi)};
  }
  GPT2FAST_INLINE float sum(F a) {
    const __m256 b = _mm256_add_ps(a.lo, a.hi);
    const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
  }
  GPT2FAST_INLINE float max(F a) {
    const __m256 b = _mm256_max_ps(a.lo, a.hi);
    const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
  }
  GPT2FAST_INLINE int32_t sum_int(I a) {
    const __m256i b = _mm256_add_epi32(a.lo, a.hi);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
  }
  GPT2FAST_INLINE I add_int(I a, I b) {
    return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
  }
  GPT2FAST_INLINE float root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
  GPT2FAST_INLINE void store_bytes(int8_t* p, I a) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  GPT2FAST_INLINE W load_weights(const uint8_t* p) {
    const __m256i top = _mm256_set1_epi8(static_cast<char>(0x80));
    return {_mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), top),
            _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32)), top)};
  }
  GPT2FAST_INLINE X broadcast(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    const __m256i value = _mm256_set1_epi32(four);
    return {value, _mm256_abs_epi8(value)};
  }
  GPT2FAST_INLINE I dot_start(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  GPT2FAST_INLINE __m256i dot_half(__m256i acc, __m256i w, const X& x) {
    const __m256i pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.value));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  GPT2FAST_INLINE I dot(I acc, const W& w, const X& x) {
    return {dot_half(acc.lo, w.lo, x), dot_half(acc.hi, w.hi, x)};
  }
  GPT2FAST_INLINE F pin(F a) {
    asm("" : "+x"(a.lo), "+x"(a.hi));
    return a;
  }
  GPT2FAST_INLINE I pin(I a) {
    asm("" : "+x"(a.lo), "+x"(a.hi));
    return a;
  }
  GPT2FAST_INLINE void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }
};

static_assert(Isa<Avx2>);

}  // namespace
}  // namespace gpt2fast
