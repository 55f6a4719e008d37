#include "gpt2.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "pass.h"

namespace gpt2fast {

void Pass::forward(int thread) {
  embed(thread);
  record(0, thread);
  for (int i = 0; i < c_.n_layer; ++i) {
    const Block& block = m_.h[static_cast<size_t>(i)];
    norm(block.ln_1, thread);
    linear(block.c_attn, narrow(thread), thread, Store::qkv, i);
    if (!keep_going(4 * i, thread)) return;
    attention(i, thread);
    linear(block.attn_c_proj, narrow(thread), thread, Store::residual);
    if (!keep_going(4 * i + 1, thread)) return;
    norm(block.ln_2, thread);
    linear(block.c_fc, narrow(thread), thread, Store::activation);
    if (!keep_going(4 * i + 2, thread)) return;
    linear(block.mlp_c_proj, w_.inner, thread, Store::residual);
    if (!keep_going(4 * i + 3, thread)) return;
    if (i + 1 < c_.n_layer) record(i + 1, thread);
  }
  head(thread);
}

void Pass::embed(int thread) {
  team_.for_each(static_cast<int>(rows_.size()), thread, [&](int r) {
    const Row& row = rows_[static_cast<size_t>(r)];
    k_.embed[static_cast<int>(m_.dtype)](
        {m_.wte.bytes, m_.wpe, row.token, row.position, c_.n_embd, row_of(w_.x, r)});
  });
}

void Pass::norm(const Norm& norm, int thread) {
  for_rows(thread, [&](int r) {
    k_.layer_norm({row_of(w_.x, r), norm.weight, norm.bias, c_.layer_norm_epsilon, c_.n_embd, r,
                   narrow(thread).rows, quantized_, nullptr});
  });
}

// ln_f and the output head, for the rows asked for; every row is checked for NaN and infinity. The
// head reads the first places, so that rows of which no logits are asked take the last. Rows to be
// scored share a few rows of logits: the head is computed for so many of them at a time.
void Pass::head(int thread) {
  const int n_rows = static_cast<int>(rows_.size());
  for_rows(thread, [&](int r) {
    const Row& row = rows_[static_cast<size_t>(r)];
    float* hidden = hidden_ ? hidden_of(c_.n_layer, r) : row.hidden;
    if (!k_.finite(row_of(w_.x, r), static_cast<size_t>(c_.n_embd)))
      finite_.store(false, std::memory_order_relaxed);
    if (row.wanted < 0 && !hidden) return;
    k_.layer_norm({row_of(w_.x, r), m_.ln_f.weight, m_.ln_f.bias, c_.layer_norm_epsilon, c_.n_embd,
                   row.wanted < 0 ? n_rows + row.wanted : row.wanted, narrow(thread).rows,
                   quantized_, hidden});
  });
  const int n = static_cast<int>(logits_.size()), at_a_time = targets_.empty() ? n : kHeadRows;
  for (int first = 0; first < n; first += at_a_time) {
    const int end = std::min(n, first + at_a_time);
    linear_of({m_.lm_head, nullptr}, narrow(thread), first, end, thread, Store::output, 0);
    if (targets_.empty()) return;
    score(first, end, thread);
    if (!keep_going(4 * c_.n_layer + first / at_a_time, thread)) return;
  }
}

// Queries, keys and values are in place; the result enters the next layer's input.
void Pass::attention(int layer, int thread) {
  team_.for_each(static_cast<int>(items_.size()), thread, [&](int i) {
    const AttentionItem& item = items_[static_cast<size_t>(i)];
    if (sequences_[static_cast<size_t>(item.sequence)].n > 1)
      attend_prompt(layer, item, thread);
    else
      attend_step(layer, item, thread);
  });
  for_rows(thread, [&](int r) { collect(r, thread); });
}

float Config::attention_scale(int layer) const {
  double scale = scale_attn_weights ? 1.0 / std::sqrt(static_cast<double>(head_dim())) : 1.0;
  if (scale_attn_by_inverse_layer_idx) scale /= layer + 1;
  return static_cast<float>(scale);
}

Activation parse_activation(const std::string& name) {
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh")
    return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu_erf;
  if (name == "relu") return Activation::relu;
  if (name == "silu") return Activation::silu;
  if (name == "tanh") return Activation::tanh;
  throw std::invalid_argument(
      "activation is '" + name +
      "'; allowed are gelu_new, gelu_fast, gelu_pytorch_tanh, gelu, relu, silu and tanh");
}

Model::Model(const Config& config, Dtype dtype, const FindTensor& find)
    : config(config), dtype(dtype) {
  const Config& c = config;
  if (c.n_head < 1 || c.n_embd % c.n_head)
    throw std::invalid_argument("n_embd is " + std::to_string(c.n_embd) +
                                ", no multiple of n_head " + std::to_string(c.n_head));
  const auto floats = [&](const std::string& name, int64_t n) {
    return reinterpret_cast<const float*>(find(name, static_cast<size_t>(n) * sizeof(float)));
  };
  const auto matrix = [&](const std::string& name, int n_out, int n_in) -> PackedMatrix {
    return {dtype, n_out, n_in, find(name, packed_bytes(dtype, n_out, n_in))};
  };
  const auto linear = [&](const std::string& name, int n_out, int n_in) -> Linear {
    return {matrix(name + ".weight", n_out, n_in), floats(name + ".bias", n_out)};
  };
  const auto norm = [&](const std::string& name) -> Norm {
    return {floats(name + ".weight", c.n_embd), floats(name + ".bias", c.n_embd)};
  };
  wte = matrix("wte.weight", c.n_vocab, c.n_embd);
  lm_head = c.tie_word_embeddings ? wte : matrix("lm_head.weight", c.n_vocab, c.n_embd);
  wpe = floats("wpe.weight", static_cast<int64_t>(c.n_ctx) * c.n_embd);
  for (int i = 0; i < c.n_layer; ++i) {
    const std::string name = "h." + std::to_string(i) + ".";
    h.push_back({norm(name + "ln_1"), linear(name + "attn.c_attn", 3 * c.n_embd, c.n_embd),
                 linear(name + "attn.c_proj", c.n_embd, c.n_embd), norm(name + "ln_2"),
                 linear(name + "mlp.c_fc", c.n_inner, c.n_embd),
                 linear(name + "mlp.c_proj", c.n_embd, c.n_inner)});
  }
  ln_f = norm("ln_f");
}

Model::~Model() = default;

}  // namespace gpt2fast
