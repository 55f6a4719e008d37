// The one door through which activations enter a linear layer: a block of 64 floats, kept or
// quantised.
//
// int8: scale = absmax / 127, q = rint(x / scale), sum = the sum of the q. A block whose absmax is
// below 1e-30 becomes zeros. A block with a value that is not finite gets the scale NaN, so that
// every output that reads it is NaN. LayerNorm, the epilogue of c_fc and attention all write blocks
// of 64 outputs, which are the next layer's blocks of 64 inputs: nothing is quantised twice or in a
// pass of its own. Bound by four divisions a block.
#pragma once

#include "isa/isa.h"
#include "kernels/table.h"

namespace gpt2fast {
namespace {

template <class Isa>
GPT2FAST_INLINE void put_block(const Rows& out, int row, int block, bool quantize,
                               const typename Isa::F (&v)[4]) {
  const size_t at = static_cast<size_t>(row) * out.width + static_cast<size_t>(block) * kBlock;
  if (!quantize) {
    GPT2FAST_UNROLL
    for (int j = 0; j < 4; ++j) Isa::store(out.f32 + at + 16 * j, v[j]);
    return;
  }
  auto top = Isa::zero(), probe = Isa::zero();
  GPT2FAST_UNROLL
  for (int j = 0; j < 4; ++j) {
    top = Isa::max(Isa::abs(v[j]), top);
    probe = Isa::fma(v[j], Isa::zero(), probe);  // NaN if v is not finite
  }
  const float absmax = Isa::max(top), nan = Isa::sum(probe);
  const bool damaged = nan != 0.0f, empty = absmax < 1e-30f || damaged;
  const float scale = absmax / 127.0f;
  const auto divisor = Isa::set(empty ? 1.0f : scale);
  auto total = Isa::to_int(Isa::zero());
  GPT2FAST_UNROLL
  for (int j = 0; j < 4; ++j) {
    const auto q = Isa::to_int(empty ? Isa::zero() : Isa::div(v[j], divisor));
    Isa::store_bytes(out.q + at + 16 * j, q);
    total = Isa::add_int(total, q);
  }
  out.sum[at / kBlock] = Isa::sum_int(total);
  out.scale[at / kBlock] = damaged ? nan : empty ? 0.0f : scale;
}

template <class Isa>
void put_row(const float* x, int32_t row, bool quantize, const Rows& out) {
  for (int b = 0; b < out.width / kBlock; ++b) {
    typename Isa::F v[4];
    GPT2FAST_UNROLL
    for (int j = 0; j < 4; ++j) v[j] = Isa::load(x + b * kBlock + 16 * j);
    put_block<Isa>(out, row, b, quantize, v);
  }
}

}  // namespace
}  // namespace gpt2fast
