# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True, freethreading_compatible=True, annotation_typing=False
"""The token loop: forward pass, filters, draw and stop tests, many tokens a call without the GIL.

A `Sequence` is a text being written. Its state is its tokens and its cache: tokens that the cache
does not hold yet, the prompt or the token drawn last, go into the next forward pass. So a call that
was cut short is simply called again.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import threading

from gpt2fast import _core

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

include "_api.pxi"
include "_philox.pxi"
include "_sampler.pxi"
include "_stops.pxi"
include "_sequence.pxi"

cdef const gpt2fast_api* api = <const gpt2fast_api*>PyCapsule_GetPointer(
    _core._C_API, "gpt2fast._core._C_API")
if api.version != 1:
    raise ImportError(f"gpt2fast._core has interface {api.version}, not 1: reinstall gpt2fast")

POLL_SECONDS = 0.05
cdef double poll_seconds = POLL_SECONDS

cdef class _Poll:
    """Runs Python's signal handlers on behalf of the loop and keeps what they raise."""

    cdef object raised
    cdef double last


cdef int _poll(void* context) noexcept with gil:
    cdef _Poll poll = <_Poll>context
    poll.last = api.now()
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        poll.raised = error
        return 1
    return 0


cdef void add_token(State* state, int32_t token) noexcept nogil:
    """Append a token, if there is room, and decide whether it ends the text."""
    cdef int32_t i, new = state.n_tokens - state.n_prompt
    if state.n_tokens >= state.limit:
        state.finish = LENGTH
        return
    state.tokens[state.n_tokens] = token
    state.n_tokens += 1
    state.visible[new] = state.visible[new - 1] if new else 0
    for i in range(state.n_stop_tokens):
        if state.stop_tokens[i] == token:
            state.finish = STOP
            state.visible[new] = state.n_bytes
            return
    if state.strings != NULL and ends_text(state.strings, token, state.string_states,
                                           &state.n_bytes, &state.visible[new]):
        state.finish = STOP
    elif state.n_tokens == state.limit:
        state.finish = LENGTH
        state.visible[new] = state.n_bytes


cdef gpt2fast_status step(gpt2fast_model* model, State** states, int32_t n, gpt2fast_span* spans,
                          const gpt2fast_control* control, Scratch* scratch) noexcept nogil:
    """Draw one token for each unfinished sequence, after one forward pass for all that need one."""
    cdef int32_t i, length, token, n_spans = 0, n_vocab = api.n_vocab(model)
    cdef gpt2fast_status status
    cdef State* state
    cdef Kept kept
    cdef uint64_t random
    cdef double now
    for i in range(n):
        state = states[i]
        length = api.cache_length(state.cache)
        if state.finish == RUNNING and length < state.n_tokens:
            spans[n_spans].cache, spans[n_spans].tokens = state.cache, state.tokens + length
            spans[n_spans].n_tokens, spans[n_spans].n_rows = state.n_tokens - length, 1
            spans[n_spans].logits = state.logits
            n_spans += 1
    if n_spans:
        status = api.forward(model, spans, n_spans, control)
        if status != GPT2FAST_OK:
            return status
    for i in range(n):
        state = states[i]
        if state.finish == RUNNING:
            kept = apply_filters(api, state.logits, n_vocab, &state.filters, scratch)
            if kept.n == NO_TOKEN:
                return GPT2FAST_NOT_FINITE
            random = random_bits(state.seed, state.sample, state.n_tokens)
            token = draw(&kept, scratch.masses, random)
            now = api.now()
            state.first_at = state.first_at if state.first_at else now
            state.last_at = now
            add_token(state, token)
    return GPT2FAST_OK


cdef gpt2fast_status burst(gpt2fast_model* model, State** states, int32_t n, gpt2fast_span* spans,
                           const gpt2fast_control* control, Scratch* scratch, double until,
                           double* polled) noexcept nogil:
    """Step until a sequence is finished or the time is over, at least once."""
    cdef gpt2fast_status status = GPT2FAST_OK
    cdef int32_t i
    cdef double now
    cdef uint64_t environment
    while True:
        now = api.now()
        if control.cancel != NULL and control.cancel[0]:
            return GPT2FAST_CANCELLED
        if control.deadline and now >= control.deadline:
            return GPT2FAST_DEADLINE
        if control.poll != NULL and now - polled[0] >= poll_seconds:
            if control.poll(control.poll_context):
                return GPT2FAST_INTERRUPTED
        environment = api.enter_float()
        status = step(model, states, n, spans, control, scratch)
        api.leave_float(environment)
        if status != GPT2FAST_OK or api.now() >= until:
            return status
        for i in range(n):
            if states[i].finish != RUNNING:
                return status


def now() -> float:
    """Return the seconds of the clock that deadlines are given on."""
    return api.now()


cdef _hold(object lock, list held):
    """Take the lock of a sequence or workspace for one call, which releases all that it held."""
    if not lock.acquire(False):
        raise RuntimeError("the text or the workspace is in use by another call")
    held.append(lock)


