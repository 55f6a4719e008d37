// IEEE half precision in plain integer and float arithmetic, for code that may not use conversion
// instructions.
//
// The specification of isa.h's load_f16 and store_f16: widening is exact; narrowing rounds to
// nearest even and clips magnitudes beyond 65504 to it; NaN stays NaN.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa/isa.h"

namespace gpt2fast {
namespace {

GPT2FAST_INLINE uint32_t float_bits(float x) {
  uint32_t r;
  std::memcpy(&r, &x, sizeof r);
  return r;
}
GPT2FAST_INLINE float bits_float(uint32_t x) {
  float r;
  std::memcpy(&r, &x, sizeof r);
  return r;
}

GPT2FAST_INLINE float widen_f16(uint16_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  // Subnormals and normals alike: place the bits 13 higher and multiply by 2^112, which is exact.
  const float value = bits_float(magnitude << 13) * bits_float(0x77800000u);
  const uint32_t wide = magnitude >= 0x7c00u ? 0x7f800000u | magnitude << 13 : float_bits(value);
  return bits_float(wide | sign);
}

GPT2FAST_INLINE uint16_t narrow_f16(float x) {
  const uint32_t pattern = float_bits(x), sign = pattern >> 16 & 0x8000u,
                 magnitude = pattern & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude > 0x477fe000u) return static_cast<uint16_t>(sign | 0x7bffu);  // beyond 65504
  if (magnitude <
      0x38800000u) {  // below 2^-14: adding 0.5 leaves the subnormal in the last bits, rounded
    const float shifted = bits_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign |
                               ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13));
}

}  // namespace
}  // namespace gpt2fast
