"""Alternatives that can be seen growing: written together, a few tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.desktop.prompt import Prompt, joined, whole_words
from gpt2fast.desktop.settings import ALTERNATIVES

if TYPE_CHECKING:
    from gpt2fast.model import Model
    from gpt2fast.sampling import LogitsProcessor
    from gpt2fast.tokenizer import Tokenizer

TOGETHER = 6  # tokens that each alternative grows by between two looks at the screen


@dataclass(frozen=True)
class Offer:
    """One alternative: its tokens, what it puts in at the cursor, the probability of its first
    token, and whether it ended by itself.
    """

    tokens: list[int]
    text: str
    probability: float
    ended: bool = False


def offers(
    model: Model, prompt: Prompt, room: int, first: LogitsProcessor | None, **options: Any
) -> Iterator[list[Offer]]:
    """Yield the alternatives, the likeliest first, again and again as they grow to `room` tokens.

    `first` is a processor for their first tokens. The last ones are complete, unless `cancel`, one
    of the options, was set; then they are what there is, possibly none.
    """
    begun = model.alternatives(
        prompt.tokens,
        ALTERNATIVES,
        max_new_tokens=min(TOGETHER, room),
        min_new_tokens=1,
        logits_processor=first,
        **options,
    )
    grown = [
        Offer(done.tokens, done.text, done.probability, done.finish_reason == "stop")
        for done in sorted(begun, key=lambda done: -done.probability)
    ]
    while True:
        left = room - max((len(offer.tokens) for offer in grown), default=room)
        going = [i for i, offer in enumerate(grown) if not offer.ended]
        over = not left or not going or options["cancel"].is_set()
        yield [_shown(offer, prompt.after_space) for offer in grown]
        if over:
            return
        prompts = [prompt.tokens + grown[i].tokens for i in going]
        more = model.generate(prompts, max_new_tokens=min(TOGETHER, left), **options)
        for i, done in zip(going, more, strict=True):
            ended = done.finish_reason == "stop"
            tokens = grown[i].tokens + done.tokens
            text = model.tokenizer.decode(tokens[: len(tokens) - ended])
            grown[i] = replace(grown[i], tokens=tokens, text=text, ended=ended)


def _shown(offer: Offer, after_space: bool) -> Offer:
    """Return the offer as it would stand in the text."""
    text = offer.text.rstrip("\ufffd")  # half a character, for now
    if not offer.ended:
        text = whole_words(text)
    return replace(offer, text=joined(text, after_space))


class SpaceFirst:
    """A logits processor that lets a text begin only with tokens that begin with a space."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        known = min(n_vocab, tokenizer.n_vocab)
        self._other = np.ones(n_vocab, np.bool_)
        for token in range(known):
            self._other[token] = not tokenizer.token_bytes(token).startswith(b" ")

    def after(self, n_prompt: int) -> LogitsProcessor:
        """Return it for prompts of this many tokens."""

        def process(tokens: NDArray[np.int32], logits: NDArray[np.float32]) -> None:
            if len(tokens) == n_prompt:
                logits[self._other] = -np.inf

        return process
