"""What is loaded: the engine, what it tells about itself, and how it is closed."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from gpt2fast import _core
from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.config import Config
from gpt2fast.engine import Engine
from gpt2fast.memory import PAGE, Memory, cache_bytes, workspace_bytes

if TYPE_CHECKING:
    from gpt2fast.tokenizer import Tokenizer


class Loaded:
    """A model without what it is for: see `Model`."""

    def __init__(
        self,
        packed: PackedModel,
        *,
        threads: int,
        prompt_threads: int,
        cache_dtype: str | None = None,
        prefix_cache: int | None = None,
    ) -> None:
        """Use `load`, which checks the options."""
        self._engine = Engine(packed, threads, prompt_threads, cache_dtype, prefix_cache)
        self._fingerprint = packed.fingerprint
        self._receipt = packed.receipt
        self._weights = packed.nbytes
        self._dtype = packed.dtype

    @property
    def config(self) -> Config:
        """The shape of the model."""
        return self._engine.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, made on first use. Raises ValueError if the checkpoint had none."""
        return self._engine.tokenizer

    @property
    def dtype(self) -> str:
        """How the weights are stored."""
        return self._dtype

    @property
    def threads(self) -> int:
        """Threads for one token after another."""
        return self._engine.threads

    @property
    def prompt_threads(self) -> int:
        """Threads for prompts."""
        return self._engine.prompt_threads

    @property
    def target(self) -> str:
        """The instruction set whose code runs."""
        return _core.target()

    @property
    def memory(self) -> Memory:
        """What the model takes now."""
        config, engine = self.config, self._engine
        threads = max(engine.threads, engine.prompt_threads)
        alive, kept = engine.cache_lengths()
        return Memory(
            weights=self._weights,
            cache_per_token=cache_bytes(config, engine.cache_dtype, PAGE) // PAGE,
            cache=cache_bytes(config, engine.cache_dtype, config.n_ctx),
            mapped=engine.packed.mapped,
            caches=sum(cache_bytes(config, engine.cache_dtype, n) for n in alive),
            prefix_cache=sum(cache_bytes(config, engine.cache_dtype, n) for n in kept),
            workspace=workspace_bytes(config, self._dtype, threads),
        )

    @property
    def receipt(self) -> Receipt:
        """How the model was made: from which files, with which error of weights and predictions."""
        return self._receipt

    @property
    def fingerprint(self) -> str:
        """The sha256 of the packed data."""
        return self._fingerprint

    def close(self) -> None:
        """Let go of the weights. Whatever is asked of the model later raises ValueError.

        Calls that run in other threads, and streams that are open, go on; the weights stay until
        the last of them ends.
        """
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<gpt2fast.Model {self.dtype} {self._weights:,} bytes, {self.threads} threads>"
