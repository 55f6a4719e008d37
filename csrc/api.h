// The plain C table that module_model.cpp exports as the capsule "gpt2fast._core._C_API".
//
// The Cython token loop (gpt2fast/_generate.pyx) runs without the GIL and therefore calls the core
// through function pointers, not through Python. Nothing here throws: every entry returns a Status.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  GPT2FAST_OK = 0,
  GPT2FAST_CANCELLED = 1,      // *cancel became nonzero; the unfinished chunk is not in the cache
  GPT2FAST_DEADLINE = 2,       // the deadline passed; likewise
  GPT2FAST_INTERRUPTED = 3,    // poll() returned nonzero (a Python signal handler raised); likewise
  GPT2FAST_NOT_FINITE = 4,     // an activation or a logit is NaN or infinite; likewise
  GPT2FAST_OUT_OF_MEMORY = 5,  // the cache or a work buffer could not be allocated; likewise
  GPT2FAST_BAD_ARGUMENT = 6,   // a token outside the vocabulary, more tokens than fit the context
  GPT2FAST_BUSY = 7,           // another call is using one of the caches
  GPT2FAST_NO_THREAD = 8       // the system refuses to start another thread
} gpt2fast_status;

typedef struct gpt2fast_model
    gpt2fast_model;  // PyCapsule "gpt2fast.model" of _core.Model.capsule()
typedef struct gpt2fast_cache
    gpt2fast_cache;  // PyCapsule "gpt2fast.cache" of _core.Cache.capsule()

// One sequence's share of a forward pass: `tokens` are appended to `cache`, and the logits of the
// last n_rows of them are written to logits[n_rows][n_vocab]. n_rows may be 0; a cache stands in
// one span of a call only. hidden[n_tokens][n_embd], unless NULL, takes what the final LayerNorm
// makes of every token.
typedef struct {
  gpt2fast_cache* cache;
  const int32_t* tokens;
  int32_t n_tokens;
  int32_t n_rows;
  float* logits;
  float* hidden;
} gpt2fast_span;

typedef struct {
  int32_t threads;         // for steps (as many tokens as spans); >= 1
  int32_t prompt_threads;  // for anything longer; >= 1
  int32_t chunk;           // tokens of a prompt processed and committed at a time; 0 means 512
  const volatile int32_t* cancel;  // may be NULL
  double deadline;                 // on the clock of now(), in seconds; 0 means none
  int (*poll)(void* context);      // may be NULL; called on the calling thread between matrices, at
                                   // most every 50 ms
  void* poll_context;
} gpt2fast_control;

typedef struct {
  int32_t version;  // 2
  gpt2fast_status (*forward)(gpt2fast_model* model, const gpt2fast_span* spans, int32_t n_spans,
                             const gpt2fast_control* control);
  int32_t (*n_vocab)(const gpt2fast_model* model);
  int32_t (*n_ctx)(const gpt2fast_model* model);
  int32_t (*n_embd)(const gpt2fast_model* model);
  int32_t (*cache_length)(const gpt2fast_cache* cache);
  void (*cache_truncate)(gpt2fast_cache* cache,
                         int32_t length);  // keeps the first `length` positions
  double (*now)(void);                     // monotonic seconds
  // The caller's own arithmetic between these two rounds as the core's does, whatever the host has
  // set.
  uint64_t (*enter_float)(void);
  void (*leave_float)(uint64_t entered);
  // The core's own elementary functions, the same bits on every CPU; in and out may be the same
  // buffer.
  void (*exp)(const float* in, float* out, size_t n);
  void (*log)(const float* in, float* out, size_t n);
  float (*max)(const float* in, size_t n);  // n >= 1
  float (*sum)(const float* in, size_t n);  // in the order of DESIGN's virtual lanes
  // out[i] = exp((in[i] - shift) * scale), returning their sum in virtual-lane order
  float (*exp_sum)(const float* in, float shift, float scale, float* out, size_t n);
} gpt2fast_api;

#ifdef __cplusplus
}
#endif
