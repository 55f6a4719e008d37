"""Is the twin itself right? Its model against transformers in float64, its packers against their
own layout.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import reference_formats
from oracle import oracle_model, oracle_outputs
from random_checkpoints import VARIANTS, random_tensors, random_tokens
from reference import Twin

# transformers' upcast attention insists on float32: test_oracle_transformers has it.
IN_FLOAT64 = [name for name, config in VARIANTS.items() if not config["reorder_and_upcast_attn"]]


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_twin_is_transformers_in_float64(name: str) -> None:
    """Catches a twin that has GPT-2 wrong: both are float64, so only rounding may differ."""
    config = VARIANTS[name]
    tensors = random_tensors(config)
    tokens = random_tokens(config, 300)
    twin = Twin(config, tensors)
    states, logits = oracle_outputs(oracle_model(config, tensors, double=True), tokens)
    assert np.abs(twin.hidden_states(tokens) - states).max() <= 1e-10
    assert np.abs(twin.logits(tokens) - logits).max() <= 1e-10 * logits.std()


def test_fma32_rounds_once() -> None:
    """Catches a fused multiply-add that rounds twice: exact rational arithmetic is the judge."""
    from fractions import Fraction

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(3000).astype(np.float32) for _ in range(2))
    c = (-a * b * rng.choice([1.0, 1.0000001, 1e-7, 1e7], 3000)).astype(np.float32)
    got = reference.fma32(a, b, c)
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        near = [np.nextafter(r, np.float32(end)) for end in (-math.inf, math.inf)]
        distance = abs(Fraction(float(r)) - exact)
        assert all(distance <= abs(Fraction(float(other)) - exact) for other in near)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shape", [(1, 1), (63, 65), (64, 64), (130, 67)])
def test_packed_places(dtype: str, shape: tuple[int, int]) -> None:
    """Catches a reference layout that is not the one written down, place by place."""
    rng = np.random.default_rng(shape[0])
    weight = rng.standard_normal(shape).astype(np.float32)
    packed = reference_formats.pack(weight, dtype)
    want = reference_formats.dequantize(weight, dtype)
    for out in range(shape[0]):
        for i in range(shape[1]):
            if dtype == "int8":
                block = packed[out // 64, i // 64]
                byte = int(block[i % 64 // 4 * 256 + out % 64 * 4 + i % 4])
                got = (byte - 128) * np.float32(block[4096:].view(np.float16)[out % 64])
            else:
                got = packed[out // 64, i, out % 64]
            assert got == want[out, i]


def test_q8_0_by_hand() -> None:
    """Catches a comparison quantiser that is better or worse than llama.cpp's."""
    x = np.zeros((1, 32), np.float32)
    x[0, :4] = [127.0, -63.5, 0.49, 0.5]
    assert reference_formats.q8_0(x)[0, :4].tolist() == [127.0, -64.0, 0.0, 1.0]
    x *= np.float32(1e-3)
    scale = np.float16(np.float32(0.127) / np.float32(127))
    assert reference_formats.q8_0(x)[0, 0] == np.float32(127) * np.float32(scale)
