"""Comparing results bit for bit, and running a call on the scalar target beside the forced one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from reference import Array

from gpt2fast import _core

EPS = float(np.finfo(np.float32).eps)


def assert_same_bits(got: Array, want: Array) -> None:
    """Equal shapes and equal float32 bits; any NaN equals any other, whose payload is the CPU's."""
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    same = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
    if not same.all():
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(f"{(~same).sum()} of {same.size} differ: {got[at]!r}, {want[at]!r}")


def assert_within(got: Array, want: Array, bound: Array | float) -> None:
    """|got - want| <= bound everywhere; says where it is worst."""
    assert got.shape == want.shape
    share = np.abs(got.astype(np.float64) - want) / bound
    assert np.all(share <= 1), f"{np.nanmax(share):.3g} of the bound at {np.nanargmax(share)}"


def assert_ulps(got: Array, want: Array, ulps: float) -> None:
    """Within so many units in the last place of the float32 nearest to `want` (float64)."""
    spacing = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    assert_within(got, want, ulps * spacing)


def on_scalar(call: Callable[[], Array]) -> Array:
    """The call's result on the scalar target; the forced target is forced again afterwards."""
    forced = _core.target()
    _core.force_target("scalar")
    try:
        return call()
    finally:
        _core.force_target(forced)


def as_on_scalar(call: Callable[[], Array]) -> Array:
    """The call's result, the same bits as on the scalar target."""
    got = call()
    assert_same_bits(got, on_scalar(call))
    return got


def misaligned(x: Array) -> Array:
    """The same array, four bytes off every vector boundary."""
    room = np.empty(x.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + 4
    moved = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    moved[...] = x
    return moved
