// A view of packed weights and their shape, and what can be done with a format without knowing
// which one it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/table.h"

namespace gpt2fast {

struct PackedMatrix {
  Dtype dtype = Dtype::float32;
  int32_t n_out = 0, n_in = 0;
  const uint8_t* bytes = nullptr;
};

Dtype parse_dtype(const std::string& name);  // throws std::invalid_argument
const char* dtype_name(Dtype dtype);

size_t packed_bytes(Dtype dtype, int n_out, int n_in);
size_t packed_row_bytes(Dtype dtype, int n_in);  // of 64 outputs

// weight[n_out][n_in] to packed_bytes() bytes; throws std::invalid_argument if a value does not fit
// the format.
void pack(Dtype dtype, const float* weight, int n_out, int n_in, uint8_t* bytes);
// One output's weights to out[n_in].
void unpack_row(const PackedMatrix& matrix, int row, float* out);

}  // namespace gpt2fast
