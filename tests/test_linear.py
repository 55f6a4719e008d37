"""Packing, quantising and the linear kernel, every dtype on every target. int8 is fixed bit by bit:
`==`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import reference_formats
from bits import EPS, as_on_scalar, assert_same_bits, assert_within, misaligned
from reference import Array

from gpt2fast import _core

DTYPES = ("float32", "float16", "int8")
# (n_out, n_in): around the blocks of 64 outputs and inputs, and the 4 inputs that lie side by side.
SHAPES = [(1, 1), (3, 5), (63, 63), (64, 64), (65, 66), (130, 67), (48, 191), (200, 320), (67, 1)]
ROWS = (1, 2, 3, 5, 8, 17, 33)


def random_matrix(n_out: int, n_in: int, seed: int = 0) -> Array:
    """Normal weights with one outlier, as GPT-2 has them."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((n_out, n_in)).astype(np.float32)
    weight[n_out // 2, n_in // 3] *= 40
    return weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_pack_bytes(dtype: str, shape: tuple[int, int]) -> None:
    """Catches any byte of a packed matrix that differs from the layout in the design."""
    weight = random_matrix(*shape)
    want = reference_formats.pack(weight, dtype)
    got = _core.pack(weight, dtype)
    assert got.dtype == np.uint8
    assert tuple(_core.packed_shape(dtype, *shape)) == want.shape
    assert _core.packed_nbytes(dtype, *shape) == want.nbytes == got.nbytes
    assert got.tobytes() == want.tobytes()
    back = _core.unpack(got, dtype, *shape)
    assert_same_bits(back, reference_formats.dequantize(weight, dtype))


def test_pack_int8_corners() -> None:
    """Catches scales at float16's edges: zero, lost to zero, subnormal (where q is clamped), the
    largest.
    """
    weight = np.zeros((6, 64), np.float32)
    weight[1, :3] = [3.7e-6, -3.7e-6, 1e-6]
    weight[2, :3] = [1e-5, -1e-5, 3e-7]
    weight[3, :3] = [5e-4, -2.5e-4, 1e-6]
    weight[4, :3] = [127 * 65504.0, -1, 65504.0]
    weight[5, :] = np.float32(-0.0)
    got = _core.pack(weight, "int8")
    assert got.tobytes() == reference_formats.pack(weight, "int8").tobytes()
    scales = got[4096:].view(np.float16)
    assert scales[0] == scales[1] == 0
    assert 0 < scales[2] < np.finfo(np.float16).tiny
    assert scales[4] == 65504
    assert got[:4096].min() >= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 127 * 70000.0])
def test_pack_refuses(bad: float) -> None:
    """Catches a weight that no scale can carry being stored as something else."""
    weight = np.ones((2, 70), np.float32)
    weight[1, 66] = bad
    with pytest.raises(ValueError, match=r"int8|finite|float16"):
        _core.pack(weight, "int8")


