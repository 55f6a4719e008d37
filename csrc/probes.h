// The kernels one by one, over plain arrays: what tests compare with the float64 twin and
// benchmarks time.
#pragma once

#include <cstdint>

#include "matrix.h"

namespace gpt2fast {

// y[n][n_out] = x[n][n_in] W^T + b
void probe_linear(const PackedMatrix& matrix, const float* bias, const float* x, int n, float* y,
                  int threads);
// y[n][d]
void probe_layer_norm(const float* x, int n, int d, const float* weight, const float* bias,
                      float epsilon, float* y);
// q[n][width(d)], scale[n][blocks(d)]
void probe_quantize(const float* x, int n, int d, int8_t* q, float* scale);
// The queries are the last n of m positions: q, y [n][n_head][head_dim], k, v
// [m][n_head][head_dim].
void probe_attention(const float* q, const float* k, const float* v, int n, int m, int n_head,
                     int head_dim, float scale, bool f16, int threads, float* y);

}  // namespace gpt2fast
