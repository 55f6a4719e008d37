// Rows in tiles that are as equal as possible, each tile's size a constant that register arrays can
// have.
#pragma once

#include "isa/isa.h"

namespace gpt2fast {
namespace {

template <int N>
struct Size {
  static constexpr int value = N;
};

// f(Size<n>) for 1 <= n <= T.
template <int T, class Function>
GPT2FAST_INLINE void with_size(int n, Function f) {
  if constexpr (T > 1) {
    if (n < T) return with_size<T - 1>(n, f);
  }
  f(Size<T>{});
}

// f(Size<n>, first row) for rows 0 to count - 1 in tiles of at most T: eight rows are 4 + 4, not 6
// + 2.
template <int T, class Function>
GPT2FAST_INLINE void for_tiles(int count, Function f) {
  const int tiles = (count + T - 1) / T;
  for (int tile = 0, row = 0; tile < tiles; ++tile) {
    const int n = (count - row + tiles - tile - 1) / (tiles - tile);
    with_size<T>(n, [&](auto size) { f(size, row); });
    row += n;
  }
}

}  // namespace
}  // namespace gpt2fast
