"""What lies between the linear layers, and whole blocks with all that is fused."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.measure import Measure
from benchmarks.models import cache_bytes, cache_dtype, layer_bytes, stack
from benchmarks.random_checkpoints import SIZES
from gpt2fast import _core
from gpt2fast.bench.roofline import STREAM, Work

pytestmark = pytest.mark.kernel

CONTEXT = 896
PROMPT = 512
ROWS: dict[str, Callable[[NDArray[np.float32]], object]] = {
    "layer_norm": lambda x: _core.layer_norm(x, np.ones_like(x[0]), np.zeros_like(x[0]), 1e-5),
    "gelu_new": lambda x: _core.activation(x, "gelu_new"),
    "quantize": _core.quantize,
    "softmax": lambda x: [_core.exp_sum(row, float(row.max()), 1.0) for row in x],
}


@functools.lru_cache(maxsize=1)
def filled(
    size: str, dtype: str, n_layer: int, threads: int
) -> tuple[_core.Model, _core.Cache, _core.Cache]:
    """Layers that share their weights, an empty cache and one with CONTEXT positions."""
    model = stack(size, dtype, n_layer, copies=False)
    caches = [_core.Cache(model, cache_dtype(dtype)) for _ in range(2)]
    tokens = np.random.default_rng(0).integers(0, 64, CONTEXT, dtype=np.int32)
    model.forward([caches[1]], [tokens], [0], threads=threads, prompt_threads=threads)
    return model, caches[0], caches[1]


@pytest.mark.parametrize("n_tokens", [1, 64])
def test_attention(
    measure: Measure, size: str, n_tokens: int, dtype: str, target: str, threads: int
) -> None:
    """New tokens over a cache of 896 positions, less the same tokens over an empty one.

    The layers share their weights, which stay in a cache; their keys and values come from memory.
    One token is bound by reading these, 64 by arithmetic. Operations are those of the 896
    positions.
    """
    _, n_head, n_embd = SIZES[size]
    per_layer = CONTEXT * cache_bytes(n_head, n_embd // n_head, cache_dtype(dtype))
    n_layer = -(-STREAM // per_layer) if measure.enabled and target != "scalar" else 2
    model, empty, full = filled(size, dtype, n_layer, threads)
    tokens = np.arange(n_tokens, dtype=np.int32)

    def forward(cache: _core.Cache, threads: int = threads) -> NDArray[np.float32]:
        cache.truncate(0 if cache is empty else CONTEXT)
        return model.forward([cache], [tokens], [1], threads=threads, prompt_threads=threads)[0]

    assert np.array_equal(forward(full), forward(full, 1))
    operations = 4 * n_layer * n_tokens * CONTEXT * n_embd
    measure(
        lambda: forward(full),
        Work(n_layer * per_layer, operations),
        threads=threads,
        baseline=lambda: forward(empty),
    )


@pytest.mark.parametrize("n_tokens", [1, PROMPT])
def test_block(
    measure: Measure, size: str, n_tokens: int, dtype: str, target: str, threads: int
) -> None:
    """Whole blocks on an empty cache: the share of a model that has no head and no embedding."""
    if target == "scalar" and n_tokens == PROMPT:
        pytest.skip("scalar is the specification, not for speed")
    one = layer_bytes(size, dtype)
    streamed = measure.enabled and n_tokens == 1
    n_layer = -(-STREAM // one) if streamed else 2
    model = stack(size, dtype, n_layer, copies=streamed)
    cache = _core.Cache(model, cache_dtype(dtype))
    tokens = np.random.default_rng(0).integers(0, 64, n_tokens, dtype=np.int32)

    def forward(threads: int = threads) -> NDArray[np.float32]:
        cache.truncate(0)
        return model.forward([cache], [tokens], [1], threads=threads, prompt_threads=threads)[0]

    assert np.array_equal(forward(), forward(1))
    operations = 2 * n_layer * n_tokens * 12 * SIZES[size][2] ** 2
    measure(forward, Work(n_layer * one, operations, dtype), threads=threads)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", ROWS)
def test_rows(measure: Measure, size: str, name: str) -> None:
    """What is done row by row to a prompt: bytes read once, from a cache, so above 100% is right.

    `_core` copies rows or makes an array besides; one thread.
    """
    x = np.random.default_rng(0).standard_normal((PROMPT, SIZES[size][2]), np.float32)
    whole, last = ROWS[name](x), ROWS[name](x[-1:])
    for a, b in zip(rows_of(whole), rows_of(last), strict=True):
        assert np.array_equal(a[-1], b[-1])
    measure(lambda: ROWS[name](x), Work(x.nbytes))


def rows_of(result: object) -> list[NDArray[np.float32]]:
    """Return the arrays of a result, each [rows, n]."""
    if isinstance(result, list):
        return [np.array([values for values, _ in result])]
    return list(result) if isinstance(result, tuple) else [np.asarray(result)]
