// One pass of the model over some rows: who holds what, and how the work is cut into pieces.
//
// gpt2.cpp has the members that are the model itself; pass.cpp has those that hand out its work and
// keep its books.
#pragma once

#include <atomic>
#include <vector>

#include "dispatch.h"
#include "gpt2.h"
#include "thread_pool.h"
#include "workspace.h"

namespace gpt2fast {

// A row of a pass: one token of one sequence.
struct Row {
  int32_t token, position;
  int wanted;  // its place among the rows whose logits are asked for; the others count from -1 down
  float* hidden;  // takes the result of the final LayerNorm, unless null
};

// A sequence's part of a pass, and a piece of attention work: up to 32 queries of one head over all
// they see, or, for a step, one query of one head over one block of positions.
struct Sequence {
  KvCache* cache;
  int first, n, position;  // rows first to first + n - 1, absolute position of the first
  std::vector<uint8_t*> pages;
};
struct AttentionItem {
  int sequence, head, begin,
      n;  // queries begin to begin + n - 1 of the sequence; for a step begin is the block
};

// Everything of one pass: the rows in hand, their buffers, and the decision to stop.
class Pass {
 public:
  Pass(const Model& model, const gpt2fast_control& control, Team& team, Workspace& w, float* hidden,
       int hidden_rows, int hidden_first, double& polled)
      : m_(model), c_(model.config), k_(active()), control_(control), team_(team), w_(w),
        hidden_(hidden), hidden_rows_(hidden_rows), hidden_first_(hidden_first),
        quantized_(model.dtype == Dtype::int8), polled_(polled) {}

  // The last n_rows have their logits written, or, if `scores` has targets, those scored; `hidden`,
  // unless null, takes what the final LayerNorm makes of all n.
  void add(KvCache* cache, const int32_t* tokens, int n, int n_rows, float* logits,
           RowScores scores, float* hidden);
  gpt2fast_status run();

 private:
  void forward(int thread);
  void embed(int thread);
  void norm(const Norm& norm, int thread);
  void attention(int layer, int thread);
  void attend_prompt(int layer, const AttentionItem& item, int thread);
  void attend_step(int layer, const AttentionItem& item, int thread);
  void collect(int row, int thread);
  void head(int thread);
  void linear(const Linear& l, const RowBuffer& x, int thread, Store store, int layer = 0) {
    linear_of(l, x, 0, static_cast<int>(rows_.size()), thread, store, layer);
  }
  void linear_of(const Linear& l, const RowBuffer& x, int begin, int end, int thread, Store store,
                 int layer);
  void score(int begin, int end, int thread);
  void record(int layer, int thread);
  bool keep_going(int step, int thread);
  gpt2fast_status interrupted();
  void plan_attention();

  // A step's few rows are normalised and collected by every thread for itself: cheaper than one
  // thread's work with a barrier and the transfer of its result.
  template <class Function>
  void for_rows(int thread, Function f) {
    const int n = static_cast<int>(rows_.size());
    if (!few_) return team_.for_each(n, thread, f);
    for (int r = 0; r < n; ++r) f(r);
  }
  RowBuffer& narrow(int thread) {
    return few_ ? w_.own[static_cast<size_t>(thread)].narrow : w_.narrow;
  }
  float* row_of(const Buffer& b, int row) const {
    return b.as<float>() + static_cast<size_t>(row) * width(c_.n_embd);
  }
  float* hidden_of(int layer, int row) const {
    return hidden_ + (static_cast<size_t>(layer) * hidden_rows_ + hidden_first_ + row) * c_.n_embd;
  }
  float* partial_of(int sequence, int head, int block) const {
    const size_t i =
        (static_cast<size_t>(sequence) * c_.n_head + head) * Workspace::span_blocks(c_) + block;
    return w_.partials.as<float>() + i * partial_width(c_.head_dim());
  }

  const Model& m_;
  const Config& c_;
  const Kernels& k_;
  const gpt2fast_control& control_;
  Team& team_;
  Workspace& w_;
  float* hidden_;
  int hidden_rows_, hidden_first_;
  const bool quantized_;
  bool few_ = false, copies_ = false;  // copies_: some row has a `hidden`

  std::vector<Row> rows_;
  std::vector<float*> logits_;    // of the rows asked for; if they are scored, of some at a time
  std::vector<int32_t> targets_;  // of the rows to be scored
  std::vector<TokenScore*> scores_;
  std::vector<Sequence> sequences_;
  std::vector<int> sequence_of_;  // of each row
  std::vector<AttentionItem> items_;
  std::vector<KvSlot> slots_;  // of each row
  double& polled_;             // when poll() was last called
  gpt2fast_status verdict_[2] = {GPT2FAST_OK, GPT2FAST_OK};
  std::atomic<bool> finite_{true};
};

}  // namespace gpt2fast
