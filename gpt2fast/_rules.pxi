# What changes logits before the filters see them. Included by _generate.pyx; needs no GIL.
#
# Rules act in this order, on a copy of the model's logits:
#   logit_bias -> repetition_penalty -> presence_penalty, frequency_penalty -> dry ->
#   no_repeat_ngram -> bad_tokens -> min_new_tokens
# What they look at is the text so far, the prompt included, and nothing is kept from token to
# token: a text that was forked, restored or cut short goes on as if it had been written at once.

cdef enum:
    DRY_LONGEST = 50                     # a longer repetition counts as one of this length

cdef struct RuleSet:
    const int32_t* bias_tokens           # [n_biases]
    const float* biases
    int32_t n_biases
    float repetition                     # 1 is without
    float presence                       # 0 is without, also for the next one
    float frequency
    int32_t window                       # how many of the last tokens count; 0: all
    double dry_multiplier                # 0 is without
    double dry_base
    int32_t dry_allowed
    const uint8_t* dry_breakers          # [n_vocab], 1 for a token that no repetition spans
    int32_t no_repeat_ngram              # 0 is without
    const int32_t* bad_tokens            # all sequences one after the other
    const int32_t* bad_starts            # [n_bad + 1], into bad_tokens
    int32_t n_bad
    int32_t min_new_tokens
    const int32_t* forced                # [n_forced]: the new text begins with these
    int32_t n_forced


cdef inline bint in_row(int32_t token, int32_t n_vocab) noexcept nogil:
    return <uint32_t>token < <uint32_t>n_vocab


cdef void penalise(const RuleSet* rules, const int32_t* tokens, int32_t n, float* logits,
                   int32_t n_vocab, int32_t* counts) noexcept nogil:
    """Lower the logits of the tokens of the text, and restore counts to 0.

    repetition_penalty (Keskar et al.: CTRL; 2019) divides what is positive and multiplies what is
    negative; presence_penalty is subtracted once, frequency_penalty for each occurrence.
    """
    cdef int32_t i, token
    cdef float logit
    for i in range(n):
        if in_row(tokens[i], n_vocab):
            counts[tokens[i]] += 1
    for i in range(n):
        token = tokens[i]
        if in_row(token, n_vocab) and counts[token]:
            logit = logits[token]
            logit = logit * rules.repetition if logit < 0 else logit / rules.repetition
            logit = logit - (<float>counts[token] * rules.frequency + rules.presence)
            logits[token] = logit if logit < FLT_MAX else FLT_MAX
            counts[token] = 0


cdef inline bint breaks(const RuleSet* rules, int32_t token, int32_t n_vocab) noexcept nogil:
    return not in_row(token, n_vocab) or (
        rules.dry_breakers != NULL and rules.dry_breakers[token] != 0)


cdef void penalise_repetition(const RuleSet* rules, const int32_t* tokens, int32_t n,
                              float* logits, int32_t n_vocab, int32_t* longest) noexcept nogil:
    """Lower the logits of tokens that would prolong a repetition, and restore longest to 0.

    DRY ("don't repeat yourself", by p-e-w, 2024): if the last k tokens stand earlier in the text,
    the token that follows there loses multiplier * base^(k - allowed_length), for the largest k,
    from k = allowed_length on. A token that breaks neither belongs to a repetition nor follows it.
    """
    cdef int32_t i, j, k, token, last = tokens[n - 1]
    cdef double penalty
    if breaks(rules, last, n_vocab):
        return
    for i in range(n - 1):
        token = tokens[i + 1]
        if tokens[i] != last or breaks(rules, token, n_vocab):
            continue
        k = 1
        while (k < DRY_LONGEST and k <= i and tokens[i - k] == tokens[n - 1 - k]
               and not breaks(rules, tokens[i - k], n_vocab)):
            k += 1
        longest[token] = max(longest[token], k)
    for i in range(n - 1):
        token = tokens[i + 1]
        if tokens[i] != last or breaks(rules, token, n_vocab):
            continue
        k = longest[token]
        longest[token] = 0
        if k >= rules.dry_allowed:
            penalty = rules.dry_multiplier
            for j in range(k - rules.dry_allowed):
                penalty = min(penalty * rules.dry_base, 1e30)
            logits[token] -= <float>penalty


cdef inline bint ends_with(const int32_t* tokens, int32_t n, const int32_t* end,
                           int32_t length) noexcept nogil:
    """Tell whether the n tokens end with these."""
    return length <= n and memcmp(tokens + n - length, end, length * sizeof(int32_t)) == 0


cdef void ban_ngrams(int32_t size, const int32_t* tokens, int32_t n, float* logits,
                     int32_t n_vocab) noexcept nogil:
    """Rule out tokens that would complete a sequence of that size which the text has already."""
    cdef int32_t end, shared = size - 1
    for end in range(shared, n):
        if ends_with(tokens, end, tokens + n - shared, shared) and in_row(tokens[end], n_vocab):
            logits[tokens[end]] = -INFINITY


