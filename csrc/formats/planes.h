// float32 and float16 weights: blocks of 64 outputs, the 64 outputs of one input side by side.
//
//   [ceil(n_out / 64)][n_in][64]          output o, input i at ((o / 64) * n_in + i) * 64 + o % 64
//
// One token reads a block row as one sequential stream; four vectors of sixteen lanes take the
// sixty-four outputs. Outputs beyond n_out are zero. float16 holds the nearest value, at most 65504
// in magnitude, and is widened on load.
#pragma once

#include "isa/float16.h"
#include "kernels/table.h"

namespace gpt2fast {
namespace {

struct Float32 {
  using Element = float;
  static constexpr Dtype kDtype = Dtype::float32;

  template <class Isa>
  GPT2FAST_INLINE typename Isa::F load(const Element* p) {
    return Isa::load(p);
  }
  static float widen(Element e) { return e; }
  static bool narrow(float x, Element& e) {
    e = x;
    return x - x == 0.0f;  // finite
  }
};

struct Float16 {
  using Element = uint16_t;
  static constexpr Dtype kDtype = Dtype::float16;

  template <class Isa>
  GPT2FAST_INLINE typename Isa::F load(const Element* p) {
    return Isa::load_f16(p);
  }
  static float widen(Element e) { return widen_f16(e); }
  static bool narrow(float x, Element& e) {
    e = narrow_f16(x);
    return x > -65520.0f && x < 65520.0f;  // what rounds to at most 65504
  }
};

// What both share: the layout, its packer and its reader of one row.
template <class Format>
struct Planes {
  static size_t row_bytes(int n_in) {
    return static_cast<size_t>(n_in) * kBlock * sizeof(typename Format::Element);
  }

  // weight[n_out][n_in] to `bytes`; false if a value does not fit the format.
  static bool pack(const float* weight, int n_out, int n_in, uint8_t* bytes) {
    auto* out = reinterpret_cast<typename Format::Element*>(bytes);
    bool fits = true;
    for (int b = 0; b < blocks(n_out); ++b)
      for (int i = 0; i < n_in; ++i)
        for (int o = b * kBlock; o < (b + 1) * kBlock; ++o)
          fits &=
              Format::narrow(o < n_out ? weight[static_cast<size_t>(o) * n_in + i] : 0.0f, *out++);
    return fits;
  }

  // Row o (the weights of one output, or a token's embedding) to out[n_in].
  static void read_row(const uint8_t* bytes, int n_in, int o, float* out) {
    const auto* p =
        reinterpret_cast<const typename Format::Element*>(bytes + o / kBlock * row_bytes(n_in));
    for (int i = 0; i < n_in; ++i)
      out[i] = Format::widen(p[static_cast<size_t>(i) * kBlock + o % kBlock]);
  }
};

}  // namespace
}  // namespace gpt2fast
