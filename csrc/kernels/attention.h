// Causal attention over the cache: some queries of one head against one block of 256 positions, and
// the combination of blocks (Vaswani et al., 2017, in the blockwise form of Milakov and Gimelshein,
// 2018).
//
// Per query and block, over the positions the query may see:
//   s_p = scale * sum over d of q_d K_pd       dimensions in order, one chain per position
//   m = max s_p;  e_p = exp(s_p - m);  l = sum of e_p by virtual lanes (p mod 16);  o = sum of e_p
//   V_p, positions in order
// and over blocks in position order:
//   M = max m_b;  L = sum of exp(m_b - M) l_b;  O = sum of exp(m_b - M) o_b;  out = O / L
//
// A step takes one query and is bound by reading the cache: K is stored 16 positions side by side
// and V position by position, so both are read once, in order, as whole vectors. A prompt takes up
// to 32 queries; each page of 64 positions is widened from float16 once into L1 and then used by
// all of them in register tiles (6 x 64 in AVX-512): bound by the FMA rate, of which the tiles have
// 90 to 95% at 512 tokens.
#pragma once

#include "kernels/math.h"
#include "kernels/table.h"
#include "kernels/tiles.h"

namespace gpt2fast {
namespace {

template <class Isa>
GPT2FAST_INLINE typename Isa::F load_cached(const float* p) {
  return Isa::load(p);
}
template <class Isa>
GPT2FAST_INLINE typename Isa::F load_cached(const uint16_t* p) {
  return Isa::load_f16(p);
}

// What a step reads next; its lines are touched a few at a time.
struct Ahead {
  const uint8_t *at, *end;
};
template <class Isa>
GPT2FAST_INLINE void fetch(Ahead& ahead, int lines) {
  for (int i = 0; i < lines && ahead.at < ahead.end; ++i, ahead.at += 64) Isa::prefetch(ahead.at);
}

// Scores of T queries and V groups of 16 positions: k[V][head_dim][16].
template <class Isa, int T, int V, class Element>
GPT2FAST_INLINE void score_tile(const AttendCall& c, const float* q, const Element* k,
                                float* scores, Ahead ahead = {}) {
  typename Isa::F acc[T][V];
  GPT2FAST_UNROLL
  for (int t = 0; t < T; ++t) {
    GPT2FAST_UNROLL
    for (int v = 0; v < V; ++v) acc[t][v] = Isa::zero();
  }
  for (int d = 0; d < c.head_dim; ++d) {
    typename Isa::F keys[V];
    GPT2FAST_UNROLL
    for (int v = 0; v < V; ++v)
      keys[v] = load_cached<Isa>(k + (static_cast<size_t>(v) * c.head_dim + d) * 16);
    if constexpr (T == 1) fetch<Isa>(ahead, kPage * sizeof(Element) / 64);
    GPT2FAST_UNROLL
    for (int t = 0; t < T; ++t) {
      const auto x = Isa::set(q[static_cast<size_t>(t) * c.q_width + d]);
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) {
        acc[t][v] = Isa::pin(Isa::fma(keys[v], x, acc[t][v]));
      }
    }
  }
  GPT2FAST_UNROLL
  for (int t = 0; t < T; ++t) {
    GPT2FAST_UNROLL
    for (int v = 0; v < V; ++v)
      Isa::store(scores + t * kSpan + 16 * v, Isa::mul(acc[t][v], Isa::set(c.scale)));
  }
}

// o[T][16 V] += e[T][n] V[n][16 V]; `width` floats from one query's o to the next.
template <class Isa, int T, int V, class Element>
GPT2FAST_INLINE void value_tile(const float* e, const Element* v0, int n, int padded, float* o,
                                int o_width, Ahead ahead = {}) {
  typename Isa::F acc[T][V];
  GPT2FAST_UNROLL
  for (int t = 0; t < T; ++t) {
    GPT2FAST_UNROLL
    for (int v = 0; v < V; ++v)
      acc[t][v] = Isa::load(o + static_cast<size_t>(t) * o_width + 16 * v);
  }
  for (int p = 0; p < n; ++p) {
    typename Isa::F values[V];
    GPT2FAST_UNROLL
    for (int v = 0; v < V; ++v)
      values[v] = load_cached<Isa>(v0 + static_cast<size_t>(p) * padded + 16 * v);
    if constexpr (T == 1) fetch<Isa>(ahead, V * 16 * sizeof(Element) / 64);
    GPT2FAST_UNROLL
    for (int t = 0; t < T; ++t) {
      const auto x = Isa::set(e[t * kSpan + p]);
      GPT2FAST_UNROLL
      for (int v = 0; v < V; ++v) {
        acc[t][v] = Isa::pin(Isa::fma(values[v], x, acc[t][v]));
      }
    }
  }
  GPT2FAST_UNROLL
  for (int t = 0; t < T; ++t) {
    GPT2FAST_UNROLL
    for (int v = 0; v < V; ++v)
      Isa::store(o + static_cast<size_t>(t) * o_width + 16 * v, acc[t][v]);
  }
}

template <class Isa, int T, class Element>
GPT2FAST_INLINE void score_rows(const AttendCall& c, int query, const Element* k, int groups,
                                float* scores, Ahead ahead) {
  constexpr int V = T == 1 ? 4 : Isa::kFmaVectors;
  const float* q = c.q + static_cast<size_t>(query) * c.q_width;
  float* s = scores + query * kSpan;
  int g = 0;
  for (; g + V <= groups; g += V)
    score_tile<Isa, T, V>(c, q, k + static_cast<size_t>(g) * c.head_dim * 16, s + 16 * g, ahead);
  if constexpr (V > 1)
    for (; g < groups; ++g)
      score_tile<Isa, T, 1>(c, q, k + static_cast<size_t>(g) * c.head_dim * 16, s + 16 * g);
}

template <class Isa, int T, class Element>
GPT2FAST_INLINE void value_rows(const float* e, const Element* v0, int n, int padded, float* o,
                                int o_width, Ahead ahead) {
  constexpr int V = T == 1 ? 4 : Isa::kFmaVectors;
  int d = 0;
  for (; d + 16 * V <= padded; d += 16 * V)
    value_tile<Isa, T, V>(e, v0 + d, n, padded, o + d, o_width, ahead);
  if constexpr (V > 1)
    for (; d < padded; d += 16) value_tile<Isa, T, 1>(e, v0 + d, n, padded, o + d, o_width);
}

// All queries against one page's keys.
template <class Isa, class Element>
void score_page(const AttendCall& c, const Element* k, int groups, float* scores, Ahead ahead) {
  for_tiles<Isa::kFmaTokens>(c.n, [&](auto size, int query) {
    score_rows<Isa, decltype(size)::value>(c, query, k, groups, scores, ahead);
  });
}

// All queries against one page's values; query t sees `seen + t` of its positions, as far as there
// are any.
template <class Isa, class Element>
void value_page(const AttendCall& c, const Element* v, int seen, const float* scores, Ahead ahead) {
  const int padded = lanes16(c.head_dim), o_width = partial_width(c.head_dim);
  const auto visible = [&](int t) {
    return seen + t < 0 ? 0 : seen + t < kPage ? seen + t : kPage;
  };
  for_tiles<Isa::kFmaTokens>(c.n, [&](auto size, int query) {
    constexpr int T = decltype(size)::value;
    const int common = visible(
        query);  // the first of a tile sees least; what the others see beyond comes one by one
    float* o = c.partial + static_cast<size_t>(query) * o_width + 16;
    if (common > 0)
      value_rows<Isa, T>(scores + query * kSpan, v, common, padded, o, o_width, ahead);
    for (int t = 1; t < T; ++t) {
      const int more = visible(query + t) - common;
      if (more > 0)
        value_rows<Isa, 1>(scores + (query + t) * kSpan + common,
                           v + static_cast<size_t>(common) * padded, more, padded,
                           o + static_cast<size_t>(t) * o_width, o_width, {});
    }
  });
}

// A page as its kernels want it: float32 if several queries share it, else as stored.
template <class Isa, class Element, class Use>
GPT2FAST_INLINE void with_page(const AttendCall& c, const uint8_t* page, int n, float* scratch,
                               Use use) {
  const auto* stored = reinterpret_cast<const Element*>(page);
  if constexpr (sizeof(Element) == sizeof(float)) {
    use(stored);
  } else if (c.n < Isa::kFmaTokens) {
    use(stored);
  } else {
    for (int i = 0; i < n; i += 16) Isa::store(scratch + i, load_cached<Isa>(stored + i));
    use(static_cast<const float*>(scratch));
  }
}

template <class Isa, class Element>
void attend_stored(const AttendCall& c) {
  const int last = c.position + c.n, end = last < c.begin + kSpan ? last : c.begin + kSpan;
  const int padded = lanes16(c.head_dim), o_width = partial_width(c.head_dim);
  float *scores = c.work, *scratch = c.work + kQueryTile * kSpan;
  // A step reads chunks of 8 KB here and there, too short for the hardware to find its stride: each
  // chunk fetches the next.
  const auto chunk = [&](int p, size_t offset, int row) -> Ahead {
    if (c.n > 1) return {};
    const uint8_t* from = c.pages[p / kPage] + offset;
    return {from, from + static_cast<size_t>(end - p < kPage ? end - p : kPage) *
                             static_cast<size_t>(row) * sizeof(Element)};
  };
  for (int p = c.begin; p < end; p += kPage) {
    const int groups = (end - p < kPage ? end - p + 15 : kPage) / 16;
    const Ahead ahead = p + kPage < end ? chunk(p + kPage, c.k_offset, c.head_dim)
                                        : chunk(c.begin, c.v_offset, padded);
    with_page<Isa, Element>(
        c, c.pages[p / kPage] + c.k_offset, groups * 16 * c.head_dim, scratch,
        [&](auto* k) { score_page<Isa>(c, k, groups, scores + p - c.begin, ahead); });
  }
  for (int t = 0; t < c.n; ++t) {
    float *row = scores + t * kSpan, *partial = c.partial + static_cast<size_t>(t) * o_width;
    const int visible = c.position + t + 1 - c.begin, n = visible < kSpan ? visible : kSpan;
    if (n <= 0) continue;
    partial[0] = max_array<Isa>(row, static_cast<size_t>(n));
    partial[1] = exp_sum<Isa>(row, partial[0], 1.0f, row, static_cast<size_t>(n));
    for (int d = 0; d < padded; d += 16) Isa::store(partial + 16 + d, Isa::zero());
  }
  for (int p = c.begin; p < end; p += kPage) {
    const int n = end - p < kPage ? end - p : kPage;
    const Ahead ahead = p + kPage < end ? chunk(p + kPage, c.v_offset, padded) : Ahead{};
    with_page<Isa, Element>(c, c.pages[p / kPage] + c.v_offset, n * padded, scratch, [&](auto* v) {
      value_page<Isa>(c, v, c.position + 1 - p, scores + p - c.begin, ahead);
    });
  }
}

template <class Isa>
void attend(const AttendCall& c) {
  if (c.cache_f16)
    attend_stored<Isa, uint16_t>(c);
  else
    attend_stored<Isa, float>(c);
}

// One block needs no rescaling: out = o / l.
template <class Isa>
void combine(const CombineCall& c) {
  float top = c.partial[0];
  for (int b = 1; b < c.n_blocks; ++b) {
    const float m = c.partial[b * c.stride];
    top = m > top ? m : top;
  }
  const auto factor = [&](int b) { return exp<Isa>(Isa::set(c.partial[b * c.stride] - top)); };
  auto total = Isa::set(c.partial[1]);
  if (c.n_blocks > 1) {
    total = Isa::zero();
    for (int b = 0; b < c.n_blocks; ++b)
      total = Isa::fma(factor(b), Isa::set(c.partial[b * c.stride + 1]), total);
  }
  for (int d = 0; d < c.head_dim; d += 16) {
    auto o = Isa::load(c.partial + 16 + d);
    if (c.n_blocks > 1) {
      o = Isa::zero();
      for (int b = 0; b < c.n_blocks; ++b)
        o = Isa::fma(factor(b), Isa::load(c.partial + b * c.stride + 16 + d), o);
    }
    Isa::store(c.out + d, Isa::div(o, total), c.head_dim - d < kLanes ? c.head_dim - d : kLanes);
  }
}

}  // namespace
}  // namespace gpt2fast
