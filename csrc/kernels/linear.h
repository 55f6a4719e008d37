// y = W x + b for a few or many tokens, and what becomes of y: the driver that all formats share.
//
// Work is a range of output blocks (64 outputs, one sequential stream of weights) times a range of
// tokens. The sum over inputs of one output runs in one order whatever the tile, the tokens in the
// call or the threads: a tile that stops at the end of a panel leaves its sums in memory and goes
// on from them.
//
// One token: the block row streams through once, sums in registers; bound by memory. Several
// tokens: inputs are taken in panels that stay in L1 while every tile of tokens passes over them,
// so weights come from memory once per call and from L2 never twice; bound by the dot product or
// the FMA. A small batch that fits one wide tile streams the weights like a single token, bound by
// memory. Measured on Zen 4, two threads: one token at the read rate (98%), 8 tokens at 93% of it,
// 512 at 76 to 82% of the dot rate.
#pragma once

#include "kernels/activation.h"
#include "kernels/dot_tile.h"
#include "kernels/fma_tile.h"
#include "kernels/rows.h"
#include "kernels/tiles.h"

namespace gpt2fast {
namespace {

// Sends finished outputs `first` to `first + n` of c_attn that are keys and values to their places,
// a head's run at a time.
template <class Element>
GPT2FAST_INLINE void store_kv(const LinearCall& c, const KvSlot& slot, int first, int n,
                              const Element* values) {
  const int hd = c.head_dim, padded = lanes16(hd);
  for (int i = first < c.n_embd ? c.n_embd - first : 0, run; i < n; i += run) {
    const int o = first + i - c.n_embd, head = o % c.n_embd / hd, d = o % hd;
    run = n - i < hd - d ? n - i : hd - d;
    if (o >= c.n_embd) {
      auto* v = reinterpret_cast<Element*>(slot.v + c.cache_offset) +
                (static_cast<size_t>(head) * kPage + slot.place) * padded + d;
      std::memcpy(v, values + i, static_cast<size_t>(run) * sizeof(Element));
    } else {
      const size_t group = static_cast<size_t>(head) * (kPage / 16) + slot.place / 16;
      auto* k = reinterpret_cast<Element*>(slot.k + c.cache_offset) + (group * hd + d) * 16 +
                slot.place % 16;
      for (int r = 0; r < run; ++r) k[r * 16] = values[i + r];
    }
  }
}

template <class Isa>
GPT2FAST_INLINE void store_qkv(const LinearCall& c, int row, int block,
                               const typename Isa::F (&v)[4]) {
  const int first = block * kBlock, n = c.n_out - first < kBlock ? c.n_out - first : kBlock;
  const int queries = c.n_embd - first;
  if (queries > 0) {
    float* y = c.y + static_cast<size_t>(row) * c.y_width + first;
    GPT2FAST_UNROLL
    for (int j = 0; j < 4; ++j)
      if (queries > 16 * j)
        Isa::store(y + 16 * j, v[j], queries - 16 * j < kLanes ? queries - 16 * j : kLanes);
    if (queries >= n) return;
  }
  if (c.cache_f16) {
    uint16_t values[kBlock];
    for (int j = 0; j < 4; ++j) Isa::store_f16(values + 16 * j, v[j]);
    store_kv(c, c.slots[row], first, n, values);
  } else {
    float values[kBlock];
    for (int j = 0; j < 4; ++j) Isa::store(values + 16 * j, v[j]);
    store_kv(c, c.slots[row], first, n, values);
  }
}

// The epilogue of 64 outputs of one token.
template <class Isa>
void finish(const LinearCall& c, int row, int block, const float* sums) {
  const int first = block * kBlock;
  typename Isa::F v[4];
  GPT2FAST_UNROLL
  for (int j = 0; j < 4; ++j) {
    v[j] = Isa::load(sums + 16 * j);
    const int left = c.n_out - first - 16 * j;
    if (c.bias && left > 0) v[j] = Isa::add(v[j], Isa::load(c.bias + first + 16 * j, left));
  }
  switch (c.store) {
    case Store::output:
      for (int j = 0; j < 4; ++j) {
        const int left = c.n_out - first - 16 * j;
        if (left >= kLanes)
          Isa::store(c.logits[row] + first + 16 * j, v[j]);
        else if (left > 0)
          Isa::store(c.logits[row] + first + 16 * j, v[j], left);
      }
      break;
    case Store::residual: {
      float* y = c.y + static_cast<size_t>(row) * c.y_width + first;
      GPT2FAST_UNROLL
      for (int j = 0; j < 4; ++j) Isa::store(y + 16 * j, Isa::add(Isa::load(y + 16 * j), v[j]));
      break;
    }
    case Store::activation:
      GPT2FAST_UNROLL
      for (int j = 0; j < 4; ++j) v[j] = activate<Isa>(v[j], c.activation);
      put_block<Isa>(c.out, row, block, c.out.q != nullptr, v);
      break;
    case Store::qkv:
      store_qkv<Isa>(c, row, block, v);
      break;
  }
}

// Asks for what the epilogue of some tokens adds to: a prompt's residual stream lies in L3.
template <class Isa>
GPT2FAST_INLINE void expect(const LinearCall& c, int row, int tokens, int block) {
  for (int t = row; t < row + tokens; ++t)
    for (int j = 0; j < 4; ++j)
      Isa::prefetch(c.y + static_cast<size_t>(t) * c.y_width + block * kBlock + 16 * j);
}

template <class Isa, class Tile, int T>
GPT2FAST_INLINE void linear_in_tiles(const LinearCall& c) {
  const int n = c.row_end - c.row_begin, steps = Tile::steps(c.n_in),
            panel = n > T ? Tile::kPanel : steps;
  const size_t row_bytes = Tile::row_bytes(c.n_in);
  for (int block = c.block_begin; block < c.block_end; ++block) {
    const uint8_t* w = c.weights + static_cast<size_t>(block) * row_bytes;
    for (int begin = 0; begin < steps; begin += panel) {
      const int end = steps - begin < panel ? steps : begin + panel;
      for_tiles<T>(n, [&](auto size, int row) {
        constexpr int kTokens = decltype(size)::value;
        if (end == steps && n > T && c.store == Store::residual)
          expect<Isa>(c, c.row_begin + row, kTokens, block);
        Tile::template run<Isa, kTokens>(c, w, c.row_begin + row, begin, end,
                                         c.sums + row * kBlock);
        if (end == steps)  // the tile's sums are still in L1
          for (int t = row; t < row + kTokens; ++t)
            finish<Isa>(c, c.row_begin + t, block, c.sums + t * kBlock);
      });
    }
  }
}

template <class Isa, class Tile>
void linear(const LinearCall& c) {
  constexpr int kTokens = Tile::template tokens<Isa>(), kWide = Tile::template wide<Isa>();
  if (kWide > kTokens && c.row_end - c.row_begin <= kWide)
    linear_in_tiles<Isa, Tile, kWide>(c);
  else
    linear_in_tiles<Isa, Tile, kTokens>(c);
}

}  // namespace
}  // namespace gpt2fast
