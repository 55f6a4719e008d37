// What the hardware can do at most, with the very instructions of a target: the figures that every
// share is a share of.
//
// dot_roof and fma_roof run independent chains on registers; read_roof reads memory in whole
// vectors and does next to nothing with it.
#pragma once

#include "isa/isa.h"

namespace gpt2fast {
namespace {

// Three vectors of weights times four of activations, other ones each round, so that nothing can be
// computed once.
template <class Isa>
double dot_roof(int64_t repeats, int32_t* sink) {
  constexpr int kW = 3, kX = 4;
  uint8_t bytes[64 * (kW + 3)];
  int8_t four[4 * (kX + 3)];
  for (int i = 0; i < 64 * (kW + 3); ++i) bytes[i] = static_cast<uint8_t>(i * 3);
  for (int i = 0; i < 4 * (kX + 3); ++i) four[i] = static_cast<int8_t>(i * 5 - 60);
  typename Isa::I acc[kW][kX];
  GPT2FAST_UNROLL
  for (int i = 0; i < kW; ++i) {
    GPT2FAST_UNROLL
    for (int j = 0; j < kX; ++j) acc[i][j] = Isa::dot_start(i + j);
  }
  for (int64_t r = 0; r < repeats; ++r) {
    GPT2FAST_UNROLL
    for (int i = 0; i < kW; ++i) {
      const auto w = Isa::load_weights(bytes + 64 * ((r & 3) + i));
      GPT2FAST_UNROLL
      for (int j = 0; j < kX; ++j) {
        const auto x = Isa::broadcast(four + 4 * ((r & 3) + j));
        acc[i][j] = Isa::pin(Isa::dot(acc[i][j], w, x));
      }
    }
  }
  auto total = Isa::dot_start(0);
  GPT2FAST_UNROLL
  for (int i = 0; i < kW; ++i) {
    GPT2FAST_UNROLL
    for (int j = 0; j < kX; ++j) total = Isa::add_int(total, acc[i][j]);
  }
  *sink = Isa::sum_int(total);
  return 2.0 * 64.0 * kW * kX * static_cast<double>(repeats);
}

template <class Isa>
double fma_roof(int64_t repeats, float* sink) {
  constexpr int kChains = 12;
  const auto a = Isa::set(0.999f), b = Isa::set(0.001f);
  typename Isa::F acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = Isa::set(static_cast<float>(i));
  for (int64_t r = 0; r < repeats; ++r) {
    GPT2FAST_UNROLL
    for (int i = 0; i < kChains; ++i) {
      acc[i] = Isa::pin(Isa::fma(acc[i], a, b));
    }
  }
  auto total = acc[0];
  for (int i = 1; i < kChains; ++i) total = Isa::add(total, acc[i]);
  *sink = Isa::sum(total);
  return 2.0 * 16.0 * kChains * static_cast<double>(repeats);
}

template <class Isa>
uint64_t read_roof(const uint8_t* data, size_t n) {
  const auto* p = reinterpret_cast<const float*>(data);
  auto a = Isa::zero(), b = a, c = a, d = a;
  for (size_t i = 0; i + 64 <= n / 4; i += 64) {
    a = Isa::max(Isa::load(p + i), a);
    b = Isa::max(Isa::load(p + i + 16), b);
    c = Isa::max(Isa::load(p + i + 32), c);
    d = Isa::max(Isa::load(p + i + 48), d);
  }
  const float top = Isa::max(Isa::max(Isa::max(a, b), Isa::max(c, d)));
  uint32_t bits;
  std::memcpy(&bits, &top, sizeof bits);
  return bits;
}

}  // namespace
}  // namespace gpt2fast
