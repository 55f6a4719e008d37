"""GGUF's tensor types: catches a weight read from the wrong bits or computed in another order."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast.checkpoints.gguf_blocks import BLOCK_TYPES, OTHER_TYPES, BlockType, dequantize

KINDS = pytest.mark.parametrize("kind", BLOCK_TYPES.values(), ids=lambda kind: kind.name)
NUMBERS = {kind.name: number for number, kind in BLOCK_TYPES.items()}

# What the gguf package 0.19.0 makes of `random_blocks(kind, 512)`, NaN as the one quiet NaN.
DIGESTS = {
    "F32": "42b7da57740ed1b1",
    "F16": "52b46b9ca24de0bc",
    "Q4_0": "fe1f486fac4701bf",
    "Q4_1": "2a9f520170ff2a7f",
    "Q5_0": "812bc108283640bc",
    "Q5_1": "ddfbd4e1772f45bb",
    "Q8_0": "80dcc8dfcb9f32ec",
    "Q2_K": "5a3ef602dd1e42c0",
    "Q3_K": "d571ad836c441e19",
    "Q4_K": "92c223cfe983dc6c",
    "Q5_K": "97a0f70dddf19ff1",
    "Q6_K": "359074fd890b3819",
    "IQ4_NL": "784777134ae81d2a",
    "BF16": "5b58e4583650eba0",
}


def random_blocks(kind: BlockType, n_blocks: int) -> NDArray[np.uint8]:
    """Return random bytes: every scale, also infinite and NaN, and every integer."""
    raw = np.random.default_rng(NUMBERS[kind.name]).bytes(n_blocks * kind.n_bytes)
    return np.frombuffer(raw, np.uint8).copy()


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return the bits of the values; which NaN an operation gives is the processor's choice."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


@KINDS
def test_values_are_those_of_the_gguf_package(kind: BlockType) -> None:
    """Catches any bit that differs from the format's own Python implementation."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    raw = random_blocks(kind, 5000)
    with np.errstate(invalid="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(NUMBERS[kind.name]))
    assert np.array_equal(bits(dequantize(raw, kind)), bits(expected.reshape(-1)))


@KINDS
def test_values_are_those_recorded(kind: BlockType) -> None:
    """Catches the same where the gguf package is not installed, and on another processor."""
    found = bits(dequantize(random_blocks(kind, 512), kind)).astype("<u4").tobytes()
    assert hashlib.sha256(found).hexdigest()[:16] == DIGESTS[kind.name]


@KINDS
def test_tensors_longer_than_a_slab(kind: BlockType) -> None:
    """Catches a seam between the slabs in which a tensor is decoded."""
    n_blocks = 2 * (1 << 18) // kind.n_weights + 1
    raw = random_blocks(kind, 1000)
    raw = np.resize(raw, n_blocks * kind.n_bytes)
    whole = dequantize(raw, kind)
    piece = dequantize(raw[: 1000 * kind.n_bytes], kind)
    assert whole.dtype == np.float32 and len(whole) == n_blocks * kind.n_weights
    assert np.array_equal(bits(whole), bits(np.resize(piece, len(whole))))


@KINDS
def test_no_weight(kind: BlockType) -> None:
    """Catches a tensor of no weights that ends in an exception of NumPy."""
    assert dequantize(np.empty(0, np.uint8), kind).shape == (0,)


def test_types_are_those_of_ggml() -> None:
    """Catches a number, name or size of a type that is not ggml's."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    for number, kind in BLOCK_TYPES.items():
        known = gguf.GGMLQuantizationType(number)
        assert known.name == kind.name
        assert gguf.GGML_QUANT_SIZES[known] == (kind.n_weights, kind.n_bytes)
    for known in gguf.GGMLQuantizationType:
        unread = OTHER_TYPES.get(known.value, known.name)  # newer packages know more
        assert known.value in BLOCK_TYPES or unread == known.name


def test_an_infinite_scale_gives_no_warning() -> None:
    """Catches a warning, or a finite weight, where a damaged scale meets a weight of 0."""
    kind = BLOCK_TYPES[NUMBERS["Q8_0"]]
    block = np.zeros(kind.n_bytes, np.uint8)
    block[:3] = [0x00, 0x7C, 1]
    weights = dequantize(block, kind)
    assert np.isinf(weights[0]) and np.isnan(weights[1:]).all()
