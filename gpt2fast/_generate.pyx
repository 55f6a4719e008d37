# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True, freethreading_compatible=True, annotation_typing=False
"""The token loop: forward pass, filters, draw and stop tests, many tokens a call without the GIL.

A `Sequence` is a text being written. Its state is its tokens and its cache: tokens that the cache
does not hold yet, the prompt or the token drawn last, go into the next forward pass. So a call that
was cut short is simply called again.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, sqrtf
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import threading
import weakref

from gpt2fast import _core

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

include "_api.pxi"
include "_philox.pxi"
include "_select.pxi"
include "_sampler.pxi"
include "_rules.pxi"
include "_logprobs.pxi"
include "_stops.pxi"
include "_sequence.pxi"

cdef const gpt2fast_api* api = <const gpt2fast_api*>PyCapsule_GetPointer(
    _core._C_API, "gpt2fast._core._C_API")
if api.version != 2:
    raise ImportError(f"gpt2fast._core has interface {api.version}, not 2: reinstall gpt2fast")

cdef enum:                               # how a step may end, besides gpt2fast_status
    RAISED = 100                         # a Python processor raised
    NO_CHOICE = 101                      # the rules leave no token

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


cdef int32_t first_kept(int32_t n_tokens, int32_t n_ctx, int32_t stride) noexcept nogil:
    """Return the first token that is kept of a text, see `window_start`."""
    if stride == 0 or n_tokens < n_ctx:
        return 0
    return (n_tokens - n_ctx + stride) // stride * stride


cdef void add_token(State* state, int32_t token) noexcept nogil:
    """Append a token, if there is room, and decide whether it ends the text."""
    cdef int32_t i, new = state.n_tokens - state.n_prompt
    cdef bint too_early
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
    too_early = state.rules != NULL and new + 1 < state.rules.min_new_tokens
    if state.strings != NULL and ends_text(state.strings, token, too_early, state.string_states,
                                           &state.n_bytes, &state.visible[new]):
        state.finish = STOP
    elif state.n_tokens == state.limit:
        state.finish = LENGTH
        state.visible[new] = state.n_bytes


cdef int _process(State* state, Scratch* scratch, int32_t n_vocab, void* context) noexcept with gil:
    """Let the Python callable of a text change the logits; tell whether it raised."""
    cdef _Poll poll = <_Poll>context
    api.leave_float(scratch.environment)  # Python rounds as its host does
    try:
        (<object>state.processor)(state.n_tokens, <float[:n_vocab]>scratch.adjusted)
    except BaseException as error:
        poll.raised = error
        return 1
    finally:
        scratch.environment = api.enter_float()
    return 0


cdef int choose(State* state, int32_t n_vocab, Scratch* scratch, void* context,
                int32_t* token) noexcept nogil:
    """Draw a token from the logits of a text."""
    cdef const float* logits = state.logits
    cdef int32_t position, n_new = state.n_tokens - state.n_prompt
    cdef Kept kept
    if state.rules != NULL:
        if has_nan_or_infinity(logits, n_vocab):
            return GPT2FAST_NOT_FINITE
        if n_new < state.rules.n_forced:
            token[0] = state.rules.forced[n_new]
            return GPT2FAST_OK
        memcpy(scratch.adjusted, logits, n_vocab * sizeof(float))
        logits = scratch.adjusted
        adjust(state.rules, state.tokens, state.n_tokens, n_new, state.stop_tokens,
               state.n_stop_tokens, scratch.adjusted, n_vocab, scratch.counts)
        if state.processor != NULL and _process(state, scratch, n_vocab, context):
            return RAISED
    kept = apply_filters(api, logits, n_vocab, &state.filters, scratch)
    if kept.n == NO_TOKEN:
        return GPT2FAST_NOT_FINITE if logits == state.logits else NO_CHOICE
    position = draw(&kept, scratch.masses, random_bits(state.seed, state.sample, state.n_tokens))
    token[0] = token_at(&kept, position)
    if state.filters.tau > 0:
        observe(api, &state.filters, kept.total, scratch.masses[position])
    return GPT2FAST_OK


cdef int step(gpt2fast_model* model, State** states, int32_t n, gpt2fast_span* spans,
              const gpt2fast_control* control, Scratch* scratch) noexcept nogil:
    """Draw one token for each unfinished sequence, after one forward pass for all that need one."""
    cdef int32_t i, kept, length, token, n_spans = 0
    cdef int32_t n_vocab = api.n_vocab(model), n_ctx = api.n_ctx(model)
    cdef int status
    cdef State* state
    cdef double now
    for i in range(n):
        state = states[i]
        if state.finish != RUNNING:
            continue
        kept = first_kept(state.n_tokens, n_ctx, state.stride)
        if kept != state.start:
            state.start = kept
            api.cache_truncate(state.cache, 0)
        length = state.start + api.cache_length(state.cache)
        if length < state.n_tokens:
            spans[n_spans].cache, spans[n_spans].tokens = state.cache, state.tokens + length
            spans[n_spans].n_tokens, spans[n_spans].n_rows = state.n_tokens - length, 1
            spans[n_spans].logits, spans[n_spans].hidden = state.logits, NULL
            n_spans += 1
    if n_spans:
        status = api.forward(model, spans, n_spans, control)
        if status != GPT2FAST_OK:
            return status
    for i in range(n):
        state = states[i]
        if state.finish == RUNNING:
            status = choose(state, n_vocab, scratch, control.poll_context, &token)
            if status != GPT2FAST_OK:
                return status
            if state.report.logprobs != NULL and state.n_tokens < state.limit:
                report(api, state.logits, n_vocab, token, state.n_tokens - state.n_prompt,
                       &state.report, scratch.weights)
            now = api.now()
            state.first_at = state.first_at if state.first_at else now
            state.last_at = now
            add_token(state, token)
    return GPT2FAST_OK


cdef int burst(gpt2fast_model* model, State** states, int32_t n, gpt2fast_span* spans,
               const gpt2fast_control* control, Scratch* scratch, double until,
               double* polled) noexcept nogil:
    """Step until a sequence is finished or the time is over, at least once."""
    cdef int status
    cdef int32_t i
    cdef double now
    while True:
        now = api.now()
        if control.cancel != NULL and control.cancel[0]:
            return GPT2FAST_CANCELLED
        if control.deadline and now >= control.deadline:
            return GPT2FAST_DEADLINE
        if control.poll != NULL and now - polled[0] >= poll_seconds:
            if control.poll(control.poll_context):
                return GPT2FAST_INTERRUPTED
        scratch.environment = api.enter_float()
        status = step(model, states, n, spans, control, scratch)
        api.leave_float(scratch.environment)
        if status != GPT2FAST_OK or api.now() >= until:
            return status
        for i in range(n):
            if states[i].finish != RUNNING:
                return status


def window_start(n_tokens: int, n_ctx: int, stride: int) -> int:
    """Return the first token that a text of n_tokens keeps, to draw the next one from.

    That is 0 until the context is full, n_tokens = n_ctx; the oldest `stride` tokens are dropped
    then, as often as there must be. A text without stride, 0, keeps all.
    """
    return first_kept(n_tokens, n_ctx, stride)


def now() -> float:
    """Return the seconds of the clock that deadlines are given on."""
    return api.now()


cdef _hold(object lock, list held):
    """Take the lock of a sequence or workspace for one call, which releases all that it held."""
    if not lock.acquire(False):
        raise RuntimeError("the text or the workspace is in use by another call")
    held.append(lock)


cdef gpt2fast_control _control(_Poll poll, int32_t threads, int32_t prompt_threads, int32_t chunk,
                               CancelFlag cancel, double deadline):
    """Return how a call computes and what ends it; poll and cancel must outlive it."""
    cdef gpt2fast_control control
    memset(&control, 0, sizeof(control))
    control.threads, control.prompt_threads = threads, prompt_threads
    control.chunk, control.deadline = chunk, deadline
    if cancel is not None:
        control.cancel = &cancel.value
    control.poll_context = <void*>poll
    if threading.current_thread() is threading.main_thread():
        control.poll = _poll
    poll.last = api.now()
    return control


def run(model, list sequences not None, Workspace workspace not None, *, int32_t threads,
        int32_t prompt_threads, double seconds, int32_t chunk=0, CancelFlag cancel=None,
        double deadline=0) -> None:
    """Go on with all unfinished sequences, at least by one token each.

    Returns when one is finished or the seconds are over: call again until all have a
    finish_reason. `model` is a _core.Model. Raises what a processor raised, or a signal handler,
    looked for on the main thread; FloatingPointError, MemoryError or ValueError if the forward pass
    failed; ValueError if the rules leave no token; RuntimeError if another call is using a sequence
    or the workspace.
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
    cdef _Poll poll = _Poll()
    cdef gpt2fast_control control = _control(poll, threads, prompt_threads, chunk, cancel, deadline)
    cdef int status
    cdef Finish reason
    try:
        if spans == NULL or states == NULL:
            raise MemoryError
        _hold(workspace.lock, held)
        for i in range(n):
            text = <Sequence?>texts[i]
            _hold(text.lock, held)
            if min(text.logits.shape[0], workspace.n_vocab) < n_vocab:
                raise ValueError(f"logits and workspace must have room for {n_vocab} tokens")
            states[i] = &text.state
            if text.state.stride >= api.n_ctx(handle):
                raise ValueError("the stride must be less than the context")
            if text.rules is not None and text.rules.n_vocab != n_vocab:
                raise ValueError(f"the rules are not those of a vocabulary of {n_vocab}")
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


cdef _raise(int status, _Poll poll):
    if status == GPT2FAST_INTERRUPTED or status == RAISED:
        raise poll.raised
    if status == NO_CHOICE:
        raise ValueError("the options rule out every token that could come next")
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


include "_search.pxi"
include "_single.pxi"
