"""Cut text before merging: out come the added tokens, then pieces by a tokenizer.json's patterns.

GPT-2's own pattern is not here but in `_bpe`, by hand. Other patterns go through `regex`, which
follows a newer Unicode than tokenizers does: a letter assigned since may fall into another piece.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from gpt2fast.tokenizer.vocabulary import AddedToken, Split

if TYPE_CHECKING:
    import regex

_SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000").union(
    map(chr, range(0x2000, 0x200B))
)
_WORD = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]"


class AddedTokens:
    """Find a set of added tokens in text, as Hugging Face tokenizers does."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        """Take the tokens to look for: of those that start at one place the longest is found.

        Those marked `normalized` are only looked for in what the others leave.
        """
        self._passes: list[tuple[re.Pattern[str], dict[str, AddedToken]]] = []
        ordered = sorted(tokens, key=lambda token: -len(token.content))
        for normalized in (False, True):
            found = {token.content: token for token in ordered if token.normalized == normalized}
            if found:
                self._passes.append((re.compile("|".join(map(re.escape, found))), found))

    def split(self, text: str) -> list[int | str]:
        """Return the text with each added token found in it replaced by its id."""
        parts: list[int | str] = [text]
        for pattern, found in self._passes:
            parts = [
                piece
                for part in parts
                for piece in ([part] if isinstance(part, int) else _find(part, pattern, found))
            ]
        return parts


def _find(text: str, pattern: re.Pattern[str], found: dict[str, AddedToken]) -> Iterator[int | str]:
    done = 0
    for match in pattern.finditer(text):
        token = found[match.group()]
        start, stop = match.span()
        if token.single_word and (
            _is_word(text[start - 1 : start]) or _is_word(text[stop : stop + 1])
        ):
            continue
        while token.lstrip and start > done and text[start - 1] in _SPACES:
            start -= 1
        while token.rstrip and stop < len(text) and text[stop] in _SPACES:
            stop += 1
        if done < start:
            yield text[done:start]
        yield token.id
        done = stop
    if done < len(text):
        yield text[done:]


def _is_word(char: str) -> bool:
    import regex

    return regex.match(_WORD, char) is not None


def pieces(text: str, steps: Iterable[Split]) -> list[str]:
    """Cut `text` by one step after the other; no piece is empty."""
    found = [text] if text else []
    for step in steps:
        found = [piece for part in found for piece in _cut(part, step) if piece]
    return found


@lru_cache(maxsize=64)
def compiled(pattern: str) -> "regex.Pattern[str]":
    """Return the pattern compiled; raise ValueError with it and the reason if it is none."""
    import regex

    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern {pattern!r} is not supported: {error}") from None


def _cut(text: str, step: Split) -> list[str]:
    """Return the pieces of one Split step: matches, what lies between them, or both joined."""
    spans: list[tuple[str, bool]] = []
    done = 0
    for match in compiled(step.pattern).finditer(text):
        start, stop = match.span()
        if done < start:
            spans.append((text[done:start], step.invert))
        if start < stop:
            spans.append((text[start:stop], not step.invert))
        done = stop
    if done < len(text):
        spans.append((text[done:], step.invert))
    if step.behavior == "Removed":
        return [piece for piece, matched in spans if not matched]
    if step.behavior == "Isolated":
        return [piece for piece, _ in spans]
    backwards = step.behavior == "MergedWithNext"
    joined: list[str] = []
    previous: bool | None = None
    for piece, matched in reversed(spans) if backwards else spans:
        joins = matched == previous if step.behavior == "Contiguous" else matched and not previous
        if joins and joined:
            joined[-1] = piece + joined[-1] if backwards else joined[-1] + piece
        else:
            joined.append(piece)
        previous = matched
    return joined[::-1] if backwards else joined
