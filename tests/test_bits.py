"""The same bits everywhere: targets, threads, chunks, cache and company do not change one bit of
the logits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from bits import as_on_scalar, assert_same_bits, on_scalar
from core_models import all_logits, build, cache_of
from random_checkpoints import ODD, VARIANTS, random_tensors, random_tokens
from reference import Array

from gpt2fast import _core

DTYPES = ("float32", "float16", "int8")
THREADS = (1, 2, 3, 8)
CHUNKS = (1, 7, 64, 0)
TOKENS = random_tokens(ODD, 300)  # past the first attention block of 256


@cache
def odd_model(dtype: str) -> _core.Model:
    return build(ODD, random_tensors(ODD), dtype)


@cache
def expected(dtype: str) -> Array:
    """The scalar target on one thread, in one chunk: the specification. Called with a target
    forced.
    """
    return on_scalar(lambda: all_logits(odd_model(dtype), TOKENS))


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_chunks(dtype: str, threads: int) -> None:
    """Catches a sum split by thread or by chunk, and a target with another order of operations."""
    for chunk in CHUNKS:
        tokens = TOKENS[: {1: 30, 7: 90}.get(chunk)]
        options = {"threads": threads, "prompt_threads": threads, "chunk": chunk}
        logits = all_logits(odd_model(dtype), tokens, **options)
        assert_same_bits(logits, expected(dtype)[: len(tokens)])


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", ["untied", "unscaled", "inverse_layer_idx", "head_dim_7", "long"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_variants(dtype: str, name: str) -> None:
    """Catches a target that differs from scalar only in some shape."""
    config = VARIANTS[name]
    model = build(config, random_tensors(config), dtype)
    tokens = random_tokens(config, 280)
    as_on_scalar(lambda: all_logits(model, tokens))


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", DTYPES)
def test_cached_equals_uncached(dtype: str) -> None:
    """Catches a step that reads keys and values otherwise than the prompt did."""
    model = odd_model(dtype)
    state = _core.Cache(model, cache_of(dtype))
    rows, start = [], 0
    for length in (250, 1, 1, 5, 1, 1, 1, 33, 1):
        part = TOKENS[start : start + length]
        rows += model.forward([state], [part], [length], threads=2)
        start += length
        assert state.length == start
    assert_same_bits(np.concatenate(rows), expected(dtype)[:start])


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", DTYPES)
def test_company(dtype: str) -> None:
    """Catches a sequence that notices which others are computed beside it, or how many rows are
    asked for.
    """
    model = odd_model(dtype)
    caches = [_core.Cache(model, cache_of(dtype)) for _ in range(9)]
    lengths = [1, 299, 17, 256, 3, 64, 2, 65, 100]
    model.forward(caches[1:], [TOKENS[:n] for n in lengths[1:]], [0] * 8, threads=3)
    nexts = [TOKENS[:1], *(TOKENS[n : n + 1] for n in lengths[1:])]
    got = model.forward(caches, nexts, [1] * 9, threads=2)
    for logits, position in zip(got, [0, *lengths[1:]], strict=True):
        assert_same_bits(logits, expected(dtype)[position : position + 1])
    fresh = [_core.Cache(model, cache_of(dtype)) for _ in range(3)]
    spans = [TOKENS[:70], TOKENS[:1], TOKENS[:290]]
    for logits, n, rows in zip(
        model.forward(fresh, spans, [3, 1, 0], threads=2), (70, 1, 290), (3, 1, 0), strict=True
    ):
        assert logits.shape == (rows, ODD["n_vocab"])
        assert_same_bits(logits, expected(dtype)[n - rows : n])


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", DTYPES)
def test_fork_and_truncate(dtype: str) -> None:
    """Catches a page that two sequences share and one of them writes, or a tail that truncation
    leaves behind.
    """
    model = odd_model(dtype)
    trunk = _core.Cache(model, cache_of(dtype))
    model.forward([trunk], [TOKENS[:100]], [0])
    other = trunk.fork()
    model.forward([other], [TOKENS[::-1][:40].copy()], [0])
    (on,) = model.forward([trunk], [TOKENS[100:140]], [40])
    assert_same_bits(on, expected(dtype)[100:140])
    for length in (100, 65, 64, 63, 1, 0):
        trunk.truncate(length)
        assert trunk.length == length
        (again,) = model.forward([trunk.fork()], [TOKENS[length : length + 9]], [9])
        assert_same_bits(again, expected(dtype)[length : length + 9])
    (branch,) = model.forward([other], [TOKENS[:3]], [3])
    other.truncate(100)
    model.forward([other], [TOKENS[::-1][:40].copy()], [0])
    (same,) = model.forward([other], [TOKENS[:3]], [3])
    assert_same_bits(branch, same)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_tales(dtype: str, tales: tuple[dict[str, object], dict[str, Array]]) -> None:
    """Catches a difference that only trained weights show."""
    if dtype not in TALES:
        model = build(*tales, dtype)
        TALES[dtype] = model, on_scalar(lambda: all_logits(model, TALES_TOKENS))
    model, want = TALES[dtype]
    for threads, chunk in ((1, 0), (2, 1), (3, 7), (8, 64)):
        options = {"threads": threads, "prompt_threads": threads, "chunk": chunk}
        assert_same_bits(all_logits(model, TALES_TOKENS, **options), want)


TALES: dict[str, tuple[_core.Model, Array]] = {}  # each dtype's model and its logits on scalar
TALES_TOKENS = np.random.default_rng(0).integers(0, 4096, 67).astype(np.int32)
