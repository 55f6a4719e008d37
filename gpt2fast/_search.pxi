# What searches do at a step: one forward pass for all texts they consider, then the best tokens of
# each, and whether these end it. Included by _generate.pyx.

def forward(model, list caches not None, list tokens not None, list logits not None,
            list hidden not None, *, int32_t threads, int32_t prompt_threads, int32_t chunk=0,
            CancelFlag cancel=None, double deadline=0) -> str | None:
    """Append tokens to each cache, and fill its row of logits with those of the last.

    `tokens` are int32 arrays, `logits` float32 arrays with room for a row, `hidden` None or float32
    arrays (n_tokens, n_embd) for what the final LayerNorm makes of every token. Returns None, or
    what ended it: "cancelled" or "deadline". Raises as `run` does, and ValueError for arrays that
    do not fit.
    """
    cdef gpt2fast_model* handle = <gpt2fast_model*>PyCapsule_GetPointer(
        model.capsule(), "gpt2fast.model")
    cdef int32_t i, n = len(caches), n_vocab = api.n_vocab(handle), n_embd = api.n_embd(handle)
    cdef list kept = []  # what the spans point into
    cdef const int32_t[::1] ids
    cdef float[::1] row
    cdef float[:, ::1] copy
    cdef _Poll poll = _Poll()
    cdef gpt2fast_control control = _control(poll, threads, prompt_threads, chunk, cancel, deadline)
    cdef gpt2fast_span* spans
    cdef int status
    if not 0 < n == len(tokens) == len(logits) == len(hidden):
        raise ValueError("caches, tokens, logits and hidden must have one length of at least 1")
    spans = <gpt2fast_span*>PyMem_Malloc(n * sizeof(gpt2fast_span))
    if spans == NULL:
        raise MemoryError
    try:
        for i in range(n):
            ids, row, copy, capsule = tokens[i], logits[i], hidden[i], caches[i].capsule()
            if ids.shape[0] < 1 or row.shape[0] < n_vocab:
                raise ValueError(f"a span has tokens, and room for the logits of {n_vocab}")
            if copy is not None and (copy.shape[0] < ids.shape[0] or copy.shape[1] != n_embd):
                raise ValueError(f"hidden must have room for {ids.shape[0]} rows of {n_embd}")
            kept.append((ids, row, copy, capsule))
            spans[i].cache = <gpt2fast_cache*>PyCapsule_GetPointer(capsule, "gpt2fast.cache")
            spans[i].tokens, spans[i].n_tokens = &ids[0], <int32_t>ids.shape[0]
            spans[i].n_rows, spans[i].logits = 1, &row[0]
            spans[i].hidden = NULL if copy is None else &copy[0, 0]
        with nogil:
            if control.deadline and api.now() >= control.deadline:
                status = GPT2FAST_DEADLINE
            elif control.cancel != NULL and control.cancel[0]:
                status = GPT2FAST_CANCELLED
            else:
                status = api.forward(handle, spans, n, &control)
    finally:
        PyMem_Free(spans)
    if status == GPT2FAST_CANCELLED:
        return "cancelled"
    if status == GPT2FAST_DEADLINE:
        return "deadline"
    if status != GPT2FAST_OK:
        _raise(status, poll)
    return None


cdef void log_softmax(const float* logits, float* out, int32_t n, float* work) noexcept nogil:
    """Fill out[n], which may be logits, with log-probabilities; NaN if all logits are -infinity."""
    cdef int32_t i
    cdef float best = api.max(logits, n)
    cdef float total = api.exp_sum(logits, best, 1, work, n)
    api.log(&total, &total, 1)
    for i in range(n):
        out[i] = <float>(<double>logits[i] - best - total)


def continuations(const float[::1] logits not None, int32_t k, Workspace workspace not None,
                  const int32_t[::1] tokens not None, int32_t n_new, *,
                  const int32_t[::1] stop_tokens not None, Rules rules=None, processor=None,
                  bint of_logprobs=True) -> list[tuple[int, float]]:
    """Return the k best tokens to follow a text with their scores, in order; fewer if others are
    ruled out.

    The last n_new of the text's tokens are new. Scores are log-probabilities as rules and processor
    leave them (`of_logprobs`), or log-probabilities of the logits that these leave. A forced token
    comes alone, with the model's own log-probability. Raises what the processor raises, and
    ValueError for arrays that do not fit each other.
    """
    cdef int32_t i, n = logits.shape[0]
    cdef const int32_t* stops = &stop_tokens[0] if stop_tokens.shape[0] else NULL
    cdef Scratch* scratch = &workspace.scratch
    cdef float* row = scratch.adjusted
    cdef list held = []
    if not (0 < k <= n <= workspace.n_vocab and 0 <= n_new <= tokens.shape[0] > 0):
        raise ValueError("k, logits, tokens and workspace do not fit each other")
    if rules is not None and rules.n_vocab != n:
        raise ValueError(f"the rules are not those of a vocabulary of {n}")
    _hold(workspace.lock, held)
    try:
        with nogil:
            scratch.environment = api.enter_float()
            if of_logprobs or (rules is not None and n_new < rules.rules.n_forced):
                log_softmax(&logits[0], row, n, scratch.weights)
            else:
                memcpy(row, &logits[0], n * sizeof(float))
            if rules is not None and n_new >= rules.rules.n_forced:
                adjust(&rules.rules, &tokens[0], <int32_t>tokens.shape[0], n_new, stops,
                       <int32_t>stop_tokens.shape[0], row, n, scratch.counts)
            api.leave_float(scratch.environment)
        if rules is not None and n_new < rules.rules.n_forced:
            return [(rules.rules.forced[n_new], row[rules.rules.forced[n_new]])]
        if processor is not None:
            processor(<int32_t>tokens.shape[0], <float[:n]>row)
        with nogil:
            scratch.environment = api.enter_float()
            if not of_logprobs:
                log_softmax(row, row, n, scratch.weights)
            top_tokens(row, n, k, scratch.ids)
            api.leave_float(scratch.environment)
        return [(scratch.ids[i], row[scratch.ids[i]]) for i in range(k)
                if row[scratch.ids[i]] > -INFINITY]
    finally:
        workspace.lock.release()


