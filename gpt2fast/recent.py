"""Keys and values of the texts written last: a prompt that begins like one goes on from there.

Whoever edits the end of a long prompt, and asks again at each key, waits for what changed alone.
The results are the same bits: keys and values depend on the tokens up to their position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast.prefixes import LEAST


class _Text(NamedTuple):
    tokens: NDArray[np.int32]  # as many as the cache holds
    cache: _core.Cache


class RecentTexts:
    """The caches of the texts that ended last, as many as `limit` bytes hold.

    For any number of threads, and for signal handlers: what is kept is one tuple that is replaced
    as a whole, so there is no lock to wait for. Of two calls at the same moment one may not find,
    or not keep, a text. What forks share counts for each.
    """

    def __init__(self, limit: int, bytes_of: Callable[[int], int]) -> None:
        """`bytes_of(n)` is what the cache of n tokens takes."""
        self._limit, self._bytes_of = limit, bytes_of
        self._texts: tuple[_Text, ...] = ()  # the latest first
        self._closed = False

    @property
    def caches(self) -> list[_core.Cache]:
        """What is kept."""
        return [text.cache for text in self._texts]

    def begin(self, tokens: NDArray[np.int32], n_tokens: int) -> _core.Cache | None:
        """Return a cache of one's own that holds the first of these tokens, but not the last.

        None if no text that is kept begins so. First makes room for a text of n_tokens.
        """
        texts, lengths = self._matches(tokens[:-1])
        best = max(range(len(texts)), key=lengths.__getitem__, default=0)
        found = None
        if texts and lengths[best] >= LEAST:
            found = _fork(texts[best].cache, lengths[best])
            texts = (texts[best], *texts[:best], *texts[best + 1 :])
        self._replace(texts, n_tokens)
        return found

    def make_room(self, n_tokens: int) -> None:
        """Forget so much that a text of n_tokens and what is kept take the limit together."""
        if self._texts:
            self._replace(self._texts, n_tokens)

    def keep(self, tokens: NDArray[np.int32], cache: _core.Cache) -> None:
        """Keep the cache of these tokens, which nobody uses any more."""
        if len(tokens) < LEAST or cache.nbytes > self._limit:
            return
        texts, lengths = self._matches(tokens)
        # What is the beginning of another text is in that one's cache too.
        others = [text for text, n in zip(texts, lengths, strict=True) if n < len(text.tokens)]
        longer = [text for text, n in zip(texts, lengths, strict=True) if n == len(tokens)]
        first = longer[0] if longer else _Text(tokens, cache)
        self._replace([first, *(text for text in others if text is not first)], 0)

    def close(self) -> None:
        """Forget all, and keep nothing any more."""
        self._closed = True
        self._texts = ()

    def _matches(self, tokens: NDArray[np.int32]) -> tuple[tuple[_Text, ...], list[int]]:
        """Return what is kept now, and with how many of these tokens each begins."""
        texts = self._texts
        return texts, [_common_length(text.tokens, tokens) for text in texts]

    def _replace(self, texts: Iterable[_Text], n_tokens: int) -> None:
        """Keep the first of the texts, as many as there is room for beside one of n_tokens."""
        room, kept = self._limit - self._bytes_of(n_tokens), []
        for text in texts:
            room -= text.cache.nbytes
            if room < 0:
                break
            kept.append(text)
        self._texts = tuple(kept)
        if self._closed:  # meanwhile, by another thread
            self._texts = ()


def _fork(cache: _core.Cache, length: int) -> _core.Cache | None:
    """Return a cache with the first positions; None while another thread takes one."""
    try:
        fork = cache.fork()
    except RuntimeError:
        return None
    fork.truncate(length)
    return fork


def _common_length(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Return how many tokens two texts begin with alike."""
    shorter = min(len(a), len(b))
    different = a[:shorter] != b[:shorter]
    return int(different.argmax()) if different.any() else shorter
