"""Where in the text the tokens are, and how probable each was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A stretch of text, in UTF-16 units as Qt counts, and its probability given what precedes."""

    start: int
    end: int
    probability: float


def utf16_length(text: str) -> int:
    """Return the units that Qt counts in a text: two for a character beyond U+FFFF."""
    return len(text) + sum(character > "\uffff" for character in text)


def spans(pieces: Iterable[tuple[str, float]]) -> list[Span]:
    """Return the spans of tokens, from the text and the log-probability of each.

    The tokens of one character come as empty texts before the one that has it; they make one span,
    with the product of their probabilities. What has no log-probability (NaN) has no span, and no
    span begins with a space.
    """
    found, end, logprob = [], 0, 0.0
    for text, value in pieces:
        logprob += value
        if not text:
            continue
        word = text.lstrip()
        end += utf16_length(text)
        if word and not math.isnan(logprob):
            found.append(Span(end - utf16_length(word), end, math.exp(logprob)))
        logprob = 0.0
    return found
