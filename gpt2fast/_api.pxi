# The part of csrc/api.h that the token loop calls. Included by _generate.pyx.

cdef extern from "api.h" nogil:
    ctypedef struct gpt2fast_model:
        pass
    ctypedef struct gpt2fast_cache:
        pass
    ctypedef enum gpt2fast_status:
        GPT2FAST_OK
        GPT2FAST_CANCELLED
        GPT2FAST_DEADLINE
        GPT2FAST_INTERRUPTED
        GPT2FAST_NOT_FINITE
        GPT2FAST_OUT_OF_MEMORY
        GPT2FAST_BAD_ARGUMENT
        GPT2FAST_BUSY
        GPT2FAST_NO_THREAD
    ctypedef struct gpt2fast_span:
        gpt2fast_cache* cache
        const int32_t* tokens
        int32_t n_tokens
        int32_t n_rows
        float* logits
        float* hidden
    ctypedef struct gpt2fast_control:
        int32_t threads
        int32_t prompt_threads
        int32_t chunk
        const int32_t* cancel
        double deadline
        int (*poll)(void* context) noexcept nogil
        void* poll_context
    ctypedef struct gpt2fast_api:
        int32_t version
        gpt2fast_status (*forward)(gpt2fast_model* model, const gpt2fast_span* spans,
                                   int32_t n_spans, const gpt2fast_control* control) noexcept nogil
        int32_t (*n_vocab)(const gpt2fast_model* model) noexcept nogil
        int32_t (*n_ctx)(const gpt2fast_model* model) noexcept nogil
        int32_t (*n_embd)(const gpt2fast_model* model) noexcept nogil
        int32_t (*cache_length)(const gpt2fast_cache* cache) noexcept nogil
        void (*cache_truncate)(gpt2fast_cache* cache, int32_t length) noexcept nogil
        double (*now)() noexcept nogil
        uint64_t (*enter_float)() noexcept nogil
        void (*leave_float)(uint64_t entered) noexcept nogil
        void (*exp)(const float* values, float* out, size_t n) noexcept nogil
        void (*log)(const float* values, float* out, size_t n) noexcept nogil
        float (*max)(const float* values, size_t n) noexcept nogil
        float (*sum)(const float* values, size_t n) noexcept nogil
        float (*exp_sum)(const float* values, float shift, float scale, float* out,
                         size_t n) noexcept nogil
