"""One matrix packed, slab by slab on several threads, and what it lost by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_SLAB = 1 << 20  # weights packed at once, so that the copies stay at a few MiB
_ROWS = 64  # of a packed matrix that lie together, in every format

_T = TypeVar("_T")


def pack_matrix(
    weight: NDArray[np.float32], dtype: str, threads: int
) -> tuple[NDArray[np.uint8], float]:
    """Return the packed bytes of [n_out, n_in], C-contiguous, and their error.

    The error is the rms of (packed - given) relative to the rms of the weights, to four digits; 0
    for float32. Neither depends on `threads`. Raises ValueError for a weight that the dtype cannot
    hold.
    """
    from gpt2fast import _core

    n_out, n_in = weight.shape
    rows = max(_ROWS, _SLAB // n_in // _ROWS * _ROWS)
    starts = range(0, n_out, rows)
    packed = np.empty(_core.packed_nbytes(dtype, n_out, n_in), np.uint8)
    row_bytes = _core.packed_nbytes(dtype, _ROWS, n_in) // _ROWS

    def pack_slab(start: int) -> tuple[float, float]:
        slab = weight[start : start + rows]
        part = _core.pack(slab, dtype)
        packed[start * row_bytes :][: part.nbytes] = part
        if dtype == "float32":
            return 0.0, 0.0
        difference = _core.unpack(part, dtype, *slab.shape)
        difference -= slab
        return _squares(slab), _squares(difference)

    with _mapper(min(threads, len(starts))) as apply:
        sums = list(apply(pack_slab, starts))
    squares, difference = (math.fsum(column) for column in zip(*sums, strict=True))
    return packed, float(f"{math.sqrt(difference / squares) if squares else 0.0:.4g}")


def _squares(values: NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


@contextmanager
def _mapper(
    threads: int,
) -> Iterator[Callable[[Callable[[int], _T], Iterable[int]], Iterable[_T]]]:
    """Yield a `map` that runs on so many threads; the core and NumPy let go of the GIL."""
    if threads < 2:
        yield map
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        yield pool.map
