// exp, log, tanh and erf on sixteen lanes, and the loops over arrays that sampling and scoring
// call.
//
// Coefficients are our own weighted minimax fits (relative error below 4e-9 before rounding to
// float32), evaluated by Horner with fused multiply-adds: at most 2 ulp, erf 2.4. NaN goes through.
// Bound by the FMA latency of one chain; the callers give enough independent lanes to hide it.
#pragma once

#include "isa/isa.h"

namespace gpt2fast {
namespace {

// Horner with the highest coefficient first.
template <class Isa, int N>
GPT2FAST_INLINE typename Isa::F polynomial(typename Isa::F x, const float (&c)[N]) {
  auto p = Isa::set(c[0]);
  GPT2FAST_UNROLL
  for (int i = 1; i < N; ++i) p = Isa::fma(p, x, Isa::set(c[i]));
  return p;
}

// exp(x) = 2^n * exp(r), r = x - n ln 2, |r| <= ln 2 / 2. Overflows to infinity, underflows
// gradually to zero.
template <class Isa>
typename Isa::F exp(typename Isa::F x) {
  constexpr float c[] = {1.381446491e-3f, 8.368780836e-3f, 4.166839272e-2f, 1.666651964e-1f,
                         4.999999404e-1f};
  const auto low = Isa::set(-104.0f), high = Isa::set(89.0f);
  x = Isa::max(low, x);
  x = Isa::select(Isa::less(high, x), high, x);
  const auto n = Isa::to_float(Isa::to_int(Isa::mul(x, Isa::set(1.442695041f))));
  auto r = Isa::fma(n, Isa::set(-6.931471825e-1f), x);
  r = Isa::fma(n, Isa::set(1.904654299e-9f), r);
  auto p = Isa::mul(Isa::mul(r, r), polynomial<Isa>(r, c));
  p = Isa::add(Isa::set(1.0f), Isa::add(r, p));
  return Isa::ldexp(p, n);
}

// log(x) = e ln 2 + log1p(f), 1 + f in [sqrt(1/2), sqrt(2)). Zero gives -infinity, negative numbers
// NaN.
template <class Isa>
typename Isa::F log(typename Isa::F x) {
  constexpr float c[] = {6.746601313e-2f,  -1.167564094e-1f, 1.188817471e-1f,
                         -1.240559146e-1f, 1.421955079e-1f,  -1.666799635e-1f,
                         2.000211924e-1f,  -2.500000894e-1f, 3.333331347e-1f};
  const auto zero = Isa::zero(), one = Isa::set(1.0f), smallest = Isa::set(1.17549435e-38f);
  const auto tiny = Isa::less(x, smallest);
  const auto scaled = Isa::select(tiny, Isa::mul(x, Isa::set(8388608.0f)), x);
  auto e = zero;
  const auto f = Isa::sub(Isa::split(scaled, e), one);
  e = Isa::select(tiny, Isa::sub(e, Isa::set(23.0f)), e);
  const auto square = Isa::mul(f, f);
  auto y = Isa::mul(Isa::mul(f, square), polynomial<Isa>(f, c));
  y = Isa::fma(e, Isa::set(-2.12194440e-4f), y);
  y = Isa::fma(square, Isa::set(-0.5f), y);
  y = Isa::fma(e, Isa::set(0.693359375f), Isa::add(f, y));
  const auto infinity = Isa::div(one, zero);
  y = Isa::select(Isa::less(x, infinity), y, x);                         // +infinity and NaN stay
  y = Isa::select(Isa::less(x, zero), Isa::sub(infinity, infinity), y);  // negative
  return Isa::select(Isa::less(Isa::abs(x), Isa::set(1e-45f)), Isa::sub(zero, infinity), y);
}

// tanh(x) = x + x^3 P(x^2) near zero, 1 - 2 / (exp(2 |x|) + 1) with the sign of x beyond.
template <class Isa>
typename Isa::F tanh(typename Isa::F x) {
  constexpr float c[] = {-5.717036314e-3f, 2.065057866e-2f, -5.374349654e-2f, 1.333149076e-1f,
                         -3.333328366e-1f};
  const auto one = Isa::set(1.0f), a = Isa::abs(x), z = Isa::mul(x, x);
  const auto near = Isa::fma(Isa::mul(x, z), polynomial<Isa>(z, c), x);
  const auto grown = exp<Isa>(Isa::add(a, a));
  const auto far = Isa::sub(one, Isa::div(Isa::set(2.0f), Isa::add(grown, one)));
  const auto signed_far = Isa::select(Isa::less(x, Isa::zero()), Isa::sub(Isa::zero(), far), far);
  return Isa::select(Isa::less(a, Isa::set(0.625f)), near, signed_far);
}

// erf(x) = x P(x^2) for |x| < 1, 1 - exp(Q(|x|)) with the sign of x beyond; Q is a fit of log(erfc)
// on [1, 4].
template <class Isa>
typename Isa::F erf(typename Isa::F x) {
  constexpr float p[] = {7.853857824e-5f, -8.010192541e-4f, 5.188327748e-3f, -2.685381100e-2f,
                         1.128358543e-1f, -3.761262596e-1f, 1.128379107e+0f};
  constexpr float q[] = {1.855748997e-4f,  -2.939615864e-3f, 2.180535160e-2f, -1.030374393e-1f,
                         -6.382256150e-1f, -1.127040029e+0f, -3.537089215e-4f};
  const auto one = Isa::set(1.0f), a = Isa::abs(x), end = Isa::set(4.0f);
  const auto near = Isa::mul(x, polynomial<Isa>(Isa::mul(x, x), p));
  const auto t = Isa::select(Isa::less(end, a), end, a);
  const auto far = Isa::sub(one, exp<Isa>(polynomial<Isa>(t, q)));
  const auto signed_far = Isa::select(Isa::less(x, Isa::zero()), Isa::sub(Isa::zero(), far), far);
  return Isa::select(Isa::less(a, one), near, signed_far);
}

template <class Isa, class Function>
GPT2FAST_INLINE void map(const float* x, float* y, size_t n, Function f) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Isa::store(y + i, f(Isa::load(x + i)));
  if (i < n)
    Isa::store(y + i, f(Isa::load(x + i, static_cast<int>(n - i))), static_cast<int>(n - i));
}

template <class Isa>
void exp_array(const float* x, float* y, size_t n) {
  map<Isa>(x, y, n, [](auto v) { return exp<Isa>(v); });
}
template <class Isa>
void log_array(const float* x, float* y, size_t n) {
  map<Isa>(x, y, n, [](auto v) { return log<Isa>(v); });
}
template <class Isa>
void tanh_array(const float* x, float* y, size_t n) {
  map<Isa>(x, y, n, [](auto v) { return tanh<Isa>(v); });
}
template <class Isa>
void erf_array(const float* x, float* y, size_t n) {
  map<Isa>(x, y, n, [](auto v) { return erf<Isa>(v); });
}

// y = exp((x - shift) * scale) and its sum: element i in virtual lane i mod 16. y may be x.
template <class Isa>
float exp_sum(const float* x, float shift, float scale, float* y, size_t n) {
  const auto s = Isa::set(shift), k = Isa::set(scale);
  auto total = Isa::zero();
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const auto e = exp<Isa>(Isa::mul(Isa::sub(Isa::load(x + i), s), k));
    Isa::store(y + i, e);
    total = Isa::add(total, e);
  }
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    const auto e = Isa::keep(exp<Isa>(Isa::mul(Isa::sub(Isa::load(x + i, rest), s), k)), rest);
    Isa::store(y + i, e, rest);
    total = Isa::add(total, e);
  }
  return Isa::sum(total);
}

template <class Isa>
float sum_array(const float* x, size_t n) {
  auto total = Isa::zero();
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total = Isa::add(total, Isa::load(x + i));
  if (i < n) total = Isa::add(total, Isa::load(x + i, static_cast<int>(n - i)));
  return Isa::sum(total);
}

// The largest of n >= 1 numbers; NaN are passed over unless the first sixteen hold one.
template <class Isa>
float max_array(const float* x, size_t n) {
  auto top = Isa::set(x[0]);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) top = Isa::max(Isa::load(x + i), top);
  float result = Isa::max(top);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

template <class Isa>
bool finite_array(const float* x, size_t n) {
  auto probe = Isa::zero();  // x * 0 is zero, or NaN
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) probe = Isa::fma(Isa::load(x + i), Isa::zero(), probe);
  if (i < n) probe = Isa::fma(Isa::load(x + i, static_cast<int>(n - i)), Isa::zero(), probe);
  return Isa::sum(probe) == 0.0f;
}

}  // namespace
}  // namespace gpt2fast
