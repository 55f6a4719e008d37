# A text being written: its state, and the Python objects that hold it. Included by _generate.pyx.

cdef enum Finish:
    RUNNING
    STOP
    LENGTH
    CANCELLED
    DEADLINE

_REASONS = (None, "stop", "length", "cancelled", "deadline")

cdef struct State:
    gpt2fast_cache* cache                # of the tokens from `start` on
    int32_t* tokens                      # [limit]
    int32_t start                        # the first token in the window, which the context holds
    int32_t stride                       # 0: the text ends in the context
    int32_t n_tokens
    int32_t n_prompt
    int32_t limit
    float* logits                        # [n_vocab], of the last token if the cache holds all
    Filters filters
    const RuleSet* rules                 # NULL if there are none
    void* processor                      # NULL, or the Python callable of the Sequence
    Report report
    uint64_t seed
    uint32_t sample
    const int32_t* stop_tokens
    int32_t n_stop_tokens
    const Automaton* strings             # NULL if there are none
    int32_t* string_states
    int64_t n_bytes                      # of the new text; counted if there are stop strings
    int64_t* visible                     # [limit - n_prompt]: bytes to show after each new token
    int finish
    double started, first_at, last_at    # on the clock of now(); 0 if not reached


cdef class CancelFlag:
    """A flag that ends a call from any thread: pass it as `cancel=`, then call `set()`.

    A text that is being written ends as it is, scoring raises concurrent.futures.CancelledError.
    """

    cdef int32_t value
    cdef list followers                  # weak references to flags that are set with this one
    cdef object __weakref__

    def __cinit__(self) -> None:
        self.followers = []

    def set(self) -> None:
        """End every call that was given this flag, within one token."""
        self.value = 1
        for reference in list(self.followers):
            flag = reference()
            if flag is not None:
                flag.set()

    def _follower(self) -> CancelFlag:
        """Return a flag that is set with this one, and can be set alone."""
        cdef CancelFlag flag = CancelFlag()
        self.followers.append(weakref.ref(flag, self.followers.remove))
        flag.value = self.value          # read after it was told of later ones
        return flag

    def capsule(self) -> object:
        """Return what the core reads; good for as long as the flag is alive."""
        return PyCapsule_New(&self.value, "gpt2fast.cancel", NULL)

    def clear(self) -> None:
        """Allow the flag to be used again."""
        self.value = 0

    def is_set(self) -> bool:
        """Tell whether `set` was called."""
        return self.value != 0


cdef class Workspace:
    """Buffers for one row of logits. Raises ValueError unless it has a token."""

    cdef Scratch scratch
    cdef int32_t n_vocab
    cdef void* memory
    cdef object lock                     # held by the call that uses the buffers

    def __cinit__(self, int32_t n_vocab) -> None:
        if n_vocab < 1:
            raise ValueError("a row of logits has one token at least")
        self.n_vocab, self.lock = n_vocab, threading.Lock()
        self.memory = PyMem_Calloc(7 * <size_t>n_vocab, sizeof(int32_t))
        if self.memory == NULL:
            raise MemoryError
        self.scratch.weights = <float*>self.memory
        self.scratch.ranks = <int32_t*>self.memory + n_vocab
        self.scratch.masses = self.scratch.ranks + n_vocab
        self.scratch.ids = self.scratch.masses + n_vocab
        self.scratch.active = self.scratch.ids + n_vocab
        self.scratch.counts = self.scratch.active + n_vocab
        self.scratch.adjusted = <float*>self.scratch.counts + n_vocab

    def __dealloc__(self) -> None:
        PyMem_Free(self.memory)


