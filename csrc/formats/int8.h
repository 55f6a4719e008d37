// int8 weights in blocks of 64 outputs x 64 inputs, each with its scales behind it: 4,224
// bytes, 8.25 bits a weight.
//
//   [ceil(n_out / 64)][ceil(n_in / 64)][4224]
//   byte (i / 4) * 256 + o * 4 + i % 4   weight of output o, input i, as q + 128: four inputs of an
//   output side by side bytes 4096 to 4223                   float16 scale of output 0, 1, ... 63
//
// scale = float16(absmax / 127) over the block's 64 inputs of an output; q = rint(w / scale) with
// that stored scale, within [-127, 127]. Weights are kept unsigned because the dot product that
// matters (vpdpbusd) wants one unsigned operand. One token reads a block row, weights and scales,
// as one sequential stream. Padding is q = 0 and scale 0; a stored scale of 0 stores zeros.
#pragma once

#include "isa/float16.h"
#include "kernels/table.h"

namespace gpt2fast {
namespace {

struct Int8 {
  static constexpr Dtype kDtype = Dtype::int8;
  static constexpr int kScales = kBlock * kBlock, kBytes = kScales + 2 * kBlock;

  static size_t row_bytes(int n_in) { return static_cast<size_t>(blocks(n_in)) * kBytes; }

  // Sixteen outputs (vector j of four) and inputs 4 * step to 4 * step + 3 of a block.
  template <class Isa>
  GPT2FAST_INLINE typename Isa::W weights(const uint8_t* block, int step, int j) {
    return Isa::load_weights(block + step * 256 + j * 64);
  }
  template <class Isa>
  GPT2FAST_INLINE typename Isa::F scales(const uint8_t* block, int j) {
    return Isa::load_f16(reinterpret_cast<const uint16_t*>(block + kScales) + 16 * j);
  }

  static bool pack(const float* weight, int n_out, int n_in, uint8_t* bytes) {
    bool fits = true;
    for (int ob = 0; ob < blocks(n_out); ++ob)
      for (int ib = 0; ib < blocks(n_in); ++ib, bytes += kBytes) {
        std::memset(bytes, 128, kScales);
        std::memset(bytes + kScales, 0, 2 * kBlock);
        const int inputs = n_in - ib * kBlock < kBlock ? n_in - ib * kBlock : kBlock;
        for (int o = 0; o < kBlock && ob * kBlock + o < n_out; ++o)
          fits &= pack_output(weight + static_cast<size_t>(ob * kBlock + o) * n_in + ib * kBlock,
                              inputs, o, bytes);
      }
    return fits;
  }

  static bool pack_output(const float* w, int n, int o, uint8_t* block) {
    float absmax = 0.0f, probe = 0.0f;
    for (int i = 0; i < n; ++i) {
      probe += w[i] * 0.0f;  // zero, or NaN
      const float a = w[i] < 0.0f ? -w[i] : w[i];
      absmax = a > absmax ? a : absmax;
    }
    const uint16_t half = narrow_f16(absmax / 127.0f);
    std::memcpy(block + kScales + 2 * o, &half, 2);
    const float scale = widen_f16(half);
    if (scale == 0.0f) return probe == 0.0f;
    for (int i = 0; i < n; ++i) {
      float q = w[i] / scale;
      q = q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q;
      // Adding 1.5 * 2^23 rounds to the nearest even integer.
      const int32_t rounded = static_cast<int32_t>(float_bits(q + 12582912.0f)) - 0x4b400000;
      block[i / 4 * 256 + o * 4 + i % 4] = static_cast<uint8_t>(rounded + 128);
    }
    return absmax / 127.0f <= 65504.0f && probe == 0.0f;
  }

  static void read_row(const uint8_t* bytes, int n_in, int o, float* out) {
    const uint8_t* block = bytes + o / kBlock * row_bytes(n_in);
    o %= kBlock;
    for (int i = 0; i < n_in; ++i, ++out) {
      if (i > 0 && i % kBlock == 0) block += kBytes;
      uint16_t half;
      std::memcpy(&half, block + kScales + 2 * o, 2);
      const int at = i % kBlock;
      *out = static_cast<float>(block[at / 4 * 256 + o * 4 + at % 4] - 128) * widen_f16(half);
    }
  }
};

}  // namespace
}  // namespace gpt2fast
