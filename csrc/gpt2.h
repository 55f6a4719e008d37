// GPT-2 (Radford et al., 2019): its configuration, its weights as views, and one forward pass for
// everything.
//
// forward() takes one or several sequences, a prompt, a chunk of one or a single step each. Logits
// do not depend, not by one bit, on how the tokens are divided among calls, chunks, sequences and
// threads, nor on the target.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api.h"
#include "kv_cache.h"
#include "matrix.h"
#include "score.h"

namespace gpt2fast {

struct Config {
  int32_t n_layer = 0, n_head = 0, n_embd = 0, n_ctx = 0, n_vocab = 0, n_inner = 0;
  Activation activation = Activation::gelu_tanh;
  float layer_norm_epsilon = 1e-5f;
  bool scale_attn_weights = true, scale_attn_by_inverse_layer_idx = false,
       tie_word_embeddings = true;

  int32_t head_dim() const { return n_embd / n_head; }
  // The factor of a layer's attention scores.
  float attention_scale(int layer) const;
};

struct Norm {
  const float *weight = nullptr, *bias = nullptr;  // [n]
};

struct Linear {
  PackedMatrix weight;
  const float* bias = nullptr;  // [n_out] or null
};

struct Block {
  Norm ln_1;
  Linear c_attn, attn_c_proj;
  Norm ln_2;
  Linear c_fc, mlp_c_proj;
};

struct Workspace;

// Where a tensor of a checkpoint's name lies, which must have so many bytes; throws if there is
// none.
using FindTensor = std::function<const uint8_t*(const std::string& name, size_t bytes)>;

Activation parse_activation(
    const std::string& name);  // as checkpoints name it; throws std::invalid_argument

struct Model {
  // The tensors stay where they are and must outlive the model. Throws std::invalid_argument.
  Model(const Config& config, Dtype dtype, const FindTensor& find);
  ~Model();

  Config config;
  Dtype dtype;
  PackedMatrix wte, lm_head;   // [n_vocab, n_embd]; one and the same if the head is tied
  const float* wpe = nullptr;  // [n_ctx, n_embd]
  std::vector<Block> h;
  Norm ln_f;

  PageLayout page_layout(bool f16) const {
    return {config.n_layer, config.n_head, config.head_dim(), f16};
  }

  KvCache new_cache(bool f16) const { return {page_layout(f16), pages_}; }

  // Work buffers are kept from call to call; concurrent calls each have their own.
  std::unique_ptr<Workspace> take_workspace(int rows, int threads, int spans) const;
  void give_back(std::unique_ptr<Workspace> workspace) const;

 private:
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
  std::shared_ptr<PagePool> pages_ = std::make_shared<PagePool>();
};

// Takes the place of a span's logits: its rows say how likely these tokens are, [n_rows] each.
struct RowScores {
  const int32_t* targets;
  TokenScore* scores;
};

// Appends each span's tokens to its cache and writes the logits asked for. `hidden`, if given,
// takes the residual stream of the only span, of which no logits may be asked: [n_layer +
// 1][n_tokens][n_embd], the embeddings first, the last after ln_f. `scores`, if given, one for each
// span, take the place of all logits, of which a few rows exist at a time.
gpt2fast_status forward(const Model& model, const gpt2fast_span* spans, int n_spans,
                        const gpt2fast_control& control, float* hidden = nullptr,
                        const RowScores* scores = nullptr);

// Every pass, running or to come, ends as cancelled: the process is about to end.
void stop_all();

double now();  // monotonic seconds

}  // namespace gpt2fast
