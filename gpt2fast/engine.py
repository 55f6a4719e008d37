"""What every way of using a model shares: the core's model, its tokenizer, its threads."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast._generate import StopStrings
from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.checkpoints.session_file import Kind
from gpt2fast.config import CheckpointError, Config
from gpt2fast.memory import cache_bytes, default_cache_dtype
from gpt2fast.recent import RecentTexts

if TYPE_CHECKING:
    from gpt2fast.tokenizer import Tokenizer


class Engine:
    """A packed model ready to run; models and sessions refer to one."""

    def __init__(
        self,
        packed: PackedModel,
        threads: int,
        prompt_threads: int,
        cache_dtype: str | None,
        prefix_cache: int | None = None,
    ) -> None:
        """`prefix_cache` is in bytes; None is what one whole context takes."""
        self.packed = packed
        self.config = packed.config
        self.threads = threads
        self.prompt_threads = prompt_threads
        self.cache_dtype = cache_dtype or default_cache_dtype(packed.dtype)
        self.chunk = prompt_chunk(packed.config, packed.dtype)
        bytes_of = partial(cache_bytes, packed.config, self.cache_dtype)
        limit = bytes_of(packed.config.n_ctx) if prefix_cache is None else prefix_cache
        self.recent = RecentTexts(limit, bytes_of)
        self._caches: set[weakref.ref[_core.Cache]] = set()
        self._core: _core.Model | None = _core.Model(
            packed.config.to_dict(), packed.dtype, packed.tensors
        )
        self._tokenizer: Tokenizer | None = None
        self._table: tuple[bytes, bytes] | None = None

    @property
    def core(self) -> _core.Model:
        """The core's model. Raises ValueError after `close`."""
        core = self._core
        if core is None:
            raise ValueError("the model is closed")
        return core

    def close(self) -> None:
        """Let go of the weights; a call or stream that goes on keeps the core until it ends."""
        self._core = None
        self.recent.close()
        self.packed.close()

    def new_cache(
        self, n_tokens: int | None = None, core: _core.Model | None = None
    ) -> _core.Cache:
        """Return an empty cache, and make room for so many tokens; None: a whole context.

        A call that may go on after `close` gives the core that it began with.
        """
        self.recent.make_room(self.config.n_ctx if n_tokens is None else n_tokens)
        return self.watched(_core.Cache(core or self.core, self.cache_dtype))

    def watched(self, cache: _core.Cache) -> _core.Cache:
        """Count a cache among those alive, and return it."""
        self._caches.add(weakref.ref(cache, self._caches.discard))
        return cache

    def cache_lengths(self) -> tuple[list[int], list[int]]:
        """Return the tokens in each cache alive, and in each that is kept for prompts to come."""
        kept = self.recent.caches
        found = [reference() for reference in self._caches.copy()]
        alive = [cache for cache in found if cache is not None and cache not in kept]
        return [cache.length for cache in alive], [cache.length for cache in kept]

    @property
    def kind(self) -> Kind:
        """What sessions of the model have in common, also in files."""
        return Kind(self.config, self.packed.fingerprint, self.cache_dtype)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model came with the files of a tokenizer."""
        return self._tokenizer is not None or self.packed.tokenizer_table is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, made on first use.

        Raises ValueError if the model has none, CheckpointError if its table is damaged.
        """
        # No lock, which a fork could leave held: two threads may both make one, and either will do.
        if self._tokenizer is None:
            self._tokenizer = self._read_tokenizer()
        return self._tokenizer

    def _read_tokenizer(self) -> Tokenizer:
        from gpt2fast.tokenizer import Tokenizer

        table = self.packed.tokenizer_table
        if table is None:
            _ = self.core
            raise ValueError(
                "the model has no tokenizer: its checkpoint came without vocab.json and "
                "merges.txt, or tokenizer.json; use token ids"
            )
        where = self.packed.path or self.packed.name
        try:
            tokenizer = Tokenizer.from_table(table)
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        self.config.check_tokenizer(tokenizer.n_vocab, where)
        return tokenizer

    @property
    def eot(self) -> int | None:
        """The id of <|endoftext|>, as the configuration or else the tokenizer has it."""
        if self.config.eot is not None or not self.has_tokenizer:
            return self.config.eot
        return self.tokenizer.eot

    def ids(self, prompt: str | Sequence[int] | NDArray[np.integer]) -> list[int]:
        """Return the token ids of a prompt; none of "" (its caller decides what that means)."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        return check_ids(prompt, self.config.n_vocab)

    def prompt(self, prompt: str | Sequence[int] | NDArray[np.integer]) -> list[int]:
        """Return the token ids to start from: those of the prompt, or <|endoftext|> for ""."""
        ids = self.ids(prompt)
        if ids:
            return ids
        if self.eot is None:
            raise ValueError('the prompt is "" and the model has no <|endoftext|> to start from')
        return [self.eot]

    def stop_strings(self, strings: Sequence[str]) -> StopStrings | None:
        """Return what finds the stop strings; None if there are none."""
        if not strings:
            return None
        table = self.token_table()
        from gpt2fast.tokenizer import well_formed

        return StopStrings([well_formed(string).encode() for string in strings], *table)

    def token_table(self) -> tuple[bytes, bytes]:
        """Return the bytes of all tokens one after the other, and where each begins, as uint32.

        The offsets have one more, the end. Raises as `tokenizer` does.
        """
        if self._table is None:
            tokenizer = self.tokenizer
            tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab)]
            offsets = array("I", accumulate(map(len, tokens), initial=0))
            self._table = b"".join(tokens), offsets.tobytes()
        return self._table


def prompt_chunk(config: Config, dtype: str) -> int:
    """Return how many tokens of a prompt are processed at a time: as many as make no call late.

    Cancel, deadline and Ctrl-C are looked for after each matrix. With so many tokens the largest
    takes some 20 ms on two cores of 2023; fewer would read the weights more often than their
    arithmetic hides.
    """
    operations = 2 * config.n_embd * max(3 * config.n_embd, config.n_inner)  # of a token
    most = (11e9 if dtype == "int8" else 4.5e9) / operations
    return min(max(int(most) // 64 * 64, 64), 512)


def check_ids(tokens: Sequence[int] | NDArray[np.integer], n_vocab: int) -> list[int]:
    """Return token ids as a list. Raises ValueError if there is none or one is out of range."""
    try:
        array = np.asarray(tokens)
    except (ValueError, OverflowError):
        array = np.empty(0, object)
    if array.size == 0 and array.dtype != object:
        raise ValueError('the list of token ids is empty; a text starts from "" or an id')
    if array.ndim != 1 or array.dtype.kind not in "iu":
        got = f"{type(tokens).__name__} of {array.dtype}, {array.ndim} dimensions"
        raise ValueError(f"token ids must be a flat sequence of integers, got {got}")
    wrong = np.flatnonzero((array < 0) | (array >= n_vocab))
    if wrong.size:
        at = int(wrong[0])
        raise ValueError(f"token {at} is {array[at]}; allowed: 0 to {n_vocab - 1}")
    return [int(token) for token in array]