def token_logprob(const float[::1] logits not None, int32_t token, int32_t n_top,
                  Workspace workspace not None) -> tuple[float, list[tuple[int, float]]]:
    """Return the log-probability of a token and the n_top likeliest tokens with theirs, in order.

    As a `Sequence` reports them. Raises ValueError for what does not fit the logits.
    """
    cdef int32_t i, n = logits.shape[0]
    cdef float* row = workspace.scratch.adjusted
    if not (0 <= token < n <= workspace.n_vocab and 0 <= n_top <= n):
        raise ValueError("token, n_top, logits and workspace do not fit each other")
    _hold(workspace.lock, [])
    try:
        with nogil:
            log_softmax(&logits[0], row, n, workspace.scratch.weights)
            top_tokens(&logits[0], n, n_top, workspace.scratch.ids)
        top = [(workspace.scratch.ids[i], row[workspace.scratch.ids[i]]) for i in range(n_top)]
        return row[token], top
    finally:
        workspace.lock.release()


def contrast(float[:, ::1] hidden not None, const float[::1] logprobs not None,
             float[:, ::1] context not None, int32_t n_context, double alpha) -> list[float]:
    """Return (1 - alpha) * probability - alpha * similarity of each candidate.

    `hidden` are their states, (n_candidates, n_embd), and `context`, (n_context or more, n_embd),
    those of the text before them, divided by their norms, as `hidden` is afterwards; similarity is
    the greatest cosine. From Su et al.: A contrastive framework for neural text generation; 2022.
    Raises ValueError for arrays that do not fit each other.
    """
    cdef int32_t i, j, m = hidden.shape[0], width = hidden.shape[1]
    cdef double cosine, nearest
    cdef float probability
    cdef uint64_t environment
    cdef float* products
    if not (0 < m == logprobs.shape[0] and 0 < n_context <= context.shape[0]
            and 0 < width == context.shape[1]):
        raise ValueError("hidden, logprobs and context do not fit each other")
    products = <float*>PyMem_Malloc(width * sizeof(float))
    if products == NULL:
        raise MemoryError
    scores = [0.0] * m
    try:
        for i in range(m):
            with nogil:
                environment = api.enter_float()
                normalise(&hidden[i, 0], width, products)
                nearest = -1
                for j in range(n_context):
                    cosine = dot(&hidden[i, 0], &context[j, 0], width, products)
                    nearest = max(nearest, cosine)
                api.exp(&logprobs[i], &probability, 1)
                api.leave_float(environment)
            scores[i] = (1 - alpha) * probability - alpha * nearest
        return scores
    finally:
        PyMem_Free(products)


def normalise_rows(float[:, ::1] hidden not None) -> None:
    """Divide each row by its Euclidean norm; a row of zeros stays."""
    cdef int32_t i, n = hidden.shape[0], width = hidden.shape[1]
    cdef uint64_t environment
    cdef float* squares = <float*>PyMem_Malloc(max(width, 1) * sizeof(float))
    if squares == NULL:
        raise MemoryError
    with nogil:
        environment = api.enter_float()
        for i in range(n):
            normalise(&hidden[i, 0], width, squares)
        api.leave_float(environment)
    PyMem_Free(squares)


cdef float dot(const float* a, const float* b, int32_t n, float* products) noexcept nogil:
    """Return the sum of a[i] * b[i], in the core's order."""
    cdef int32_t i
    for i in range(n):
        products[i] = a[i] * b[i]
    return api.sum(products, n)


cdef void normalise(float* row, int32_t n, float* squares) noexcept nogil:
    """Divide a row by its Euclidean norm; one of zeros stays."""
    cdef int32_t i
    cdef float norm = sqrtf(dot(row, row, n, squares))
    for i in range(n):
        row[i] = row[i] / norm if norm > 0 else 0


cdef class Matching:
    """How far a text has come into each of its stop strings; never changed."""

    cdef StopStrings stops
    cdef int32_t* states
    cdef int64_t n_bytes
    cdef int64_t shown
    cdef bint is_found

    def __cinit__(self, StopStrings stops not None, Matching before=None) -> None:
        cdef size_t n_bytes = stops.automaton.n_strings * sizeof(int32_t)
        self.stops = stops
        self.states = <int32_t*>PyMem_Calloc(stops.automaton.n_strings, sizeof(int32_t))
        if self.states == NULL:
            raise MemoryError
        if before is not None:
            if before.stops is not stops:
                raise ValueError("the stop strings are not those of before")
            memcpy(self.states, before.states, n_bytes)
            self.n_bytes, self.shown = before.n_bytes, before.shown

    def __dealloc__(self) -> None:
        PyMem_Free(self.states)

    def after(self, int32_t token, bint too_early) -> Matching:
        """Return how far it has come with one more token; too early for it to be stopped."""
        cdef Matching result = Matching(self.stops, self)
        result.is_found = ends_text(&self.stops.automaton, token, too_early, result.states,
                                    &result.n_bytes, &result.shown)
        return result

    @property
    def found(self) -> bool:
        """Whether the last token completed a stop string."""
        return self.is_found

    @property
    def visible(self) -> int:
        """How many bytes of the text come before a stop string, or what may become one."""
        return self.shown
