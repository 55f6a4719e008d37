"""One of the texts that a search considers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast._generate import Matching, Workspace, token_logprob
from gpt2fast.completion import Completion, FinishReason, Timings, TokenLogprob
from gpt2fast.generation.plan import Plan


@dataclass(frozen=True, eq=False)
class Branch:
    """A prompt and what was added to it; `cache` holds all tokens, or all but the last ones."""

    plan: Plan
    tokens: NDArray[np.int32]
    n_prompt: int
    room: int  # for new tokens
    cache: _core.Cache
    score: float = 0.0
    matching: Matching | None = None  # with the stop strings, if there are any
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def n_new(self) -> int:
        """How many tokens were added."""
        return len(self.tokens) - self.n_prompt

    @property
    def pending(self) -> NDArray[np.int32]:
        """The tokens that the cache does not hold."""
        return self.tokens[self.cache.length :]

    def fork(self) -> _core.Cache:
        """Return a copy of the cache, whose pages are shared."""
        return self.plan.engine.watched(self.cache.fork())

    def then(
        self, token: int, score: float, logits: NDArray[np.float32], workspace: Workspace
    ) -> Branch:
        """Return the text with one more token, drawn from these logits; the cache is the same."""
        plan, options, n_new = self.plan, self.plan.options, self.n_new + 1
        matching = self.matching
        reason: FinishReason | None = None
        if token in plan.stop_tokens:
            reason = "stop"
        elif matching is not None:
            matching = matching.after(token, n_new < options.min_new_tokens)
            reason = "stop" if matching.found else None
        if reason is None and n_new == self.room:
            reason = "length"
        logprobs = self.logprobs
        if options.logprobs is not None:
            found = token_logprob(logits, token, options.logprobs, workspace)
            logprobs = [*logprobs, TokenLogprob(token, *found)]
        return Branch(
            plan,
            np.append(self.tokens, np.int32(token)),
            self.n_prompt,
            self.room,
            self.cache,
            score,
            matching,
            reason,
            logprobs,
        )

    @cached_property
    def score_per_length(self) -> float:
        """The score over the number of new tokens to the power of length_penalty."""
        return self.score / power(max(self.n_new, 1), self.plan.options.length_penalty)

    def completion(self, reason: FinishReason, timings: Timings) -> Completion:
        """Return the text as it is; `reason` is why, if it has not ended by itself."""
        tokens: list[int] = self.tokens[self.n_prompt :].tolist()
        data = b"".join(map(self.plan.bytes_of, tokens))
        if self.finish_reason == "stop" and self.matching is not None and self.matching.found:
            data = data[: self.matching.visible]
        return Completion(
            data.decode("utf-8", "replace"),
            tokens,
            self.finish_reason or reason,
            self.tokens[: self.n_prompt].tolist(),
            self.plan.seed,
            timings,
            self.logprobs if self.plan.options.logprobs is not None else None,
            self.score_per_length if self.plan.options.num_beams > 1 else None,
        )


def power(base: int, exponent: float) -> float:
    """Return base to the power of exponent, the same bits on every machine, unlike C's `pow`.

    Squares for the whole part, square roots for the binary digits of the rest.
    """
    whole, result, factor = int(abs(exponent)), 1.0, float(base)
    rest = abs(exponent) - whole
    while whole:
        result *= factor if whole % 2 else 1.0
        factor, whole = factor * factor, whole // 2
    factor = float(base)
    while rest:
        factor, rest = math.sqrt(factor), rest * 2
        if rest >= 1:
            result, rest = result * factor, rest - 1
    return result if exponent >= 0 else 1 / result
