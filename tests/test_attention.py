"""The attention kernel on every target: near the float64 twin, and one recurrence for prompt and
step, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import reference
from bits import EPS, as_on_scalar, assert_same_bits, assert_within
from reference import Array

from gpt2fast import _core

# (positions, queries): one, around the lanes, the pages of 64 and the blocks of 256.
SIZES = [(1, 1), (2, 1), (15, 4), (17, 17), (33, 2), (65, 65), (255, 1), (256, 3), (257, 257)]
SIZES += [(258, 5), (513, 2), (600, 300)]


def random_qkv(
    m: int, n_head: int, head_dim: int, spread: float = 1.0
) -> tuple[Array, Array, Array]:
    """q, k, v of m positions; `spread` sharpens the scores."""
    rng = np.random.default_rng([m, n_head, head_dim])
    q, k, v = rng.standard_normal((3, m, n_head, head_dim)).astype(np.float32)
    return q * np.float32(spread), k, v


def attention_bound(q: Array, k: Array, v: Array, scale: float) -> Array:
    """A score is off by u (head_dim + 3) |q| |k| scale, and by u |score - maximum| when the maximum
    is taken away; so is, relatively, its exponential, besides 2 ulp. Sums over m positions and
    their quotient add u (m + 8).
    """
    u = EPS / 2
    size = np.einsum("qhd,khd->hqk", np.abs(q), np.abs(k)).max(axis=-1).T * scale
    relative = u * ((q.shape[-1] + 3) * size + 2 * size + 4)
    spread = reference.attention(q, k, np.abs(v), scale)
    return np.asarray(spread * (2 * relative[..., None] + u * (len(k) + 8)) + 1e-300)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("cache_dtype", ["float32", "float16"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head_dim", [1, 15, 16, 64])
def test_attention(size: tuple[int, int], head_dim: int, cache_dtype: str) -> None:
    """Catches a wrong mask, scale, block border or padding, and a cache that does not round."""
    m, n = size
    q, k, v = random_qkv(m, 3, head_dim)
    scale = float(np.float32(head_dim**-0.5))
    got = as_on_scalar(lambda: _core.attention(q[m - n :].copy(), k, v, scale, cache_dtype))
    k, v = (reference.through_cache(x, cache_dtype).astype(np.float64) for x in (k, v))
    wide = q[m - n :].astype(np.float64)
    want = reference.attention(wide, k, v, scale)
    assert_within(got, want, attention_bound(wide, k, v, scale))


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("head_dim", [32, 48, 80, 96, 128])
def test_attention_head_dims(head_dim: int) -> None:
    """Catches a tile that only fits heads of 64; scores this sharp leave most weights near zero."""
    q, k, v = random_qkv(70, 2, head_dim, spread=5)
    scale = float(np.float32(head_dim**-0.5))
    got = as_on_scalar(lambda: _core.attention(q, k, v, scale, "float32"))
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    assert_within(got, reference.attention(q, k, v, scale), attention_bound(q, k, v, scale))


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("cache_dtype", ["float32", "float16"])
def test_prompt_equals_step(cache_dtype: str) -> None:
    """Catches a prompt tile that combines blocks otherwise than a step, or sees a future key."""
    q, k, v = random_qkv(530, 2, 20)
    whole = _core.attention(q, k, v, 0.2, cache_dtype)
    for end in (1, 16, 63, 64, 65, 255, 256, 257, 300, 512, 513, 530):
        step = _core.attention(q[end - 1 : end].copy(), k[:end], v[:end], 0.2, cache_dtype)
        assert_same_bits(step, whole[end - 1 : end])
        start = max(0, end - 37)
        part = _core.attention(q[start:end].copy(), k[:end], v[:end], 0.2, cache_dtype)
        assert_same_bits(part, whole[start:end])


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("n", [1, 40])
def test_attention_threads(n: int) -> None:
    """Catches blocks combined in the order in which threads finish."""
    q, k, v = random_qkv(700, 5, 24)
    q = q[-n:].copy()
    one = _core.attention(q, k, v, 0.3, "float16")
    for threads in (2, 3, 8):
        assert_same_bits(_core.attention(q, k, v, 0.3, "float16", threads=threads), one)


@pytest.mark.usefixtures("target")
def test_float16_cache_clips() -> None:
    """Catches a value beyond float16 that becomes infinite, and with it every later result."""
    q, k, v = np.zeros((3, 4, 1, 16), np.float32)
    v[:] = 1e6
    v[2] = -1e6
    got = _core.attention(q, k, v, 1.0, "float16")
    assert got[0].max() == 65504
    assert got[2].max() == pytest.approx(65504 / 3, rel=1e-6)


@pytest.mark.usefixtures("target")
def test_non_finite() -> None:
    """Catches a NaN key that a maximum drops: queries that see it are NaN, no earlier one is."""
    for at in (0, 5, 17, 40):
        q, k, v = random_qkv(41, 1, 16)
        k[at, 0, 3] = np.nan
        got = as_on_scalar(partial(_core.attention, q, k, v, 0.25, "float32"))
        assert np.isfinite(got[:at]).all()
        assert np.isnan(got[at:]).all()


def test_bad_arguments() -> None:
    """Catches more queries than positions, heads that differ, and an unknown cache."""
    q, k, v = random_qkv(4, 2, 8)
    calls: list[Callable[[], object]] = [
        lambda: _core.attention(q, k[:3], v[:3], 1.0),
        lambda: _core.attention(q, k, v[:3], 1.0),
        lambda: _core.attention(q[:, :1], k, v, 1.0),
        lambda: _core.attention(q[:, :, :4], k, v, 1.0),
        lambda: _core.attention(q, k, v, 1.0, "int8"),
        lambda: _core.attention(q, k, v, 1.0, threads=0),
    ]
    for bad in calls:
        with pytest.raises(ValueError, match=r"\w"):
            bad()
