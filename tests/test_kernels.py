"""Elementary functions, sums, activations and LayerNorm on every target: within a derived bound of
the float64 twin, and the same bits as on the scalar target.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import reference
from bits import EPS, as_on_scalar, assert_same_bits, assert_ulps, assert_within, misaligned
from reference import Array

from gpt2fast import _core

ELEMENTARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "erf": reference.erf,
}
# Units in the last place; erf rounds its polynomial just below a power of two, so twice as much.
ULPS = {"exp": 1.0, "log": 1.0, "tanh": 1.5, "erf": 2.5}
LENGTHS = [*range(2 * reference.LANES + 2), 257]
F32 = np.finfo(np.float32)


def arguments(name: str) -> Array:
    """Where the function is neither zero, infinite nor subnormal, over all magnitudes."""
    rng = np.random.default_rng(0)
    tiny = 10.0 ** rng.uniform(-37, 0, 4000)
    if name == "log":
        x = np.concatenate([tiny, 10.0 ** rng.uniform(0, 38, 4000), rng.uniform(0.5, 2, 8000)])
    else:
        reach = {"exp": 87.0, "tanh": 12.0, "erf": 6.0}[name]
        x = np.concatenate([tiny, -tiny, rng.uniform(-reach, reach, 16000)])
    return x.astype(np.float32)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_accuracy(name: str) -> None:
    """Catches a polynomial or a range reduction that loses bits, at any magnitude."""
    x = arguments(name)
    got = as_on_scalar(lambda: getattr(_core, name)(x))
    with np.errstate(divide="ignore"):
        assert_ulps(got, ELEMENTARY[name](x.astype(np.float64)), ULPS[name])


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_tails(name: str) -> None:
    """Catches a tail that is computed otherwise than a full vector, or at a misaligned address."""
    x = arguments(name)[: LENGTHS[-1]]
    whole = getattr(_core, name)(x)
    for n in LENGTHS:
        assert_same_bits(getattr(_core, name)(x[:n].copy()), whole[:n])
        assert_same_bits(getattr(_core, name)(misaligned(x[:n])), whole[:n])


SPECIAL: dict[str, dict[float, float]] = {
    "exp": {math.inf: math.inf, -math.inf: 0, 0: 1, 1000: math.inf, -1000: 0},
    "log": {math.inf: math.inf, 0: -math.inf, 1: 0, -1: math.nan, -math.inf: math.nan},
    "tanh": {math.inf: 1, -math.inf: -1, 0: 0, 50: 1, -50: -1},
    "erf": {math.inf: 1, -math.inf: -1, 0: 0, 50: 1, -50: -1},
}


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_specials(name: str) -> None:
    """Catches an infinity, a zero or a NaN that comes out as a number."""
    x = np.array([math.nan, *SPECIAL[name]], np.float32)
    want = np.array([math.nan, *SPECIAL[name].values()], np.float32)
    np.testing.assert_array_equal(as_on_scalar(lambda: getattr(_core, name)(x)), want)


@pytest.mark.usefixtures("target")
def test_exp_fades_out() -> None:
    """Catches a result below the smallest normal number that is large, negative or not monotone."""
    x = np.linspace(-110, -85, 5000, dtype=np.float32)
    got = as_on_scalar(lambda: _core.exp(x))
    assert_within(got, np.exp(x.astype(np.float64)), float(F32.tiny))
    assert np.all(np.diff(got) >= 0)
    assert np.all(got >= 0)


@pytest.mark.usefixtures("target")
def test_sum_in_lane_order() -> None:
    """Catches a sum in any other order than the contract's: large and small terms make the order
    visible.
    """
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(3001) * 10.0 ** rng.uniform(-4, 4, 3001)).astype(np.float32)
    for n in [*LENGTHS, 1024, 3001]:
        assert np.float32(_core.sum(x[:n].copy())) == reference.lane_sum(x[:n])
        assert np.float32(_core.sum(misaligned(x[:n]))) == reference.lane_sum(x[:n])


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("n", [*LENGTHS, 1000])
def test_exp_sum(n: int) -> None:
    """Catches a fused softmax numerator that differs from exp, or sums outside the lanes."""
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32) * 9
    shift, scale = np.float32(7.3), np.float32(0.37)
    out, total = _core.exp_sum(x, float(shift), float(scale))
    assert_same_bits(out, _core.exp((x - shift) * scale))
    assert np.float32(total) == reference.lane_sum(out)
    exponent = (x.astype(np.float64) - shift) * scale
    want = np.exp(exponent)
    assert_within(out, want, EPS * (2 + np.abs(exponent)) * want + 1e-300)


def activation_bound(name: str, x: Array, y: Array) -> Array:
    """relu is exact. tanh is its own function. The others multiply x by a factor in [0, 1] that is
    a sum with 1, so that what is lost is relative to x and not to the result: half of (1 + tanh
    or erf) carries the 2 ulp of the function, the 6 rounded steps of its argument times at most
    max |z| f'(z) = 0.45, the sum's and the product's.
    """
    if name == "relu":
        return np.zeros_like(y) + 1e-300
    if name == "tanh":
        return 2 * EPS * np.abs(y) + 1e-300
    return EPS * (4 * np.abs(x) + np.abs(y)) + float(F32.tiny)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activation(name: str) -> None:
    """Catches a wrong constant, a confused variant, or a tail."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(-12, 12, 9000), rng.standard_normal(9000) * 0.01, [0, 60, -60]])
    x = x.astype(np.float32)
    got = as_on_scalar(lambda: _core.activation(x, name))
    want = reference.ACTIVATIONS[name](x.astype(np.float64))
    assert_within(got, want, activation_bound(name, x.astype(np.float64), want))
    for n in LENGTHS:
        assert_same_bits(_core.activation(misaligned(x[:n]), name), got[:n])


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_activation_keeps_nan(name: str) -> None:
    """Catches a NaN that an activation turns into a number, so that nobody would notice it."""
    x = np.linspace(-3, 3, 40, dtype=np.float32)
    x[[0, 17, 39]] = np.nan
    got = as_on_scalar(lambda: _core.activation(x, name))
    assert np.isnan(got).tolist() == np.isnan(x).tolist()


