// NEON with the int8 instructions of Armv8.6 (Graviton 3, Apple M2, Neoverse V1).
//
// What it adds: usdot, the dot product of unsigned weights and signed activations: no eor per
// vector of weights. (smmla would want two outputs' inputs eight by eight; the packed layout keeps
// four.) Timed on no machine yet; its bits are checked under emulation.
#pragma once

#include "isa/neon_dotprod.h"

namespace gpt2fast {
namespace {

struct NeonI8mm : NeonDotprod {
  struct W {
    uint8x16_t v[4];
  };

  GPT2FAST_INLINE W load_weights(const uint8_t* p) {
    return each<W>([=](int j) { return vld1q_u8(p + 16 * j); });
  }
  GPT2FAST_INLINE I dot_start(int32_t sum) {
    return each<I>([=](int) { return vdupq_n_s32(-128 * sum); });
  }
  GPT2FAST_INLINE I dot(I acc, const W& w, X x) {
    return each<I>([=](int j) { return vusdotq_s32(acc.v[j], w.v[j], x); });
  }
};

static_assert(Isa<NeonI8mm>);

}  // namespace
}  // namespace gpt2fast
