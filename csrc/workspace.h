// The buffers of one call: activations of all its rows, shared by the threads, and each thread's
// own scratch.
#pragma once

#include <cstring>
#include <vector>

#include "gpt2.h"
#include "memory.h"

namespace gpt2fast {

// Zeroed floats or bytes on a cache line; growing forgets what was in it.
class Buffer {
 public:
  void resize(size_t bytes) {
    if (bytes <= size_) return;
    memory_.reset();
    size_ = 0;
    memory_ = zeroed(bytes);
    size_ = bytes;
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  Memory memory_;
  size_t size_ = 0;
};

// Rows of n activations, in the form that a linear layer of that dtype reads.
struct RowBuffer {
  Buffer f32, q, scale, sum;
  Rows rows{};

  void resize(int count, int n, bool quantized) {
    const size_t all = static_cast<size_t>(count) * width(n);
    rows.width = width(n);
    if (quantized) {
      q.resize(all);
      scale.resize(all / kBlock * sizeof(float));
      sum.resize(all / kBlock * sizeof(int32_t));
    } else {
      f32.resize(all * sizeof(float));
    }
    rows.f32 = f32.as<float>();
    rows.q = q.as<int8_t>();
    rows.scale = scale.as<float>();
    rows.sum = sum.as<int32_t>();
  }
};

inline constexpr int kFew = 2;        // rows that every thread normalises for itself
inline constexpr int kHeadRows = 64;  // rows to be scored whose logits exist at a time

struct Workspace {
  struct Own {  // a thread's copy of what is made of few rows
    RowBuffer narrow;
    Buffer attended;
  };
  int rows = 0, threads = 0, spans = 0;
  Buffer x, q, attended;    // [rows][width(n_embd)]: residual stream, queries, attention's result
  RowBuffer narrow, inner;  // inputs of n_embd and of n_inner
  Buffer partials;          // of steps: [spans][n_head][blocks of 256][partial_width]
  Buffer scored;            // [kHeadRows][width(n_vocab)]: logits; while a call that scores runs
  std::vector<Buffer> scratch;  // per thread
  std::vector<Own> own;         // per thread

  void resize(const Config& c, bool quantized, int new_rows, int new_threads, int new_spans) {
    const size_t row = static_cast<size_t>(new_rows) * width(c.n_embd) * sizeof(float);
    x.resize(row);
    q.resize(row);
    attended.resize(row);
    narrow.resize(new_rows, c.n_embd, quantized);
    inner.resize(new_rows, c.n_inner, quantized);
    const size_t partial = partial_width(c.head_dim()) * sizeof(float);
    partials.resize(partial * span_blocks(c) * c.n_head * new_spans);
    scratch.resize(static_cast<size_t>(new_threads));
    own.resize(static_cast<size_t>(new_threads));
    for (Own& o : own) {
      o.narrow.resize(kFew, c.n_embd, quantized);
      o.attended.resize(kFew * static_cast<size_t>(width(c.n_embd)) * sizeof(float));
    }
    for (Buffer& s : scratch) s.resize((sums(new_rows) + attention(c)) * sizeof(float));
    rows = new_rows;
    threads = new_threads;
    spans = new_spans;
  }

  static int span_blocks(const Config& c) { return (c.n_ctx + kSpan - 1) / kSpan; }
  static size_t sums(int rows) { return static_cast<size_t>(rows) * kBlock; }
  static size_t attention(const Config& c) {
    return static_cast<size_t>(attend_work(c.head_dim())) +
           static_cast<size_t>(span_blocks(c)) * kQueryTile * partial_width(c.head_dim());
  }
};

}  // namespace gpt2fast
