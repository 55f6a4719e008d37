"""Generation: prompts and options in, texts out, by bursts of the native loop."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np

from gpt2fast import _core
from gpt2fast._generate import Sequence, Workspace, now, run
from gpt2fast.completion import Completion, Timings
from gpt2fast.sampling import MAX_NEW_TOKENS, Options, integer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.engine import Engine

TOGETHER = 16  # texts that share a step; more wait for a place


def fresh_seed() -> int:
    """Return a seed from the operating system."""
    return int.from_bytes(os.urandom(8), "little")


class Writing:
    """One text being written: the native sequence, and what of it was handed out."""

    def __init__(
        self,
        engine: Engine,
        prompt: list[int],
        options: Options,
        seed: int,
        *,
        cache: _core.Cache | None = None,
        logits: NDArray[np.float32] | None = None,
    ) -> None:
        """Check what depends on the model; allocate nothing yet.

        A cache that holds the whole prompt comes with the logits of the prompt's last token.
        Raises ValueError if the text could outgrow the context.
        """
        self.engine, self.prompt, self.options, self.seed = engine, prompt, options, seed
        self.room = _room(len(prompt), options.max_new_tokens, engine.config.n_ctx)
        eot = None if options.ignore_eot else engine.eot
        stop_tokens = [*options.stop_tokens] + ([] if eot is None else [eot])
        for token in stop_tokens:
            integer("stop_tokens", token, 0, engine.config.n_vocab - 1)
        self.stop_tokens = frozenset(stop_tokens)
        self.stops = engine.stop_strings(options.stop)
        self._tokenizer = engine.tokenizer if engine.has_tokenizer else None
        self.sequence: Sequence | None = None
        self._cache, self._logits = cache, logits
        self._tokens = np.array(prompt, np.int32)

    def start(self, core: _core.Model) -> Sequence:
        """Allocate and return the native sequence."""
        n = len(self.prompt)
        tokens = np.empty(n + self.room, np.int32)
        tokens[:n] = self.prompt
        self._visible = np.zeros(self.room, np.int64)
        if self._logits is None:
            self._logits = np.empty(self.engine.config.n_vocab, np.float32)
        if self._cache is None:
            self._cache = self.engine.watched(_core.Cache(core, self.engine.cache_dtype))
        options = self.options
        self.sequence = Sequence(
            self._cache,
            tokens,
            n,
            self._logits,
            np.array(sorted(self.stop_tokens), np.int32),
            self._visible,
            self.stops,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            seed=self.seed,
            sample=0,
        )
        self._tokens = tokens  # last: whatever fails before, nothing was drawn
        return self.sequence

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
        if self.stops is None or n_tokens == 0:
            return n_bytes
        return int(self._visible[n_tokens - 1])

    @property
    def ended_from_outside(self) -> bool:
        """Whether it was cancelled or its deadline passed."""
        return self.sequence is not None and self.sequence.finish_reason in (
            "cancelled",
            "deadline",
        )

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token adds to the text: none for a stop token."""
        known = self._tokenizer
        if token in self.stop_tokens or known is None or token >= known.n_vocab:
            return b""
        return known.token_bytes(token)

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
            self.seed,
            Timings(*self.sequence.seconds),
        )

    def release(self) -> None:
        """Let go of the cache and the buffers; `drawn` stays."""
        self._tokens = np.array([*self.prompt, *self.drawn], np.int32)
        self.sequence = self._cache = self._logits = None


def _room(n_prompt: int, max_new_tokens: int | None, n_ctx: int) -> int:
    room = n_ctx - n_prompt
    wanted = min(MAX_NEW_TOKENS, max(room, 1)) if max_new_tokens is None else max_new_tokens
    if wanted > room:
        raise ValueError(
            f"the prompt has {n_prompt} tokens and max_new_tokens is {wanted}: together "
            f"{n_prompt + wanted}, but the context has {n_ctx}"
        )
    return wanted


def complete(engine: Engine, writings: list[Writing], options: Options) -> list[Completion]:
    """Write all texts to their end, many of them together, and return them in order."""
    deadline = now() + options.deadline if options.deadline else 0.0
    core, workspace = engine.core, Workspace(engine.config.n_vocab)
    waiting = iter(enumerate(writings))
    active: dict[int, Sequence] = {}
    done: dict[int, Completion] = {}
    while True:
        while len(active) < TOGETHER and (found := next(waiting, None)) is not None:
            active[found[0]] = found[1].start(core)
        if not active:
            return [done[i] for i in range(len(writings))]
        run(
            core,
            list(active.values()),
            workspace,
            threads=engine.threads,
            prompt_threads=engine.prompt_threads,
            seconds=math.inf,
            cancel=options.cancel,
            deadline=deadline,
        )
        for i in [i for i, sequence in active.items() if sequence.finish_reason is not None]:
            done[i] = writings[i].completion()
            writings[i].release()
            del active[i]
