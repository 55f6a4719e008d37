"""Shares of the roof: what a call must move and compute, against what this machine could do.

A call that touches B bytes of memory and makes N operations takes at least

    max(B / read rate, N / rate of the operations)

and its share of the roof is this time over the time it took (Williams, Waterman and Patterson,
"Roofline", 2009). The rates come from `_core.roofs` in the same run, because those of a shared
machine drift by a third within minutes.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2fast import _core
from gpt2fast.bench.cpu_clock import FOREIGN_LIMIT, CpuClock
from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.memory import PAGE, cache_bytes, default_cache_dtype

STREAM = 256 << 20  # bytes; what is read once per so many comes from memory, not from a cache
_ROUNDS = 3
_ATTEMPTS = 3  # to find the CPUs free of others
_FRESH_SECONDS = 0.5  # between two benchmarks one measurement serves both


@dataclass(frozen=True)
class Work:
    """What one call moves and computes at least.

    `bytes` are what the share counts (for a model, its weights, once), `cache_bytes` the keys and
    values that are read besides. `operations` are multiplications and additions; `dtype` is that of
    the weights and tells which rate bounds them.
    """

    bytes: int = 0
    operations: int = 0
    dtype: str = "float32"
    cache_bytes: int = 0


@dataclass(frozen=True)
class Roofs:
    """Bytes and operations per second, at most, of one target on so many threads.

    `disturbed` says that others used the CPUs meanwhile.
    """

    read_anonymous: float
    read_mapped: float
    int8_dot: float
    float32_fma: float
    disturbed: bool

    @property
    def read(self) -> float:
        return max(self.read_anonymous, self.read_mapped)

    def best(self, other: Roofs) -> Roofs:
        """Return the higher one of each rate; what was measured undisturbed if only one was."""
        if self.disturbed != other.disturbed:
            return other if self.disturbed else self
        mine, theirs = asdict(self), asdict(other)
        return Roofs(**{name: max(mine[name], theirs[name]) for name in mine})

    def bound(self, work: Work) -> tuple[float, str]:
        """Return the seconds that the work takes at least, and which roof says so."""
        rate = "int8_dot" if work.dtype == "int8" else "float32_fma"
        bounds = {
            "memory": work.bytes / self.read,
            rate: work.operations / getattr(self, rate),
        }
        name = max(bounds, key=bounds.__getitem__)
        return bounds[name], name


def model_work(packed: PackedModel, n_tokens: int, rows: int, context: float = 0) -> Work:
    """Return the work of a forward pass: every matrix once, the head for `rows` tokens only.

    `operations` are those of the linear layers. `context` is the mean number of positions that
    steps read from their caches.
    """
    c = packed.config
    block = c.n_embd * (4 * c.n_embd + 2 * c.n_inner)
    operations = 2 * (n_tokens * c.n_layer * block + rows * c.n_vocab * c.n_embd)
    matrices = {name: t.nbytes for name, t in packed.tensors.items() if t.ndim == 3}
    if "lm_head.weight" in matrices:
        del matrices["wte.weight"]  # of which a token reads one row
    position = cache_bytes(c, default_cache_dtype(packed.dtype), PAGE) / PAGE
    return Work(sum(matrices.values()), operations, packed.dtype, round(position * context))


class RoofMeter:
    """Measures roofs, and remembers all that it found."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], list[Roofs]] = {}
        self._last: tuple[tuple[str, int, Path | None], float, Roofs] | None = None

    def measure(self, threads: int, path: Path | None) -> Roofs:
        """Measure the active target; `path` is a file whose mapped bytes are read as well."""
        key = (_core.target(), threads, path)
        if (
            self._last
            and self._last[0] == key
            and time.monotonic() - self._last[1] < _FRESH_SECONDS
        ):
            return self._last[2]
        rounds = 1 if key[0] == "scalar" else _ROUNDS  # scalar takes four seconds a round
        mapped = None if path is None else str(path)
        for _ in range(_ATTEMPTS):
            before = CpuClock.now()
            rates = _core.roofs(threads, STREAM >> 20, mapped, rounds)
            disturbed = (before.foreign(CpuClock.now()) or 0.0) > FOREIGN_LIMIT
            if not disturbed:
                break
        roofs = Roofs(**rates, disturbed=disturbed)
        self.found.setdefault(key[:2], []).append(roofs)
        self._last = (key, time.monotonic(), roofs)
        return roofs