def layer_norm_bound(x: Array, weight: Array, y: Array, eps: float) -> Array:
    """First order in u = EPS / 2: the lanes' sums add n / 16 + 4 times, and each further step
    rounds once.
    """
    u = EPS / 2
    adds = x.shape[-1] / 16 + 5
    mean = x.mean(axis=-1, keepdims=True)
    d = np.abs(x - mean)
    variance = np.square(d).mean(axis=-1, keepdims=True)
    off = u * (adds * np.abs(x).mean(axis=-1, keepdims=True) + np.abs(mean)) + u * d
    off_variance = 2 * (off * d).mean(axis=-1, keepdims=True) + u * (adds + 3) * variance
    off_variance += np.square(off).mean(axis=-1, keepdims=True)
    root = np.sqrt(variance + eps)
    relative = 0.5 * off_variance / (variance + eps) + 5 * u
    bound = np.abs(weight) / root * (off + d * relative) + 2 * u * np.abs(y)
    return np.asarray(1.01 * bound + 2 * u * np.abs(weight) * d / root)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("d", [*range(1, 34), 65, 768, 1601])
def test_layer_norm(d: int) -> None:
    """Catches a one-pass variance, a wrong divisor, an epsilon outside the root, or a tail."""
    rng = np.random.default_rng(d)
    x = rng.standard_normal((4, d)).astype(np.float32)
    x[1] += 1000
    x[2] = 0
    x[3] *= np.float32(1e-4)
    weight, bias = rng.standard_normal((2, d)).astype(np.float32)
    eps = float(np.float32(1e-5))
    got = as_on_scalar(lambda: _core.layer_norm(misaligned(x), weight, bias, eps))
    wide = x.astype(np.float64)
    want = reference.layer_norm(wide, weight.astype(np.float64), bias.astype(np.float64), eps)
    assert_within(got, want, layer_norm_bound(wide, weight, want, eps) + 1e-300)
    assert_same_bits(got[2], bias)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_layer_norm_of_non_finite(bad: float) -> None:
    """Catches a non-finite activation that vanishes in the norm: its row is NaN, the others are
    untouched.
    """
    x = np.random.default_rng(3).standard_normal((3, 40)).astype(np.float32)
    ones, zeros = np.ones(40, np.float32), np.zeros(40, np.float32)
    clean = _core.layer_norm(x, ones, zeros, 1e-5)
    x[1, 33] = bad
    got = as_on_scalar(lambda: _core.layer_norm(x, ones, zeros, 1e-5))
    assert np.isnan(got[1]).all()
    assert_same_bits(got[[0, 2]], clean[[0, 2]])


def test_bad_arguments() -> None:
    """Catches a kernel that reads past an array of the wrong shape, or takes an unknown name."""
    x, v = np.zeros((2, 8), np.float32), np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="9"):
        _core.layer_norm(x, np.zeros(9, np.float32), v, 1e-5)
    with pytest.raises(ValueError, match="7"):
        _core.layer_norm(x, v, np.zeros(7, np.float32), 1e-5)
    with pytest.raises(ValueError, match="swishy"):
        _core.activation(v, "swishy")
    with pytest.raises(ValueError, match="avx9"):
        _core.force_target("avx9")