def quantize_rows() -> Array:
    """Ties, signs, extremes, rows of zeros, blocks around the limit below which all is zero."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((12, 130)).astype(np.float32)
    x[1] = 0
    x[2] *= np.float32(1e-31)
    x[3] = np.float32(1e-30)
    x[4] = np.nextafter(np.float32(1e-30), np.float32(0))
    x[5, :64] = np.arange(64) - 31.5
    x[5, 0] = 127
    x[6, :64] = -x[5, :64]
    x[7] *= np.float32(1e37)
    x[8, 64:] = -0.0
    x[9] = np.float32(-3e38)
    x[10] = np.float32(2.0**-126)
    x[11, ::2] *= 1000
    return x


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("d", [1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 130])
def test_quantize(d: int) -> None:
    """Catches a scale or a byte that is not round-to-even of the float32 quotient."""
    x = np.ascontiguousarray(quantize_rows()[:, :d])
    want_q, want_scale = reference_formats.quantize(x)
    got_q, got_scale = _core.quantize(misaligned(x))
    assert got_q.dtype == np.int8
    assert got_q.tolist() == want_q.tolist()
    assert_same_bits(got_scale, want_scale)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_quantize_non_finite(bad: float) -> None:
    """Catches a NaN that a maximum drops, whichever lane it stands in."""
    for at in range(70):
        x = np.ones((2, 70), np.float32)
        x[1, at] = bad
        _, scale = _core.quantize(x)
        assert np.isfinite(scale[0]).all()
        assert not np.isfinite(scale[1, at // 64])


def run_linear(x: Array, weight: Array, dtype: str, bias: Array | None, threads: int = 1) -> Array:
    packed = _core.pack(weight, dtype)
    y: Array = _core.linear(x, packed, dtype, len(weight), bias, threads=threads)
    return y


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_int8_exactly(shape: tuple[int, int], rows: int) -> None:
    """Catches any departure from the contract's int8 product: order, fusion, rounding, bias,
    padding.
    """
    rng = np.random.default_rng(rows)
    weight = random_matrix(*shape, seed=rows)
    x = rng.standard_normal((rows, shape[1])).astype(np.float32)
    x[0] *= 50
    bias = rng.standard_normal(shape[0]).astype(np.float32)
    q, scale = reference_formats.quantize_weight(weight)
    for b in (bias, None):
        want = reference_formats.linear_int8(x, q, scale, b)
        assert_same_bits(run_linear(misaligned(x), weight, "int8", b), want)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("x_sign", [1, -1])
@pytest.mark.parametrize("pattern", ["same", "opposite", "alternating"])
def test_linear_int8_saturation(pattern: str, x_sign: int) -> None:
    """Catches a dot product that saturates at 16 bits: the largest sums of all sign patterns."""
    sign = np.ones(128, np.float32)
    if pattern == "opposite":
        sign = -sign
    if pattern == "alternating":
        sign[1::2] = -1
    x = np.tile(x_sign * sign, (9, 1))
    weight = np.stack([np.ones(128), -np.ones(128), sign, -sign] * 17).astype(np.float32)
    q, scale = reference_formats.quantize_weight(weight)
    assert {int(q.min()), int(q.max())} == {-127, 127}
    want = reference_formats.linear_int8(x, q, scale, None)
    assert_same_bits(run_linear(x, weight, "int8", None), want)


@pytest.mark.usefixtures("target")
def test_linear_int8_every_pair() -> None:
    """Catches one wrong product among all pairs of bytes."""
    pairs = np.arange(-127, 128, dtype=np.float32)
    x = np.zeros((255, 64), np.float32)
    x[:, 0] = 127
    x[:, 1] = pairs
    weight = np.zeros((255, 64), np.float32)
    weight[:, 0] = 127
    weight[:, 1] = pairs
    want = 127.0 * 127.0 + np.outer(pairs, pairs)
    assert run_linear(x, weight, "int8", None).tolist() == want.tolist()


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_float(shape: tuple[int, int], dtype: str) -> None:
    """Catches a wrong element anywhere, and a tile of rows that changes a row's bits."""
    rng = np.random.default_rng(5)
    weight = random_matrix(*shape)
    bias = rng.standard_normal(shape[0]).astype(np.float32)
    x = rng.standard_normal((max(ROWS), shape[1])).astype(np.float32)
    w = reference_formats.dequantize(weight, dtype).astype(np.float64)
    whole = as_on_scalar(lambda: run_linear(x, weight, dtype, bias))
    size = np.abs(x.astype(np.float64)) @ np.abs(w).T
    bound = EPS * ((math.sqrt(shape[1]) + 4) * size + np.abs(bias))
    assert_within(whole, x.astype(np.float64) @ w.T + bias, bound)
    for rows in ROWS:
        assert_same_bits(run_linear(misaligned(x[:rows]), weight, dtype, bias), whole[:rows])
    plain = run_linear(x, weight, dtype, None)
    assert_same_bits(whole, plain + bias)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_threads_and_rows(dtype: str) -> None:
    """Catches a result that depends on who computes it, or in what company."""
    rng = np.random.default_rng(6)
    weight = random_matrix(333, 150)
    x = rng.standard_normal((21, 150)).astype(np.float32)
    bias = rng.standard_normal(333).astype(np.float32)
    one = run_linear(x, weight, dtype, bias)
    for threads in (2, 3, 8):
        assert_same_bits(run_linear(x, weight, dtype, bias, threads), one)
    for row in range(21):
        assert_same_bits(run_linear(x[row : row + 1], weight, dtype, bias, 2), one[row : row + 1])
    assert run_linear(x[:0], weight, dtype, bias).shape == (0, 333)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_linear_non_finite(dtype: str, bad: float) -> None:
    """Catches a non-finite input that leaves finite outputs, also where the weights are zero."""
    weight = random_matrix(70, 130)
    weight[5] = 0
    x = np.random.default_rng(7).standard_normal((3, 130)).astype(np.float32)
    clean = run_linear(x, weight, dtype, None)
    x[1, 129] = bad
    got = run_linear(x, weight, dtype, None)
    assert not np.isfinite(got[1]).any()
    assert_same_bits(got[[0, 2]], clean[[0, 2]])
    if dtype == "int8":
        assert np.isnan(got[1]).all()


def test_bad_arguments() -> None:
    """Catches a packed matrix, a bias or a row of the wrong size, read past its end."""
    weight, x = np.zeros((70, 65), np.float32), np.zeros((2, 65), np.float32)
    packed = _core.pack(weight, "int8")
    with pytest.raises(ValueError, match="int5"):
        _core.pack(weight, "int5")
    calls: list[Callable[[], object]] = [
        lambda: _core.linear(x, packed[:-64], "int8", 70, None),
        lambda: _core.linear(x, packed, "float32", 70, None),
        lambda: _core.linear(x, packed, "int8", 129, None),
        lambda: _core.linear(np.zeros((2, 129), np.float32), packed, "int8", 70, None),
        lambda: _core.linear(x, packed, "int8", 70, np.zeros(69, np.float32)),
        lambda: _core.linear(x, packed, "int8", 70, None, threads=0),
        lambda: _core.linear(x.astype(np.float64), packed, "int8", 70, None),
        lambda: _core.unpack(packed[:-1], "int8", 70, 65),
        lambda: _core.pack(weight[0], "int8"),
    ]
    for bad in calls:
        with pytest.raises(ValueError, match=r"\d|float"):
            bad()
