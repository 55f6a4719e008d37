"""The memory that a model takes, in bytes: what it has now, and the limit that `load` keeps."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from gpt2fast.config import Config

CACHE_DTYPES = ("float16", "float32")
PAGE = 64  # positions: what the cache grows by; kPage of csrc/kernels/table.h
_CHUNK, _SPAN, _TILE = 512, 256, 32  # tokens of a prompt's piece; kSpan and kQueryTile

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)B")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes now.

    `weights`: all tensors; `mapped` tells whether they are a file's pages, which processes share
    and the system may drop, or this process's own. `cache_per_token`: keys and values of a token;
    `cache`: of a whole context, as they grow by pages of 64 tokens. `caches`: of all texts alive
    now, sessions and calls; what forks share counts for each; `prefix_cache`: of texts that ended
    and are kept for prompts that begin like them. `workspace`: buffers of one call, as
    large as a prompt makes them; they are kept for the next.
    """

    weights: int
    cache_per_token: int
    cache: int
    mapped: bool = True
    caches: int = 0
    workspace: int = 0
    prefix_cache: int = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """The memory that a model may take, and the options of `load` on which that depends."""

    max_memory: int
    cache_dtype: str | None
    threads: int
    prefix_cache: int = 0

    def check(self, name: object, config: Config, dtype: str, weights: int) -> None:
        """Raise MemoryError, with the parts of the sum, if a model would take more."""
        cache_dtype = self.cache_dtype or default_cache_dtype(dtype)
        # Texts that run make room for themselves among those that are kept.
        cache = max(cache_bytes(config, cache_dtype, config.n_ctx), self.prefix_cache)
        workspace = workspace_bytes(config, dtype, self.threads)
        if weights + cache + workspace > self.max_memory:
            parts = (f"{n_bytes / 1e6:,.1f} MB" for n_bytes in (weights, cache, workspace))
            each = "weights {}, keys and values of {:,} tokens {}, buffers {}"
            needed = each.format(next(parts), config.n_ctx, *parts)
            total = (weights + cache + workspace) / 1e6
            raise MemoryError(
                f"{name} as {dtype} takes {total:,.1f} MB ({needed}); max_memory is "
                f"{self.max_memory / 1e6:,.1f} MB"
            )


def default_cache_dtype(dtype: str) -> str:
    """Return the dtype of the cache that goes with weights of this dtype."""
    return "float32" if dtype == "float32" else "float16"


def check_cache_dtype(cache_dtype: object) -> None:
    """Raise ValueError unless it is the dtype of a cache, or None."""
    if cache_dtype is not None and cache_dtype not in CACHE_DTYPES:
        raise ValueError(f"cache_dtype is {cache_dtype!r}; allowed: {', '.join(CACHE_DTYPES)}")


def cache_bytes(config: Config, cache_dtype: str, n_tokens: int) -> int:
    """Return the bytes of the keys and values of a text, laid out as in csrc/kv_cache.h."""
    width = 2 if cache_dtype == "float16" else 4
    of_position = config.n_layer * config.n_head * (config.head_dim + _up(config.head_dim, 16))
    return of_position * width * _up(n_tokens, PAGE)


def workspace_bytes(config: Config, dtype: str, threads: int) -> int:
    """Return the bytes of a call's buffers: as csrc/workspace.h, and what drawing a token needs."""
    rows = min(_CHUNK, config.n_ctx)
    n_embd, n_inner = _up(config.n_embd, 64), _up(config.n_inner, 64)
    value = 1 + 8 / 64 if dtype == "int8" else 4  # a byte, and scale and sum of 64; or a float
    stream = 3 * 4 * n_embd + value * (n_embd + n_inner)
    blocks = -(-config.n_ctx // _SPAN)
    partial = 16 + _up(config.head_dim, 16)
    scratch = rows * 64 + _TILE * _SPAN + PAGE * _up(config.head_dim, 16) + blocks * _TILE * partial
    partials = blocks * config.n_head * partial
    drawing = 6 * config.n_vocab  # the logits; ranks, weights and the like
    return math.ceil(rows * stream + 4 * (partials + threads * scratch + drawing))


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def parse_size(name: str, value: object, least: int = 1) -> int:
    """Return bytes: an integer, or text such as "2GB", "500 MB" or "1.5GiB".

    Raises ValueError for anything else, and for less than `least`.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match:
        number, unit, binary = match.groups()
        if unit or not binary:
            result = int(float(number) * (1024 if binary else 1000) ** _POWERS[unit])
            if result >= least:
                return result
    elif isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    allowed = f'a number of bytes >= {least}, or text such as "2GB" or "500MiB"'
    raise ValueError(f"{name} is {value!r}; allowed: {allowed}")


def peak_bytes() -> int:
    """Return the most memory this process ever had resident; 0 where that is not known.

    Linux: from /proc, because getrusage counts what the process had that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
