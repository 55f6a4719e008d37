"""What is measured: random models of the published sizes, made once, and stacks of their layers."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.random_checkpoints import N_CTX, SIZES, write
from gpt2fast import _core, convert
from gpt2fast.bench.roofline import Work, model_work
from gpt2fast.cache import cache_directory
from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.config import Config
from gpt2fast.loading import load_packed

DTYPES = ("int8", "float16", "float32")
_SEED = 1


class Library:
    """Random checkpoints and their packed files in one folder; made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model: tuple[tuple[str, str], Subject] | None = None

    def checkpoint(self, size: str) -> Path:
        """Return a folder in Hugging Face's layout, of float32."""
        folder = self._folder / f"{size}-{_SEED}"
        if not folder.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f"{size}-", dir=self._folder))
            try:
                write(size, unfinished, _SEED)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    def packed(self, size: str, dtype: str) -> Path:
        """Return a packed file."""
        path = self._folder / f"{size}-{_SEED}-{dtype}.safetensors"
        if not path.exists():
            convert(self.checkpoint(size), path, dtype=dtype)
        return path

    def subject(self, size: str, dtype: str) -> Subject:
        """Return a model to measure; the last one stays open."""
        key = (size, dtype)
        if self._model is None or self._model[0] != key:
            path = self.packed(size, dtype)
            self._model = (key, Subject(load_packed(path), path))
        return self._model[1]


class Subject:
    """A model of the core, and what its calls cost at least."""

    def __init__(self, packed: PackedModel, path: Path) -> None:
        self.path = path
        self._packed = packed
        self.config = packed.config
        self.dtype = packed.dtype
        self.core = _core.Model(packed.config.to_dict(), packed.dtype, packed.tensors)
        self._read: dict[tuple[int, int], _core.Cache] = {}

    def new_cache(self) -> _core.Cache:
        """Return an empty cache of the dtype that goes with the weights."""
        return _core.Cache(self.core, cache_dtype(self.dtype))

    def cache_after(self, start: int, end: int, threads: int) -> _core.Cache:
        """Return a cache that holds these of `tokens`; a fork of what was read before."""
        key = (start, end)
        if key not in self._read:
            self._read[key] = self.new_cache()
            self.forward([self._read[key]], self.tokens(end)[start:], 0, threads)
        return self._read[key].fork()

    def forward(
        self, caches: list[_core.Cache], tokens: NDArray[np.int32], rows: int, threads: int
    ) -> list[NDArray[np.float32]]:
        """Append the same tokens to each cache and return the last `rows` logits of each."""
        n = len(caches)
        return self.core.forward(
            caches, [tokens] * n, [rows] * n, threads=threads, prompt_threads=threads
        )

    def tokens(self, n: int) -> NDArray[np.int32]:
        """Return n random ids; the first ones do not depend on n."""
        return np.random.default_rng(0).integers(0, self.config.n_vocab, n, dtype=np.int32)

    def work(self, n_tokens: int, rows: int, context: float = 0) -> Work:
        """Return what a forward pass moves and computes: see `model_work`."""
        return model_work(self._packed, n_tokens, rows, context)


def cache_dtype(dtype: str) -> str:
    """Return the dtype of the cache that goes with weights of this dtype."""
    return "float32" if dtype == "float32" else "float16"


def cache_bytes(n_head: int, head_dim: int, dtype: str) -> int:
    """Return the bytes of one position's keys and values in one layer."""
    return 2 * n_head * (head_dim + -head_dim % 16) * (2 if dtype == "float16" else 4)


@functools.lru_cache(maxsize=16)
def packed_matrix(n_out: int, n_in: int, dtype: str) -> NDArray[np.uint8]:
    """Return a random matrix as the core stores it."""
    weight = np.random.default_rng(0).standard_normal((n_out, n_in), np.float32)
    return _core.pack(weight * np.float32(0.02), dtype)


def stack(size: str, dtype: str, n_layer: int, *, copies: bool) -> _core.Model:
    """Return layers of a published size under a vocabulary of 64, so that they are all its cost.

    The layers are alike; with `copies` each has weights of its own, otherwise all read the same
    bytes, which then come from a cache.
    """
    _, n_head, n_embd = SIZES[size]
    config = Config(n_layer, n_head, n_embd, N_CTX, 64, 4 * n_embd)
    generator = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {}
    for name, shape in config.tensor_shapes().items():
        if name.startswith("h.") and not name.startswith("h.0."):
            first = tensors["h.0." + name.split(".", 2)[2]]
            tensors[name] = first.copy() if copies else first
        elif len(shape) == 1:
            values = generator.standard_normal(shape, np.float32) * np.float32(0.1)
            tensors[name] = values + np.float32("ln_" in name and name.endswith("weight"))
        elif name == "wpe.weight":
            tensors[name] = generator.standard_normal(shape, np.float32)
        else:
            n_out, n_in = shape if name == "wte.weight" else shape[::-1]
            tensors[name] = packed_matrix(n_out, n_in, dtype)
    return _core.Model(config.to_dict(), dtype, tensors)


def layer_bytes(size: str, dtype: str) -> int:
    """Return the bytes of one layer's matrices."""
    n_embd = SIZES[size][2]
    shapes = ((3 * n_embd, n_embd), (n_embd, n_embd), (4 * n_embd, n_embd), (n_embd, 4 * n_embd))
    return sum(_core.packed_nbytes(dtype, *shape) for shape in shapes)


def distinct_widths(sizes: list[str]) -> list[str]:
    """Return the sizes without those whose layers another one has as well."""
    seen: dict[tuple[int, int], str] = {}
    for size in sizes:
        seen.setdefault(SIZES[size][1:], size)
    return list(seen.values())


def default_folder() -> Path:
    """Return where models are kept unless --model-cache says otherwise."""
    return cache_directory() / "benchmarks"
