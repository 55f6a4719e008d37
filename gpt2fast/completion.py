"""What generation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


@dataclass(frozen=True)
class Timings:
    """Seconds up to the first new token, and from there to the last one.

    Prompts that are processed together share their time.
    """

    prompt_seconds: float
    decode_seconds: float


class TokenLogprob(NamedTuple):
    """A token, its log-probability, and the likeliest tokens at its place with theirs.

    Natural logarithms of the model's own probabilities: at temperature 1, before any option.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Completion:
    """A text that was generated; `str()` of it is the text.

    `tokens` are all ids that were drawn, with the one that ended the text. `text` is without the
    stop token or string, and empty if the model has no tokenizer. `logprobs` has one entry for each
    of `tokens`, if asked for; `score` is what beam search ranked the text by. The same prompt,
    options and `seed` give the same completion.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    prompt_tokens: list[int] = field(repr=False)
    seed: int
    timings: Timings = field(repr=False, compare=False)
    logprobs: list[TokenLogprob] | None = field(default=None, repr=False)
    score: float | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Chunk:
    """One token of a stream and the text that is certain since the chunk before.

    The texts joined are the text of the completion. The last chunk has the `finish_reason`; its
    `token` is None if the text was ended from outside. `logprob` and `top` are those of the token,
    as in `TokenLogprob`, if `logprobs` was asked for.
    """

    text: str
    token: int | None
    logprob: float | None = None
    finish_reason: FinishReason | None = None
    top: list[tuple[int, float]] | None = None

    def __str__(self) -> str:
        return self.text
