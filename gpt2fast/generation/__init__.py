"""Generation: prompts and options in, texts out, by bursts of the native loop."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast._generate import Sequence, Workspace, run, window_start
from gpt2fast.completion import Completion, Timings, TokenLogprob
from gpt2fast.generation.plan import Plan
from gpt2fast.ranges import out_of_range
from gpt2fast.sampling import MAX_NEW_TOKENS

MAX_ROOM = 1 << 20  # new tokens of a text that may outgrow the context
TOGETHER = 16  # texts that share a step; more wait for a place


class SharedPrompt:
    """The prompt of several texts: the first one processes it, the others take its cache."""

    def __init__(self, n_texts: int) -> None:
        self.ready = False
        self.start = 0  # the first of the tokens in the cache
        self._left = n_texts - 1
        self._state: tuple[_core.Cache, NDArray[np.float32]] | None = None

    def keep(self, state: tuple[_core.Cache, NDArray[np.float32]] | None) -> None:
        """Keep the cache and logits after the prompt; None if its processing was ended."""
        self.ready, self._state = True, state if self._left else None

    @property
    def logits(self) -> NDArray[np.float32] | None:
        """The logits after the prompt, while others are to take them."""
        return None if self._state is None else self._state[1]

    def take(self) -> tuple[_core.Cache | None, NDArray[np.float32] | None]:
        """Return a cache and logits of one's own, if there are any."""
        if self._state is None:
            return None, None
        cache, logits = self._state
        self._left -= 1
        if not self._left:
            self._state = None
        return cache.fork(), logits.copy()