cdef class Sequence:
    """A text being written: its tokens, its cache, how to draw and when to stop.

    `tokens` and `visible` are filled in place. The first n_prompt tokens are given; `logits` must
    be those of the last one if the cache holds them all. `processor` is called before each draw
    with the number of tokens and a view of the logits, valid for the time of the call, which it may
    change. The cache holds tokens from `start` on; with a `stride` that is moved by `window_start`
    when the context is full. `logprobs`, and `top_tokens` with `top_logprobs`, are filled with one row for each new
    token. Raises ValueError for lengths that do not fit each other, and for filters out of range.
    """

    cdef State state
    cdef readonly object cache
    cdef int32_t[::1] tokens
    cdef float[::1] logits
    cdef int64_t[::1] visible_bytes
    cdef const int32_t[::1] stop_tokens
    cdef StopStrings stops
    cdef Rules rules
    cdef object processor
    cdef float[::1] logprobs
    cdef int32_t[:, ::1] top_tokens
    cdef float[:, ::1] top_logprobs
    cdef object lock                     # held by the call that writes the text

    def __cinit__(self, cache, int32_t[::1] tokens not None, int32_t n_prompt,
                  float[::1] logits not None, const int32_t[::1] stop_tokens not None,
                  int64_t[::1] visible not None, StopStrings stops, *, double temperature,
                  int32_t top_k, double top_p, double min_p, double typical_p=1,
                  double mirostat_tau=0, double mirostat_eta=0, uint64_t seed, uint32_t sample,
                  int32_t start=0, int32_t stride=0, Rules rules=None, processor=None,
                  float[::1] logprobs=None,
                  int32_t[:, ::1] top_tokens=None, float[:, ::1] top_logprobs=None) -> None:
        cdef State* state = &self.state
        cdef size_t n_bytes
        if not 1 <= n_prompt < tokens.shape[0] <= INT32_MAX:
            raise ValueError("tokens must have room for the prompt and for one more at least")
        if visible.shape[0] < tokens.shape[0] - n_prompt or logits.shape[0] < 1:
            raise ValueError("visible must have room for each new token, logits for a row")
        if not 0 <= start < n_prompt or stride < 0:
            raise ValueError("start must be a token of the prompt, stride 0 or more")
        self.lock = threading.Lock()
        self.cache, self.stops = cache, stops
        state.start, state.stride = start, stride
        self.tokens, self.logits = tokens, logits
        self.stop_tokens, self.visible_bytes = stop_tokens, visible
        state.cache = <gpt2fast_cache*>PyCapsule_GetPointer(cache.capsule(), "gpt2fast.cache")
        state.tokens, state.limit = &tokens[0], tokens.shape[0]
        state.n_tokens = state.n_prompt = n_prompt
        state.logits, state.visible = &logits[0], &visible[0]
        state.filters = checked_filters(temperature, top_k, top_p, min_p, typical_p, mirostat_tau,
                                        mirostat_eta)
        state.seed, state.sample = seed, sample
        state.n_stop_tokens = stop_tokens.shape[0]
        if state.n_stop_tokens:
            state.stop_tokens = &stop_tokens[0]
        if rules is not None:
            if rules.n_vocab > logits.shape[0]:
                raise ValueError("the rules are those of a larger vocabulary")
            self.rules, state.rules = rules, &rules.rules
        if processor is not None:
            if rules is None:
                raise ValueError("a processor comes with rules")
            self.processor, state.processor = processor, <void*>processor
        if logprobs is not None:
            self._report_to(tokens.shape[0] - n_prompt, logprobs, top_tokens, top_logprobs)
        if stops is not None:
            n_bytes = stops.automaton.n_strings * sizeof(int32_t)
            state.string_states = <int32_t*>PyMem_Malloc(n_bytes)
            if state.string_states == NULL:
                raise MemoryError
            memset(state.string_states, 0, n_bytes)
            state.strings = &stops.automaton

    cdef _report_to(self, Py_ssize_t room, float[::1] logprobs, int32_t[:, ::1] tokens,
                    float[:, ::1] top_logprobs):
        cdef Report* report = &self.state.report
        if tokens is None or top_logprobs is None:
            raise ValueError("logprobs go with top_tokens and top_logprobs")
        if (min(logprobs.shape[0], tokens.shape[0], top_logprobs.shape[0]) < room
                or tokens.shape[1] != top_logprobs.shape[1]
                or tokens.shape[1] > self.logits.shape[0]):
            raise ValueError("logprobs must have room for each new token, and the same width")
        self.logprobs, self.top_tokens, self.top_logprobs = logprobs, tokens, top_logprobs
        report.logprobs, report.n_top = &logprobs[0], <int32_t>tokens.shape[1]
        if report.n_top:
            report.top_tokens, report.top_logprobs = &tokens[0, 0], &top_logprobs[0, 0]

    def __dealloc__(self) -> None:
        PyMem_Free(self.state.string_states)

    @property
    def n_tokens(self) -> int:
        """How many tokens there are, the prompt among them."""
        return self.state.n_tokens

    @property
    def start(self) -> int:
        """The first of the tokens that the cache holds."""
        return self.state.start

    @property
    def finish_reason(self) -> str | None:
        """Why the text ended; None while it goes on."""
        return _REASONS[self.state.finish]

    @property
    def mu(self) -> float:
        """The largest surprise, in bits, that mirostat allows the next token."""
        return self.state.filters.mu

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds up to the first new token, and from there to the last."""
        if self.state.first_at == 0:
            return max(self.state.last_at - self.state.started, 0.0), 0.0
        return self.state.first_at - self.state.started, self.state.last_at - self.state.first_at