def run(model, list sequences not None, Workspace workspace not None, *, int32_t threads,
        int32_t prompt_threads, double seconds, CancelFlag cancel=None,
        double deadline=0) -> None:
    """Go on with all unfinished sequences, at least by one token each.

    Returns when one is finished or the seconds are over: call again until all have a
    finish_reason. `model` is a _core.Model. Raises what a signal handler raised, looked for on the
    main thread; FloatingPointError, MemoryError or ValueError if the forward pass failed;
    RuntimeError if another call is using a sequence or the workspace.
    """
    cdef gpt2fast_model* handle = <gpt2fast_model*>PyCapsule_GetPointer(
        model.capsule(), "gpt2fast.model")
    cdef tuple texts = tuple(sequences)  # kept whatever becomes of the list
    cdef Sequence text
    cdef list held = []
    cdef int32_t i, n = len(texts), n_vocab = api.n_vocab(handle)
    if n == 0:
        return
    cdef gpt2fast_span* spans = <gpt2fast_span*>PyMem_Malloc(n * sizeof(gpt2fast_span))
    cdef State** states = <State**>PyMem_Malloc(n * sizeof(void*))
    cdef gpt2fast_control control
    cdef gpt2fast_status status
    cdef _Poll poll = _Poll()
    cdef Finish reason
    try:
        if spans == NULL or states == NULL:
            raise MemoryError
        memset(&control, 0, sizeof(control))
        control.threads, control.prompt_threads = threads, prompt_threads
        control.deadline = deadline
        if cancel is not None:
            control.cancel = &cancel.value
        if threading.current_thread() is threading.main_thread():
            control.poll, control.poll_context = _poll, <void*>poll
        poll.last = api.now()
        _hold(workspace.lock, held)
        for i in range(n):
            text = <Sequence?>texts[i]
            _hold(text.lock, held)
            if min(text.logits.shape[0], workspace.n_vocab) < n_vocab:
                raise ValueError(f"logits and workspace must have room for {n_vocab} tokens")
            states[i] = &text.state
            if states[i].started == 0:
                states[i].started = states[i].last_at = poll.last
        with nogil:
            status = burst(handle, states, n, spans, &control, &workspace.scratch,
                           api.now() + seconds, &poll.last)
        if status == GPT2FAST_CANCELLED or status == GPT2FAST_DEADLINE:
            reason = CANCELLED if status == GPT2FAST_CANCELLED else DEADLINE
            for i in range(n):
                if states[i].finish == RUNNING:
                    states[i].finish, states[i].last_at = reason, api.now()
        elif status != GPT2FAST_OK:
            _raise(status, poll)
    finally:
        for lock in held:
            lock.release()
        PyMem_Free(spans)
        PyMem_Free(states)


cdef _raise(gpt2fast_status status, _Poll poll):
    if status == GPT2FAST_INTERRUPTED:
        raise poll.raised
    if status == GPT2FAST_NOT_FINITE:
        raise FloatingPointError(
            "the model computed a value that is NaN or infinite: its weights are damaged")
    if status == GPT2FAST_OUT_OF_MEMORY:
        raise MemoryError("no memory for the key-value cache or the work space")
    if status == GPT2FAST_BUSY:
        raise RuntimeError("the session is in use by another thread")
    if status == GPT2FAST_NO_THREAD:
        raise RuntimeError("the system refuses to start another thread: ask for fewer threads")
    raise ValueError("a token is outside the vocabulary, or there are more than the context holds")


# One by one, for tests and benchmarks.

cdef Kept _filtered(float[::1] logits, Workspace workspace, double temperature, int32_t top_k,
                    double top_p, double min_p) except *:
    cdef Filters filters = checked_filters(temperature, top_k, top_p, min_p)
    cdef uint64_t environment
    cdef Kept kept
    cdef int32_t n = workspace.n_vocab
    if not 1 <= logits.shape[0] <= n:
        raise ValueError(f"{logits.shape[0]} logits; allowed: 1 to {n}, as the workspace has")
    n = logits.shape[0]
    with nogil:
        environment = api.enter_float()
        kept = apply_filters(api, &logits[0], n, &filters, &workspace.scratch)
        api.leave_float(environment)
    return kept


def filtered(float[::1] logits not None, *, double temperature=1, int32_t top_k=0, double top_p=1,
             double min_p=0) -> dict[int, int]:
    """Return the tokens that the filters keep: {token: integer proportional to its probability}."""
    cdef Workspace workspace = Workspace(logits.shape[0])
    cdef Kept kept = _filtered(logits, workspace, temperature, top_k, top_p, min_p)
    cdef const int32_t* masses = workspace.scratch.masses
    if kept.n == NO_TOKEN:
        raise FloatingPointError("logits must be finite or -infinity, one at least finite")
    return {(i if kept.ids == NULL else kept.ids[i]): masses[i] for i in range(kept.n) if masses[i]}


def sample(float[::1] logits not None, uint64_t random, Workspace workspace=None, *,
           double temperature=1, int32_t top_k=0, double top_p=1, double min_p=0) -> int:
    """Return the token that 64 random bits draw from a row of logits."""
    if workspace is None:
        workspace = Workspace(logits.shape[0])
    cdef Kept kept
    _hold(workspace.lock, [])
    try:
        kept = _filtered(logits, workspace, temperature, top_k, top_p, min_p)
        if kept.n == NO_TOKEN:
            raise FloatingPointError("logits must be finite or -infinity, one at least finite")
        return draw(&kept, workspace.scratch.masses, random)
    finally:
        workspace.lock.release()


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


def scan(StopStrings stops not None, tokens: list[int]) -> tuple[bool, list[int]]:
    """Tell whether these tokens are stopped, and how many bytes may be shown after each."""
    cdef int32_t states[64]
    cdef int64_t n_bytes = 0, visible = 0
    memset(states, 0, sizeof(states))
    if stops.automaton.n_strings > 64:
        raise ValueError("at most 64 strings")
    shown = []
    for token in tokens:
        found = ends_text(&stops.automaton, token, states, &n_bytes, &visible)
        shown.append(visible)
        if found:
            return True, shown
    return False, shown
