// The activation functions that GPT-2 checkpoints name, on sixteen lanes.
//
// gelu_new, gelu_fast and gelu_pytorch_tanh are one function: 0.5 x (1 + tanh(u)) = x / (1 +
// exp(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3). The second form needs one exponential and
// cancels nowhere. relu is max(0, x) in an order that lets NaN through.
#pragma once

#include "kernels/math.h"
#include "kernels/table.h"

namespace gpt2fast {
namespace {

template <class Isa>
typename Isa::F activate(typename Isa::F x, Activation kind) {
  const auto one = Isa::set(1.0f);
  const auto logistic = [&](typename Isa::F minus_t) {
    return Isa::div(x, Isa::add(one, exp<Isa>(minus_t)));
  };
  switch (kind) {
    case Activation::gelu_tanh: {
      constexpr float k = -1.595769122f;  // -2 sqrt(2 / pi)
      const auto inner = Isa::fma(Isa::mul(x, x), Isa::set(k * 0.044715f), Isa::set(k));
      return logistic(Isa::mul(x, inner));
    }
    case Activation::gelu_erf:
      return Isa::mul(Isa::mul(x, Isa::set(0.5f)),
                      Isa::add(one, erf<Isa>(Isa::mul(x, Isa::set(0.7071067812f)))));
    case Activation::relu:
      return Isa::max(Isa::zero(), x);
    case Activation::silu:
      return logistic(Isa::sub(Isa::zero(), x));
    case Activation::tanh:
      return tanh<Isa>(x);
  }
  return x;
}

template <class Isa>
void activate_array(const float* x, float* y, size_t n, Activation kind) {
  map<Isa>(x, y, n, [kind](auto v) { return activate<Isa>(v, kind); });
}

}  // namespace
}  // namespace gpt2fast
