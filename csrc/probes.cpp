#include "probes.h"

#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "isa/float16.h"
#include "isa/machine.h"
#include "kv_cache.h"
#include "thread_pool.h"
#include "workspace.h"

namespace gpt2fast {
namespace {

// Runs f(thread, piece) for every piece on a team of threads.
template <class Function>
void for_pieces(int threads, int pieces, Function f) {
  struct Context {
    Team team;
    Function& f;
    int pieces;
  } context{Team(threads), f, pieces};
  run_team(
      context.team,
      [](void* p, int thread) {
        auto& c = *static_cast<Context*>(p);
        c.team.for_each(c.pieces, thread, [&](int piece) { c.f(thread, piece); });
      },
      &context);
}

// x[n][d] as rows that a linear layer reads.
void put_rows(const float* x, int n, int d, bool quantized, RowBuffer& rows) {
  rows.resize(std::max(n, 1), d, quantized);
  std::vector<float> padded(static_cast<size_t>(width(d)));
  for (int r = 0; r < n; ++r) {
    std::memcpy(padded.data(), x + static_cast<size_t>(r) * d,
                static_cast<size_t>(d) * sizeof(float));
    active().put(padded.data(), r, quantized, rows.rows);
  }
}

// Writes one position's key or value, element by element: an independent statement of the page's
// layout.
void place(const PageLayout& layout, uint8_t* page, int p, const float* k, const float* v) {
  const auto write = [&](size_t at, float x) {
    if (layout.f16) {
      const uint16_t h = narrow_f16(x);
      std::memcpy(page + at, &h, sizeof h);
    } else {
      std::memcpy(page + at, &x, sizeof x);
    }
  };
  const int hd = layout.head_dim, place = p % kPage;
  for (int h = 0; h < layout.n_head; ++h)
    for (int d = 0; d < hd; ++d) {
      const size_t in_k = (static_cast<size_t>(place / 16) * hd + d) * 16 + place % 16;
      const size_t in_v = static_cast<size_t>(place) * lanes16(hd) + d;
      write(layout.k_offset(0, h) + in_k * layout.element(), k[h * hd + d]);
      write(layout.v_offset(0, h) + in_v * layout.element(), v[h * hd + d]);
    }
}

}  // namespace

void probe_linear(const PackedMatrix& matrix, const float* bias, const float* x, int n, float* y,
                  int threads) {
  const FloatEnvironment environment;
  RowBuffer rows;
  put_rows(x, n, matrix.n_in, matrix.dtype == Dtype::int8, rows);
  std::vector<float*> out;
  for (int r = 0; r < n; ++r) out.push_back(y + static_cast<size_t>(r) * matrix.n_out);
  std::vector<Buffer> sums(static_cast<size_t>(threads));
  for (Buffer& s : sums) s.resize(static_cast<size_t>(std::max(n, 1)) * kBlock * sizeof(float));
  LinearCall call{};
  call.weights = matrix.bytes;
  call.bias = bias;
  call.n_in = matrix.n_in;
  call.n_out = matrix.n_out;
  call.x = rows.rows;
  call.row_end = n;
  call.store = Store::output;
  call.logits = out.data();
  for_pieces(threads, n > 0 ? blocks(matrix.n_out) : 0, [&](int thread, int block) {
    LinearCall part = call;
    part.block_begin = block;
    part.block_end = block + 1;
    part.sums = sums[static_cast<size_t>(thread)].as<float>();
    active().linear[static_cast<int>(matrix.dtype)](part);
  });
}

void probe_layer_norm(const float* x, int n, int d, const float* weight, const float* bias,
                      float epsilon, float* y) {
  const FloatEnvironment environment;
  RowBuffer in, out;
  put_rows(x, n, d, false, in);
  out.resize(std::max(n, 1), d, false);
  for (int r = 0; r < n; ++r)
    active().layer_norm({in.rows.f32 + static_cast<size_t>(r) * in.rows.width, weight, bias,
                         epsilon, d, r, out.rows, false, y + static_cast<size_t>(r) * d});
}

void probe_quantize(const float* x, int n, int d, int8_t* q, float* scale) {
  const FloatEnvironment environment;
  RowBuffer rows;
  put_rows(x, n, d, true, rows);
  std::memcpy(q, rows.rows.q, static_cast<size_t>(n) * width(d));
  std::memcpy(scale, rows.rows.scale, static_cast<size_t>(n) * blocks(d) * sizeof(float));
}

void probe_attention(const float* q, const float* k, const float* v, int n, int m, int n_head,
                     int head_dim, float scale, bool f16, int threads, float* y) {
  const FloatEnvironment environment;
  KvCache cache({1, n_head, head_dim, f16}, std::make_shared<PagePool>());
  cache.reserve(m);
  const int row = n_head * head_dim, pw = partial_width(head_dim), spans = (m + kSpan - 1) / kSpan;
  std::vector<uint8_t*> pages;
  for (int p = 0; p < m; ++p) {
    place(cache.layout(), cache.page(p / kPage), p, k + static_cast<size_t>(p) * row,
          v + static_cast<size_t>(p) * row);
    if (p % kPage == 0) pages.push_back(cache.page(p / kPage));
  }
  const size_t stride = static_cast<size_t>(kQueryTile) * pw,
               work = static_cast<size_t>(attend_work(head_dim));
  std::vector<Buffer> scratch(static_cast<size_t>(threads));
  for (Buffer& s : scratch) s.resize((work + stride * static_cast<size_t>(spans)) * sizeof(float));
  for_pieces(threads, (n + kQueryTile - 1) / kQueryTile * n_head, [&](int thread, int piece) {
    const int begin = piece / n_head * kQueryTile, head = piece % n_head,
              count = std::min(kQueryTile, n - begin);
    const int position = m - n + begin;
    float* own = scratch[static_cast<size_t>(thread)].as<float>();
    for (int b = 0; b <= (position + count - 1) / kSpan; ++b)
      active().attend({q + static_cast<size_t>(begin) * row + head * head_dim, row, count, position,
                       b * kSpan, pages.data(), cache.layout().k_offset(0, head),
                       cache.layout().v_offset(0, head), head_dim, scale, f16,
                       own + work + b * stride, own});
    for (int t = 0; t < count; ++t)
      active().combine({own + work + t * pw, stride, (position + t) / kSpan + 1, head_dim,
                        y + static_cast<size_t>(begin + t) * row + head * head_dim});
  });
}

}  // namespace gpt2fast
