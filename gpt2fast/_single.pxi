# The parts of a step one by one, for tests and benchmarks. Included by _generate.pyx.

cdef Kept _filtered(float[::1] logits, Workspace workspace, dict options) except *:
    cdef Filters filters = checked_filters(
        options.pop("temperature", 1), options.pop("top_k", 0), options.pop("top_p", 1),
        options.pop("min_p", 0), options.pop("typical_p", 1), options.pop("mirostat_tau", 0), 0)
    cdef uint64_t environment
    cdef Kept kept
    cdef int32_t n = workspace.n_vocab
    if options:
        raise TypeError(f"not a filter: {', '.join(options)}")
    if not 1 <= logits.shape[0] <= n:
        raise ValueError(f"{logits.shape[0]} logits; allowed: 1 to {n}, as the workspace has")
    n = logits.shape[0]
    with nogil:
        environment = api.enter_float()
        kept = apply_filters(api, &logits[0], n, &filters, &workspace.scratch)
        api.leave_float(environment)
    if kept.n == NO_TOKEN:
        raise FloatingPointError("logits must be finite or -infinity, one at least finite")
    return kept


def filtered(float[::1] logits not None, **options) -> dict[int, int]:
    """Return the tokens that the filters keep: {token: integer proportional to its probability}.

    mirostat_tau is half of the surprise that is allowed, as for the first token of a text.
    """
    cdef Workspace workspace = Workspace(logits.shape[0])
    cdef Kept kept = _filtered(logits, workspace, options)
    cdef const int32_t* masses = workspace.scratch.masses
    return {token_at(&kept, i): masses[i] for i in range(kept.n) if masses[i]}


def sample(float[::1] logits not None, uint64_t random, Workspace workspace=None,
           **options) -> int:
    """Return the token that 64 random bits draw from a row of logits."""
    if workspace is None:
        workspace = Workspace(logits.shape[0])
    cdef Kept kept
    _hold(workspace.lock, [])
    try:
        kept = _filtered(logits, workspace, options)
        return token_at(&kept, draw(&kept, workspace.scratch.masses, random))
    finally:
        workspace.lock.release()


def adjusted(float[::1] logits not None, Rules rules not None, const int32_t[::1] tokens not None,
             int32_t n_new, const int32_t[::1] stop_tokens not None) -> list[float]:
    """Return logits as the rules leave them after these tokens, the last n_new of them new."""
    cdef Workspace workspace = Workspace(logits.shape[0])
    cdef int32_t n = logits.shape[0]
    cdef const int32_t* stops = &stop_tokens[0] if stop_tokens.shape[0] else NULL
    cdef uint64_t environment
    if rules.n_vocab != n or tokens.shape[0] < 1:
        raise ValueError("logits, rules and tokens do not fit each other")
    memcpy(workspace.scratch.adjusted, &logits[0], n * sizeof(float))
    with nogil:
        environment = api.enter_float()
        adjust(&rules.rules, &tokens[0], <int32_t>tokens.shape[0], n_new, stops,
               <int32_t>stop_tokens.shape[0], workspace.scratch.adjusted, n,
               workspace.scratch.counts)
        api.leave_float(environment)
    if any(workspace.scratch.counts[i] for i in range(n)):
        raise AssertionError("the counts are not 0")
    return [workspace.scratch.adjusted[i] for i in range(n)]


def likeliest(const float[::1] logits not None, int32_t k) -> list[int]:
    """Return the k tokens with the highest logits in order, between equal ones by id."""
    cdef Workspace workspace = Workspace(logits.shape[0])
    cdef int32_t n = workspace.n_vocab
    if not 0 <= k <= n:
        raise ValueError(f"k is {k}; allowed: 0 to {n}")
    top_tokens(&logits[0], n, k, workspace.scratch.ids)
    return [workspace.scratch.ids[i] for i in range(k)]


def random(uint64_t seed, uint32_t sample, uint32_t position) -> int:
    """Return the 64 bits that draw the token at a position of a text, in one sample of a seed."""
    return random_bits(seed, sample, position)


def philox4x32(counter: tuple[int, int, int, int],
               key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the Philox4x32-10 block of a counter under a key."""
    cdef uint32_t block[4]
    for i in range(4):
        block[i] = counter[i]
    philox(block, key[0], key[1])
    return block[0], block[1], block[2], block[3]


def scan(StopStrings stops not None, tokens: list[int],
         n_early: int = 0) -> tuple[bool, list[int]]:
    """Tell whether these tokens are stopped, and how many bytes may be shown after each.

    The first n_early come too early to be stopped.
    """
    cdef int32_t states[64]
    cdef int64_t n_bytes = 0, visible = 0
    memset(states, 0, sizeof(states))
    if stops.automaton.n_strings > 64:
        raise ValueError("at most 64 strings")
    shown = []
    for token in tokens:
        found = ends_text(&stops.automaton, token, n_early > 0, states, &n_bytes, &visible)
        n_early -= 1
        shown.append(visible)
        if found:
            return True, shown
    return False, shown