cdef void adjust(const RuleSet* rules, const int32_t* tokens, int32_t n_tokens, int32_t n_new,
                 const int32_t* stop_tokens, int32_t n_stop_tokens, float* logits, int32_t n_vocab,
                 int32_t* counts) noexcept nogil:
    """Apply the rules to a row of logits."""
    cdef int32_t i, length, n = min(n_tokens, rules.window) if rules.window else n_tokens
    cdef const int32_t* recent = tokens + n_tokens - n
    cdef const int32_t* bad
    for i in range(rules.n_biases):
        logits[rules.bias_tokens[i]] += rules.biases[i]
    if rules.repetition != 1 or rules.presence != 0 or rules.frequency != 0:
        penalise(rules, recent, n, logits, n_vocab, counts)
    if rules.dry_multiplier > 0:
        penalise_repetition(rules, recent, n, logits, n_vocab, counts)
    if 0 < rules.no_repeat_ngram <= n_tokens:
        ban_ngrams(rules.no_repeat_ngram, tokens, n_tokens, logits, n_vocab)
    for i in range(rules.n_bad):
        bad, length = rules.bad_tokens + rules.bad_starts[i], rules.bad_starts[i + 1]
        length -= rules.bad_starts[i] + 1
        if ends_with(tokens, n_tokens, bad, length):
            logits[bad[length]] = -INFINITY
    if n_new < rules.min_new_tokens:
        for i in range(n_stop_tokens):
            if in_row(stop_tokens[i], n_vocab):
                logits[stop_tokens[i]] = -INFINITY


cdef class Rules:
    """The rules of a call, for a vocabulary.

    Raises ValueError for what would lead the loop out of a row or to a value that is no number.
    """

    cdef RuleSet rules
    cdef int32_t n_vocab
    cdef const int32_t[::1] bias_tokens
    cdef const float[::1] biases
    cdef const uint8_t[::1] dry_breakers
    cdef const int32_t[::1] bad_tokens
    cdef const int32_t[::1] bad_starts
    cdef const int32_t[::1] forced

    def __cinit__(self, int32_t n_vocab, *, const int32_t[::1] bias_tokens not None,
                  const float[::1] biases not None, float repetition_penalty,
                  float presence_penalty, float frequency_penalty, int32_t penalty_window,
                  double dry_multiplier, double dry_base, int32_t dry_allowed_length,
                  const uint8_t[::1] dry_breakers not None, int32_t no_repeat_ngram,
                  const int32_t[::1] bad_tokens not None, const int32_t[::1] bad_starts not None,
                  int32_t min_new_tokens, const int32_t[::1] forced_tokens not None) -> None:
        cdef RuleSet* it = &self.rules
        cdef int32_t i
        if not (0.001 <= repetition_penalty <= 1000 and -1000 <= presence_penalty <= 1000
                and -1000 <= frequency_penalty <= 1000 and 0 <= dry_multiplier <= 1000
                and 1 <= dry_base <= 1000):
            raise ValueError("a penalty is out of range")
        if min(penalty_window, no_repeat_ngram, min_new_tokens, dry_allowed_length - 1) < 0:
            raise ValueError("a length is negative")
        if dry_breakers.shape[0] not in (0, n_vocab) or biases.shape[0] != bias_tokens.shape[0]:
            raise ValueError("dry_breakers or biases must have another length")
        for i in range(<int32_t>biases.shape[0]):
            if not (biases[i] <= 1000):
                raise ValueError("a bias is out of range")
        self.n_vocab = n_vocab
        _check_tokens(bias_tokens, n_vocab)
        _check_tokens(bad_tokens, n_vocab)
        _check_tokens(forced_tokens, n_vocab)
        if bad_starts.shape[0] < 1 or bad_starts[0] != 0:
            raise ValueError("bad_starts must begin with 0")
        for i in range(1, <int32_t>bad_starts.shape[0]):
            if not bad_starts[i - 1] < bad_starts[i] <= bad_tokens.shape[0]:
                raise ValueError("bad_starts must rise, and end in bad_tokens")
        self.bias_tokens, self.biases, self.dry_breakers = bias_tokens, biases, dry_breakers
        self.bad_tokens, self.bad_starts, self.forced = bad_tokens, bad_starts, forced_tokens
        it.n_biases, it.n_forced = biases.shape[0], forced_tokens.shape[0]
        it.n_bad = bad_starts.shape[0] - 1
        if it.n_biases:
            it.bias_tokens, it.biases = &bias_tokens[0], &biases[0]
        if dry_breakers.shape[0]:
            it.dry_breakers = &dry_breakers[0]
        if it.n_bad:
            it.bad_tokens, it.bad_starts = &bad_tokens[0], &bad_starts[0]
        if it.n_forced:
            it.forced = &forced_tokens[0]
        it.repetition, it.presence = repetition_penalty, presence_penalty
        it.frequency, it.window = frequency_penalty, penalty_window
        it.dry_multiplier, it.dry_base = dry_multiplier, dry_base
        it.dry_allowed, it.no_repeat_ngram = dry_allowed_length, no_repeat_ngram
        it.min_new_tokens = min_new_tokens


cdef _check_tokens(const int32_t[::1] tokens, int32_t n_vocab):
    cdef Py_ssize_t i
    for i in range(tokens.shape[0]):
        if not in_row(tokens[i], n_vocab):
            raise ValueError(f"token {tokens[i]} is outside the vocabulary of {n_vocab}")
