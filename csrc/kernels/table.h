// The kernels as the rest of the core sees them: plain structs of what a call works on, and one
// table of function pointers per target. No template and no instruction set crosses this line.
//
// All activation rows are padded to a multiple of 64 floats with zeros; `width(n)` is that padded
// length. Outputs beyond a matrix's true n_out come out as zeros in padded rows and are not written
// to unpadded ones.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpt2fast {

enum class Dtype : int32_t { float32 = 0, float16 = 1, int8 = 2 };
inline constexpr int kDtypes = 3;

enum class Activation : int32_t { gelu_tanh = 0, gelu_erf = 1, relu = 2, silu = 3, tanh = 4 };

inline constexpr int kBlock =
    64;                           // outputs and inputs of a weight block; floats a row is padded to
inline constexpr int kPage = 64;  // positions of a cache page
inline constexpr int kSpan = 256;      // positions of an attention block
inline constexpr int kQueryTile = 32;  // queries of a prompt's work item
static constexpr int blocks(int n) { return (n + kBlock - 1) / kBlock; }
static constexpr int width(int n) { return blocks(n) * kBlock; }
static constexpr int lanes16(int n) { return (n + 15) / 16 * 16; }

// Activations as a linear layer reads them: float32 for the float formats; for int8, bytes with one
// scale and one sum of bytes for each 64 inputs. Row t starts at t * width, block b of it at + 64 *
// b (scale and sum: t * width / 64 + b).
struct Rows {
  float* f32;
  int8_t* q;
  float* scale;
  int32_t* sum;
  int32_t width;
};

// Where a token's keys and values go: its page's first layer, and its place in the page.
struct KvSlot {
  uint8_t* k;     // [n_head][kPage / 16][head_dim][16]
  uint8_t* v;     // [n_head][kPage][lanes16(head_dim)]
  int32_t place;  // position mod kPage
};

// What a linear layer does with a finished sum: out = sum + bias, and then
enum class Store : int32_t {
  output,      // to logits[t][n_out], not padded
  residual,    // y[t] = y[t] + out, padded rows
  activation,  // activation(out) to `out` as the next layer reads it
  qkv,         // the first third to y as queries, the others to the cache
};

struct LinearCall {
  const uint8_t* weights;  // blocks(n_out) block rows, see formats/
  const float* bias;       // [n_out] or null
  int32_t n_in, n_out;
  Rows x;
  int32_t row_begin, row_end;      // tokens
  int32_t block_begin, block_end;  // blocks of 64 outputs
  Store store;
  Activation activation;
  float* const* logits;
  float* y;
  int32_t y_width;
  Rows out;
  const KvSlot* slots;
  size_t cache_offset;  // of this layer in a page
  int32_t head_dim, n_embd;
  bool cache_f16;
  float* sums;  // work space: (row_end - row_begin) * 64 floats
};

struct EmbedCall {  // x[t] = wte[token] + wpe[position]
  const uint8_t* wte;
  const float* wpe;
  int32_t token, position, n_embd;
  float* x;
};

struct NormCall {  // LayerNorm of one row of x into row `row` of out
  const float *x, *weight, *bias;
  float epsilon;
  int32_t n, row;
  Rows out;
  bool quantize;
  float* copy;  // null, or where the float32 result goes too
};

// Some queries of one head against one block of up to kSpan positions: per query the maximum m of
// the scores, the sum l of exp(score - m), and the value sum o. partial[query]: m, l, 14 unused,
// then o[lanes16(head_dim)].
struct AttendCall {
  const float* q;  // [n][q_width], at this head
  int32_t q_width;
  int32_t n, position;  // queries, absolute position of the first
  int32_t begin;        // first position of the block (a multiple of kSpan)
  const uint8_t* const* pages;
  size_t k_offset, v_offset;  // of this layer and head in a page
  int32_t head_dim;
  float scale;
  bool cache_f16;
  float* partial;
  float* work;  // attend_work(head_dim) floats
};
static constexpr int partial_width(int head_dim) { return 16 + lanes16(head_dim); }
static constexpr int attend_work(int head_dim) {
  return kQueryTile * kSpan + kPage * lanes16(head_dim);
}

struct CombineCall {  // n_blocks partials of one query and head, in position order, to
                      // out[head_dim]
  const float* partial;
  size_t stride;  // floats from one block's partial to the next
  int32_t n_blocks, head_dim;
  float* out;
};

struct RowSums {  // see kernels/score.h
  float top, total, moment;
  int32_t rank, likeliest;
};
struct ScoreCall {
  const float* logits;  // [n], unpadded
  int32_t n, target;
  RowSums* out;
};

struct Kernels {
  const char* name;
  void (*linear[kDtypes])(const LinearCall&);
  void (*embed[kDtypes])(const EmbedCall&);
  void (*layer_norm)(const NormCall&);
  void (*put)(const float* x, int32_t row, bool quantize,
              const Rows& out);  // a padded row as a layer reads it
  void (*attend)(const AttendCall&);
  void (*combine)(const CombineCall&);
  void (*activate)(const float* x, float* y, size_t n, Activation);
  void (*exp)(const float* x, float* y, size_t n);
  void (*log)(const float* x, float* y, size_t n);
  void (*tanh)(const float* x, float* y, size_t n);
  void (*erf)(const float* x, float* y, size_t n);
  float (*exp_sum)(const float* x, float shift, float scale, float* y, size_t n);
  float (*sum)(const float* x, size_t n);
  float (*max)(const float* x, size_t n);
  bool (*finite)(const float* x, size_t n);
  void (*score)(const ScoreCall&);
  // The roofs: operations (multiply and add count two) of `repeats` rounds on registers; a plain
  // sum over memory.
  double (*dot_roof)(int64_t repeats, int32_t* sink);
  double (*fma_roof)(int64_t repeats, float* sink);
  uint64_t (*read_roof)(const uint8_t* data, size_t n);
};

}  // namespace gpt2fast
