# Log-probabilities of what was drawn. Included by _generate.pyx; needs no GIL.
#
# They are the model's own, at temperature 1, before any rule or filter:
#   logprob = (logit - max) - log(sum of exp(logit - max))
# with the core's exp and log and its order of summation; the difference is taken in float64.

cdef struct Report:                      # one row for each new token
    float* logprobs                      # NULL if nobody asked
    int32_t* top_tokens                  # [n_top] a row, the likeliest first
    float* top_logprobs
    int32_t n_top


cdef inline bint before(const float* logits, int32_t a, int32_t b) noexcept nogil:
    """Tell whether token a is likelier than b, or as likely and the lower id."""
    return logits[a] > logits[b] or (logits[a] == logits[b] and a < b)


cdef void sift(const float* logits, int32_t* heap, int32_t n, int32_t at,
               int32_t token) noexcept nogil:
    """Put a token at a place of a heap, the last in order first, or below it."""
    cdef int32_t child = 2 * at + 1
    while child < n:
        if child + 1 < n and before(logits, heap[child], heap[child + 1]):
            child += 1
        if not before(logits, token, heap[child]):
            break
        heap[at] = heap[child]
        at, child = child, 2 * child + 1
    heap[at] = token


cdef void top_tokens(const float* logits, int32_t n, int32_t k, int32_t* top) noexcept nogil:
    """Fill top[k] with the k likeliest tokens in order, k at most n; between equal ones by id."""
    cdef int32_t i, last
    if k == 0:
        return
    for i in range(k):
        top[i] = i
    for i in range(k // 2 - 1, -1, -1):
        sift(logits, top, k, i, top[i])
    for i in range(k, n):
        if logits[i] > logits[top[0]]:
            sift(logits, top, k, 0, i)
    for i in range(k - 1, 0, -1):
        last = top[0]
        sift(logits, top, i, 0, top[i])
        top[i] = last


cdef void report(const gpt2fast_api* api, const float* logits, int32_t n_vocab, int32_t token,
                 int32_t row, const Report* result, float* work) noexcept nogil:
    """Fill a row of the report; work has room for n_vocab."""
    cdef int32_t i, n_top = result.n_top
    cdef int32_t* top = result.top_tokens + <size_t>row * n_top
    cdef float best = api.max(logits, n_vocab)
    cdef float total = api.exp_sum(logits, best, 1, work, n_vocab)
    api.log(&total, &total, 1)
    result.logprobs[row] = <float>(<double>logits[token] - best - total)
    top_tokens(logits, n_vocab, n_top, top)
    for i in range(n_top):
        result.top_logprobs[<size_t>row * n_top + i] = <float>(
            <double>logits[top[i]] - best - total)
