#include "matrix.h"

#include <stdexcept>

#include "formats/int8.h"
#include "formats/planes.h"
#include "isa/machine.h"

namespace gpt2fast {
namespace {

struct Format {
  const char* name;
  size_t (*row_bytes)(int n_in);
  bool (*pack)(const float* weight, int n_out, int n_in, uint8_t* bytes);
  void (*read_row)(const uint8_t* bytes, int n_in, int row, float* out);
};

template <class Layout>
constexpr Format format(const char* name) {
  return {name, Layout::row_bytes, Layout::pack, Layout::read_row};
}

// In the order of Dtype.
constexpr Format kFormats[kDtypes] = {
    format<Planes<Float32>>("float32"),
    format<Planes<Float16>>("float16"),
    format<Int8>("int8"),
};

const Format& of(Dtype dtype) { return kFormats[static_cast<int>(dtype)]; }

}  // namespace

Dtype parse_dtype(const std::string& name) {
  for (int i = 0; i < kDtypes; ++i)
    if (name == kFormats[i].name) return static_cast<Dtype>(i);
  throw std::invalid_argument("dtype is '" + name + "'; allowed are float32, float16 and int8");
}

const char* dtype_name(Dtype dtype) { return of(dtype).name; }

size_t packed_row_bytes(Dtype dtype, int n_in) { return of(dtype).row_bytes(n_in); }

size_t packed_bytes(Dtype dtype, int n_out, int n_in) {
  return static_cast<size_t>(blocks(n_out)) * packed_row_bytes(dtype, n_in);
}

void pack(Dtype dtype, const float* weight, int n_out, int n_in, uint8_t* bytes) {
  const FloatEnvironment environment;
  if (!of(dtype).pack(weight, n_out, n_in, bytes))
    throw std::invalid_argument(std::string("a weight is not finite or too large for ") +
                                dtype_name(dtype));
}

void unpack_row(const PackedMatrix& matrix, int row, float* out) {
  const FloatEnvironment environment;
  of(matrix.dtype).read_row(matrix.bytes, matrix.n_in, row, out);
}

}  // namespace gpt2fast
