"""What the texts of a call have in common: its options, made ready for the native loop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast._generate import now
from gpt2fast.generation.rules import Processing, native_rules
from gpt2fast.ranges import integer, out_of_range
from gpt2fast.sampling import LogitsProcessor, Options

if TYPE_CHECKING:
    from gpt2fast.engine import Engine


class Plan:
    """The options of a call, checked against the model."""

    def __init__(self, engine: Engine, options: Options) -> None:
        """Raise ValueError for what the model does not have; allocate nothing for a text yet."""
        self.engine, self.options = engine, options
        self.seed = fresh_seed() if options.seed is None else options.seed
        n_vocab = engine.config.n_vocab
        eot = None if options.ignore_eot else engine.eot
        stop_tokens = [*options.stop_tokens] + ([] if eot is None else [eot])
        for token in stop_tokens:
            integer("stop_tokens", token, 0, n_vocab - 1)
        self.stop_tokens = frozenset(stop_tokens)
        self.stride = window_stride(options, engine.config.n_ctx)
        self.stops = engine.stop_strings(options.stop)
        self.rules = native_rules(engine, options)
        processors: Any = options.logits_processor  # a tuple, as Options leaves it
        self.processors: tuple[LogitsProcessor, ...] = processors
        if options.logprobs is not None:
            integer("logprobs", options.logprobs, 0, n_vocab)
        self.tokenizer = engine.tokenizer if engine.has_tokenizer else None

    def filters(self) -> dict[str, Any]:
        """Return what the first token of a text is filtered by."""
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        filters = {name: getattr(self.options, name) for name in names}
        return filters | {"mirostat_tau": self.options.mirostat_tau or 0.0}

    def native(self, tokens: NDArray[np.int32]) -> dict[str, Any]:
        """Return how the native sequence that writes to `tokens` draws, and where it stops."""
        options = self.options
        return {
            "stop_tokens": np.array(sorted(self.stop_tokens), np.int32),
            "stops": self.stops,
            **self.filters(),
            "mirostat_eta": options.mirostat_eta,
            "seed": self.seed,
            "stride": self.stride,
            "rules": self.rules,
            "processor": self.processing(tokens),
        }

    def processing(self, tokens: NDArray[np.int32]) -> Processing | None:
        """Return what calls the logits processors of the text in `tokens`; None without any."""
        return Processing(self.processors, tokens) if self.processors else None

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text: none for a stop token."""
        known = self.tokenizer
        if token in self.stop_tokens or known is None or token >= known.n_vocab:
            return b""
        return known.token_bytes(token)

    def deadline(self) -> float:
        """Return when a text that begins now must have ended, on the clock of `now`; 0: never."""
        seconds = self.options.deadline
        return now() + seconds if seconds else 0.0

    def report(self, room: int) -> dict[str, Any]:
        """Return where the log-probabilities of a text go; nothing if they are not asked for."""
        n_top = self.options.logprobs
        if n_top is None:
            return {}
        return {
            "logprobs": np.zeros(room, np.float32),
            "top_tokens": np.zeros((room, n_top), np.int32),
            "top_logprobs": np.zeros((room, n_top), np.float32),
        }


def window_stride(options: Options, n_ctx: int) -> int:
    """Return by how many tokens a full context moves on; 0 if the text ends in it."""
    if options.overflow == "error":
        return 0
    if n_ctx == 1:
        raise out_of_range("overflow", options.overflow, "'error', as the context has one token")
    if options.overflow == "truncate":
        return 1
    return n_ctx // 2 if options.stride is None else integer("stride", options.stride, 1, n_ctx - 1)


def fresh_seed() -> int:
    """Return a seed from the operating system."""
    return int.from_bytes(os.urandom(8), "little")
