"""What of the draft the model reads, and what becomes of the words that it writes.

Both ends are chosen so that the prompt of the next request begins as this one's did: the model has
kept what it computed for that beginning, and reads only what is new.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """Token ids; whether a space stands between them and the cursor; how many were left out.

    GPT-2's tokens begin with the space before a word, so a space at the end of a prompt misleads
    it: the space is left out, and the new text is to begin with it.
    """

    tokens: list[int]
    after_space: bool
    n_dropped: int


def reach(n_before: int, n_ctx: int) -> int:
    """Return where the text that is encoded begins, if n_before characters precede the cursor.

    At least 8 characters per token of the context are left, so that all of it can be filled; the
    beginning moves by 4 characters per token at a time.
    """
    step = 4 * n_ctx
    return max(0, (n_before - 2 * step) // step * step)


def prompt_of(text: str, encode: Callable[[str], list[int]], n_ctx: int, room: int) -> Prompt:
    """Return the prompt of a text, for `room` new tokens (at most half of the context).

    What does not fit is dropped at the beginning, a quarter of the context at a time.
    """
    after_space = text.endswith(" ")
    tokens = encode(text[:-1] if after_space else text)
    excess, step = len(tokens) - (n_ctx - room), max(1, n_ctx // 4)
    n_dropped = -(-excess // step) * step if excess > 0 else 0
    return Prompt(tokens[n_dropped:], after_space, n_dropped)


def joined(text: str, after_space: bool) -> str:
    """Return what is put in at the cursor for a new text."""
    return text[1:] if after_space and text.startswith(" ") else text


def whole_words(text: str) -> str:
    """Leave out the last word, which may be half a one, unless there is no other."""
    if not text[-1:].isalnum():
        return text
    return re.sub(r"\s*\S+$", "", text) or text
