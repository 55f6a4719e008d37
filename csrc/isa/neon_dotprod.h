// NEON with the dot product of Armv8.2 (Raspberry Pi 5, Graviton 2, Apple M1).
//
// What it adds: sdot, 16 multiply-adds in one instruction; the weights are still made signed by one
// eor. A tile of 6 tokens x 16 outputs leaves 8 of 32 registers. Timed on no machine yet; its bits
// are checked under emulation.
#pragma once

#include "isa/neon.h"

namespace gpt2fast {
namespace {

struct NeonDotprod : Neon {
  static constexpr int kDotTokens = 6, kDotVectors = 1, kDotWide = 6;

  GPT2FAST_INLINE I dot(I acc, const W& w, X x) {
    return each<I>([=](int j) { return vdotq_s32(acc.v[j], w.v[j], x); });
  }
};

static_assert(Isa<NeonDotprod>);

}  // namespace
}  // namespace gpt2fast
