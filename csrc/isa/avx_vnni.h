// AVX2 with AVX-VNNI (Alder Lake, Zen 5 and other CPUs that may lack AVX-512).
//
// What it adds: vpdpbusd ymm, 32 multiply-adds in one instruction with no saturation, so weights
// stay unsigned and a tile of 6 tokens x 16 outputs fits the 16 registers. No such machine was at
// hand to time it. To keep its arithmetic honest, -DGPT2FAST_EVEX_VNNI builds the one instruction
// in its AVX512-VL encoding: same operands, same result.
#pragma once

#include "isa/avx2.h"

namespace gpt2fast {
namespace {

struct AvxVnni : Avx2 {
  using X = __m256i;

  static constexpr int kDotTokens = 6, kDotVectors = 1, kDotWide = 6;

  GPT2FAST_INLINE W load_weights(const uint8_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  }
  GPT2FAST_INLINE X broadcast(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  GPT2FAST_INLINE I dot_start(int32_t sum) {
    const __m256i start = _mm256_set1_epi32(-128 * sum);
    return {start, start};
  }
  GPT2FAST_INLINE __m256i dpbusd(__m256i acc, __m256i w, __m256i x) {
#if defined(GPT2FAST_EVEX_VNNI)
    return _mm256_dpbusd_epi32(acc, w, x);
#else
    return _mm256_dpbusd_avx_epi32(acc, w, x);
#endif
  }
  GPT2FAST_INLINE I dot(I acc, const W& w, X x) {
    return {dpbusd(acc.lo, w.lo, x), dpbusd(acc.hi, w.hi, x)};
  }
};

static_assert(Isa<AvxVnni>);

}  // namespace
}  // namespace gpt2fast
