// Every kernel instantiated for one ISA: what a target file exports.
#pragma once

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/roofs.h"
#include "kernels/score.h"

namespace gpt2fast {
namespace {

template <class Isa>
constexpr Kernels make_table(const char* name) {
  return {
      .name = name,
      .linear = {linear<Isa, FmaTile<Float32>>, linear<Isa, FmaTile<Float16>>,
                 linear<Isa, DotTile<Int8>>},
      .embed = {embed<Isa, Planes<Float32>>, embed<Isa, Planes<Float16>>, embed<Isa, Int8>},
      .layer_norm = layer_norm<Isa>,
      .put = put_row<Isa>,
      .attend = attend<Isa>,
      .combine = combine<Isa>,
      .activate = activate_array<Isa>,
      .exp = exp_array<Isa>,
      .log = log_array<Isa>,
      .tanh = tanh_array<Isa>,
      .erf = erf_array<Isa>,
      .exp_sum = exp_sum<Isa>,
      .sum = sum_array<Isa>,
      .max = max_array<Isa>,
      .finite = finite_array<Isa>,
      .score = score_row<Isa>,
      .dot_roof = dot_roof<Isa>,
      .fma_roof = fma_roof<Isa>,
      .read_roof = read_roof<Isa>,
  };
}

}  // namespace
}  // namespace gpt2fast
