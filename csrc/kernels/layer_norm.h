// LayerNorm, straight into the form that the next linear layer reads (Ba, Kiros and Hinton, 2016).
//
//   mean = sum(x) / n;  var = sum((x - mean)^2) / n;  y = ((x - mean) * (1 / sqrt(var + epsilon)))
//   * weight + bias
//
// Two passes over a row that stays in L1, sums by virtual lanes; the last step is one fused
// multiply-add. A row of 768 takes a fraction of a microsecond: bound by the adds' latency, which
// four independent chains would break at the price of another order of summation.
#pragma once

#include "kernels/rows.h"

namespace gpt2fast {
namespace {

template <class Isa>
void layer_norm(const NormCall& c) {
  const int n = c.n;
  auto total = Isa::zero();
  for (int i = 0; i < n; i += kLanes)
    total = Isa::add(total, Isa::load(c.x + i));  // the padding is zero
  const float count = static_cast<float>(n);
  const auto mean = Isa::set(Isa::sum(total) / count);
  auto squares = Isa::zero();
  for (int i = 0; i < n; i += kLanes) {
    const auto d = Isa::keep(Isa::sub(Isa::load(c.x + i), mean), n - i);
    squares = Isa::fma(d, d, squares);
  }
  const float variance = Isa::sum(squares) / count;
  const auto inverse = Isa::set(1.0f / Isa::root(variance + c.epsilon));
  for (int b = 0; b < blocks(n); ++b) {
    typename Isa::F y[4];
    GPT2FAST_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int i = b * kBlock + 16 * j;
      const auto normal = Isa::mul(Isa::sub(Isa::load(c.x + i), mean), inverse);
      const auto weight = i < n ? Isa::load(c.weight + i, n - i) : Isa::zero();
      const auto bias = i < n ? Isa::load(c.bias + i, n - i) : Isa::zero();
      y[j] = Isa::keep(Isa::fma(normal, weight, bias), n - i);
      if (c.copy) Isa::store(c.copy + i, y[j], n - i < kLanes ? n - i : kLanes);
    }
    put_block<Isa>(c.out, c.row, b, c.quantize, y);
  }
}

}  // namespace
}  // namespace gpt2fast
