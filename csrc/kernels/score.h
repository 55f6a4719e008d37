// What a row of logits says of one token, in three passes over a row that lies in the cache.
//
//   top = max(x),  total = sum of exp(x - top),  moment = sum of exp(x - top) * (x - top),
//   rank = how many tokens are likelier than `target`, or as likely and of a lower id
// The sums run in virtual lanes, `total` in the very order of exp_sum; differences below -104,
// where exp is 0, count as -104. Ranks are counted in floats, which is exact up to 2^24 tokens.
// Bound by the arithmetic of exp: a tenth of what the row costs as output of the head of 124M.
#pragma once

#include "kernels/math.h"
#include "kernels/table.h"

namespace gpt2fast {
namespace {

// How many of n values the predicate gives a mask for.
template <class Isa, class Predicate>
GPT2FAST_INLINE int32_t count(const float* x, size_t n, Predicate p) {
  const auto zero = Isa::zero(), one = Isa::set(1.0f);
  auto total = zero;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    total = Isa::add(total, Isa::select(p(Isa::load(x + i)), one, zero));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    const auto found = Isa::select(p(Isa::load(x + i, rest)), one, zero);
    total = Isa::add(total, Isa::keep(found, rest));
  }
  return static_cast<int32_t>(Isa::sum(total));
}

template <class Isa>
void score_row(const ScoreCall& c) {
  const float* x = c.logits;
  const auto n = static_cast<size_t>(c.n), target = static_cast<size_t>(c.target);
  RowSums& out = *c.out;
  out.top = max_array<Isa>(x, n);
  const auto shift = Isa::set(out.top), low = Isa::set(-104.0f), mine = Isa::set(x[target]);
  auto total = Isa::zero(), moment = Isa::zero();
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const auto difference = Isa::max(low, Isa::sub(Isa::load(x + i), shift));
    const auto e = exp<Isa>(difference);
    total = Isa::add(total, e);
    moment = Isa::fma(e, difference, moment);
  }
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    const auto difference = Isa::max(low, Isa::sub(Isa::load(x + i, rest), shift));
    const auto e = Isa::keep(exp<Isa>(difference), rest);
    total = Isa::add(total, e);
    moment = Isa::fma(e, difference, moment);
  }
  out.total = Isa::sum(total);
  out.moment = Isa::sum(moment);
  const auto likelier = [&](auto v) { return Isa::less(mine, v); };
  const auto less_likely = [&](auto v) { return Isa::less(v, mine); };
  out.rank = c.target - count<Isa>(x, target, less_likely) +
             count<Isa>(x + target + 1, n - target - 1, likelier);
  out.likeliest = 0;
  while (out.likeliest < c.n - 1 && x[out.likeliest] != out.top) ++out.likeliest;
}

}  // namespace
}  // namespace gpt2fast