class Writing:
    """One text being written: the native sequence, and what of it was handed out."""

    def __init__(
        self,
        plan: Plan,
        prompt: list[int],
        *,
        cache: _core.Cache | None = None,
        logits: NDArray[np.float32] | None = None,
        start: int = 0,
        sample: int = 0,
        shared: SharedPrompt | None = None,
    ) -> None:
        """Check that the text fits; allocate nothing yet.

        A cache holds tokens of the prompt from `start` on; one that holds the last comes with its
        logits. Raises ValueError if the text could outgrow the context, unless it may.
        """
        self.plan, self.prompt, self.sample = plan, prompt, sample
        self.room = room_for(len(prompt), plan)
        self.sequence: Sequence | None = None
        self._start = start
        self._is_own = False  # the cache: nobody has use for it when the text has ended
        self._shared = shared
        self._cache, self._logits = cache, logits
        self._tokens = np.array(prompt, np.int32)
        self._report: dict[str, Any] = {}  # arrays; empty if log-probabilities are not asked for

    def start(self, core: _core.Model) -> Sequence:
        """Allocate and return the native sequence."""
        n, engine = len(self.prompt), self.plan.engine
        n_ctx = engine.config.n_ctx
        tokens = np.empty(n + self.room, np.int32)
        tokens[:n] = self.prompt
        self._visible = np.zeros(self.room, np.int64)
        self._report = self.plan.report(self.room)
        if self._shared is not None and self.sample:
            self._cache, self._logits = self._shared.take()
            self._start = self._shared.start
        if self._logits is None:
            self._logits = np.empty(engine.config.n_vocab, np.float32)
        if self._cache is None:
            self._start = window_start(n, n_ctx, self.plan.stride)
            self._cache = engine.recent.begin(tokens[self._start : n], min(len(tokens), n_ctx))
            self._cache = self._cache or _core.Cache(core, engine.cache_dtype)
            self._is_own = True
        else:
            engine.recent.make_room(min(len(tokens), n_ctx))
        engine.watched(self._cache)
        self.sequence = Sequence(
            self._cache,
            tokens,
            n,
            self._logits,
            visible=self._visible,
            sample=self.sample,
            start=self._start,
            **self.plan.native(tokens),
            **self._report,
        )
        self._tokens = tokens  # last: whatever fails before, nothing was drawn
        return self.sequence

    @property
    def may_start(self) -> bool:
        """Whether its prompt need not be waited for."""
        return self._shared is None or self.sample == 0 or self._shared.ready

    @property
    def is_waited_for(self) -> bool:
        """Whether others wait for it to process the prompt."""
        return self._shared is not None and self.sample == 0 and not self._shared.ready

    def share(self) -> None:
        """Give the others what its first step made of the prompt."""
        assert self._shared is not None
        cache, logits = self._cache, self._logits
        assert cache is not None and logits is not None
        processed = self.start_of_cache + cache.length == len(self.prompt)
        watched = self.plan.engine.watched
        self._shared.start = self.start_of_cache
        self._shared.keep((watched(cache.fork()), logits.copy()) if processed else None)

    @property
    def start_of_cache(self) -> int:
        """The first of the tokens that the cache holds."""
        return self._start if self.sequence is None else self.sequence.start

    @property
    def drawn(self) -> list[int]:
        """The ids drawn so far."""
        end = len(self._tokens) if self.sequence is None else self.sequence.n_tokens
        tokens: list[int] = self._tokens[len(self.prompt) : end].tolist()
        return tokens

    def new_token(self, i: int) -> int:
        """Return the i-th id that was drawn."""
        return int(self._tokens[len(self.prompt) + i])

    def visible(self, n_tokens: int, n_bytes: int) -> int:
        """Return how many bytes of the first tokens, n_bytes altogether, may be shown."""
        if self.plan.stops is None or n_tokens == 0:
            return n_bytes
        return int(self._visible[n_tokens - 1])

    def logprob(self, i: int) -> TokenLogprob | None:
        """Return the log-probability of the i-th new token, if it was asked for."""
        if not self._report:
            return None
        tokens, logprobs = self._report["top_tokens"][i], self._report["top_logprobs"][i]
        top = list(zip(tokens.tolist(), logprobs.tolist(), strict=True))
        return TokenLogprob(self.new_token(i), float(self._report["logprobs"][i]), top)

    def logprobs(self, n_tokens: int) -> list[TokenLogprob] | None:
        """Return the log-probabilities of the first new tokens, if they were asked for."""
        found = map(self.logprob, range(n_tokens)) if self._report else None
        return None if found is None else [logprob for logprob in found if logprob is not None]

    @property
    def ended_from_outside(self) -> bool:
        """Whether it was cancelled or its deadline passed."""
        return self.sequence is not None and self.sequence.finish_reason in (
            "cancelled",
            "deadline",
        )

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token adds to the text: none for a stop token."""
        return self.plan.bytes_of(token)

    def completion(self) -> Completion:
        """Return the finished text."""
        assert self.sequence is not None
        tokens = self.drawn
        data = b"".join(map(self.bytes_of, tokens))
        if not self.ended_from_outside:
            data = data[: self.visible(len(tokens), len(data))]
        return Completion(
            data.decode("utf-8", "replace"),
            tokens,
            self.sequence.finish_reason,
            self.prompt,
            self.plan.seed,
            Timings(*self.sequence.seconds),
            self.logprobs(len(tokens)),
        )

    def release(self) -> None:
        """Let go of the cache and the buffers; `drawn` stays."""
        self._tokens = np.array([*self.prompt, *self.drawn], np.int32)
        self._start = self.start_of_cache
        if self._is_own and self._cache is not None and self.sample == 0:
            held = self._tokens[self._start : self._start + self._cache.length]
            self.plan.engine.recent.keep(held, self._cache)
        self.sequence = self._cache = self._logits = None


def room_for(n_prompt: int, plan: Plan) -> int:
    """Return the number of new tokens that there must be room for."""
    options, n_ctx = plan.options, plan.engine.config.n_ctx
    room, wanted = n_ctx - n_prompt if plan.stride == 0 else MAX_ROOM, options.max_new_tokens
    least = max(options.min_new_tokens, len(options.forced_tokens), 1)
    if wanted is None:
        wanted = max(min(MAX_NEW_TOKENS, room), least)
    if wanted <= room:
        return wanted
    name = "max_new_tokens"
    if options.max_new_tokens is None and wanted > 1:
        name = "min_new_tokens" if wanted == options.min_new_tokens else "forced_tokens"
    if plan.stride:
        raise out_of_range(name, wanted, f"{room} tokens at most")
    raise ValueError(
        f"the prompt has {n_prompt} tokens and {name} is {wanted}: together "
        f"{n_prompt + wanted}, but the context has {n_ctx}"
    )


def complete(
    plan: Plan,
    writings: list[Writing],
    *,
    core: _core.Model | None = None,
    deadline: float | None = None,
) -> list[Completion]:
    """Write all texts to their end, many of them together, and return them in order.

    The first ones may have begun, with this core; None: the engine's. `deadline` is on the clock of
    `now`; None: as the options say, from now on.
    """
    deadline = plan.deadline() if deadline is None else deadline
    core, workspace = core or plan.engine.core, Workspace(plan.engine.config.n_vocab)
    waiting = deque(enumerate(writings))
    active: dict[int, Sequence] = {}
    done: dict[int, Completion] = {}
    while True:
        while waiting and len(active) < TOGETHER and waiting[0][1].may_start:
            i, writing = waiting.popleft()
            active[i] = writing.sequence or writing.start(core)
        if not active:
            return [done[i] for i in range(len(writings))]
        waited_for = [writings[i] for i in active if writings[i].is_waited_for]
        seconds = 0.0 if waited_for else math.inf  # one step
        advance(plan, core, list(active.values()), workspace, seconds, deadline)
        for writing in waited_for:
            writing.share()
        for i in [i for i, sequence in active.items() if sequence.finish_reason is not None]:
            done[i] = writings[i].completion()
            writings[i].release()
            del active[i]


def advance(
    plan: Plan,
    core: _core.Model,
    sequences: list[Sequence],
    workspace: Workspace,
    seconds: float,
    deadline: float,
) -> None:
    """Go on with texts for some seconds, by one token each at least; see `_generate.run`."""
    run(
        core,
        sequences,
        workspace,
        threads=plan.engine.threads,
        prompt_threads=plan.engine.prompt_threads,
        chunk=plan.engine.chunk,
        seconds=seconds,
        cancel=plan.options.cancel,
        deadline=deadline,
    )
