"""GGUF's tensor types: weights in small blocks with their own scale, read to float32.

A row of a matrix is a sequence of blocks; everything is little endian, `d`, `m` and `dmin` are
float16, `q` are the integers. In brackets bytes:

    type   weights bytes
    F32          1     4   float32
    F16          1     2   float16
    BF16         1     2   the upper half of a float32
    Q8_0        32    34   d[2] q[32]                             d * q           q signed
    Q4_0        32    18   d[2] q[16]                             d * (q - 8)
    Q4_1        32    20   d[2] m[2] q[16]                        d * q + m
    Q5_0        32    22   d[2] high[4] q[16]                     d * (q - 16)
    Q5_1        32    24   d[2] m[2] high[4] q[16]                d * q + m
    IQ4_NL      32    18   d[2] q[16]                             d * LEVELS[q]
    Q2_K       256    84   scales[16] q[64] d[2] dmin[2]          d * s * q - dmin * t
    Q3_K       256   110   high[32] q[64] scales[12] d[2]         d * (s - 32) * (q - 4)
    Q4_K       256   144   d[2] dmin[2] scales[12] q[128]         d * s * q - dmin * t
    Q5_K       256   176   d[2] dmin[2] scales[12] high[32] q[128]        same
    Q6_K       256   210   q[128] high[64] scales[16] d[2]        d * s * (q - 32)    s signed

An integer is spread over the bytes: the nibbles of 16 bytes hold weights 0 to 15 in their lower
halves, 16 to 31 in their upper halves (so in every `_fields`: first all lowest fields of a run of
bytes, then all second ones). `high` has the bits above those in `q`. A K block has groups of 16 or
32 weights, each with a scale s and, where there is a dmin, an offset t, of four or six bits.

The order of operations is that of ggml's `dequantize_row_*`, without contraction: (d * s) * q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SLAB = 1 << 18  # weights decoded at once, so that the intermediate arrays stay at a few MB

_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


@dataclass(frozen=True, slots=True)
class BlockType:
    """A tensor type: `decode` writes blocks, uint8 [n, n_bytes], into float32 [n, n_weights]."""

    name: str
    n_weights: int
    n_bytes: int
    decode: Callable[[Bytes, Floats], None]


def dequantize(raw: Bytes, kind: BlockType) -> Floats:
    """Return the weights of a tensor, float32 [n], from its bytes as stored, in whole blocks.

    A scale that is infinite or NaN gives weights that are infinite or NaN.
    """
    if kind.name == "F32":
        return raw.view("<f4").astype(np.float32, copy=False)
    blocks = raw.reshape(-1, kind.n_bytes)
    weights = np.empty((len(blocks), kind.n_weights), np.float32)
    step = _SLAB // kind.n_weights
    with np.errstate(invalid="ignore"):
        for start in range(0, len(blocks), step):
            kind.decode(blocks[start : start + step], weights[start : start + step])
    return weights.reshape(-1)


def _f16(blocks: Bytes, at: int) -> Floats:
    """Return the float16 at a byte of every block, float32 [n, 1]."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def _fields(part: Bytes, run: int, bits: int) -> Bytes:
    """Return the fields of `bits` bits: of each run of bytes first all lowest fields, and so on."""
    n, n_fields = len(part), 8 // bits
    result = np.empty((n, part.shape[1] // run, n_fields, run), np.uint8)
    runs = part.reshape(n, -1, run)
    for field in range(n_fields):
        np.right_shift(runs, bits * field, out=result[:, :, field])
    result &= (1 << bits) - 1
    return result.reshape(n, -1)


def _decode_f32(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks.view("<f4")


def _decode_f16(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks.view("<f2")


def _decode_bf16(blocks: Bytes, out: Floats) -> None:
    np.left_shift(blocks.view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


def _decode_q8_0(blocks: Bytes, out: Floats) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), _f16(blocks, 0), out=out)


def _decode_q4_0(blocks: Bytes, out: Floats) -> None:
    np.subtract(_fields(blocks[:, 2:], 16, 4), np.float32(8), out=out)
    out *= _f16(blocks, 0)


def _decode_q4_1(blocks: Bytes, out: Floats) -> None:
    np.multiply(_fields(blocks[:, 4:], 16, 4), _f16(blocks, 0), out=out)
    out += _f16(blocks, 2)


def _decode_q5_0(blocks: Bytes, out: Floats) -> None:
    q = _fields(blocks[:, 6:], 16, 4) | _fields(blocks[:, 2:6], 1, 1) << 4
    np.subtract(q, np.float32(16), out=out)
    out *= _f16(blocks, 0)


def _decode_q5_1(blocks: Bytes, out: Floats) -> None:
    q = _fields(blocks[:, 8:], 16, 4) | _fields(blocks[:, 4:8], 1, 1) << 4
    np.multiply(q, _f16(blocks, 0), out=out)
    out += _f16(blocks, 2)


def _decode_iq4_nl(blocks: Bytes, out: Floats) -> None:
    np.multiply(_LEVELS[_fields(blocks[:, 2:], 16, 4)], _f16(blocks, 0), out=out)


def _grouped(
    q: NDArray[np.integer[Any]], scale: Floats, offset: Floats | None, out: Floats
) -> None:
    """Write scale * q - offset; scale and offset [n, groups] belong to groups of weights."""
    shape = (*scale.shape, -1)
    grouped = out.reshape(shape)  # a view: rows of `out` lie back to back
    np.multiply(q.reshape(shape), scale[:, :, None], out=grouped)
    if offset is not None:
        grouped -= offset[:, :, None]


def _decode_q2_k(blocks: Bytes, out: Floats) -> None:
    scale = _f16(blocks, 80) * (blocks[:, :16] & 15)
    offset = _f16(blocks, 82) * (blocks[:, :16] >> 4)
    _grouped(_fields(blocks[:, 16:80], 32, 2), scale, offset, out)


def _decode_q3_k(blocks: Bytes, out: Floats) -> None:
    s = _fields(blocks[:, 96:104], 8, 4) | _fields(blocks[:, 104:108], 4, 2) << 4
    scale = _f16(blocks, 108) * (s.view(np.int8) - np.int8(32))
    q = _fields(blocks[:, 32:96], 32, 2) | _fields(blocks[:, :32], 32, 1) << 2
    _grouped(q.view(np.int8) - np.int8(4), scale, None, out)


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Unpack eight scales and eight offsets of 6 bits from 12 bytes.

    byte 0-3    scale 0-3, and above it the upper two bits of scale 4-7
    byte 4-7    offset 0-3, and above it the upper two bits of offset 4-7
    byte 8-11   the lower four bits of scale 4-7, then of offset 4-7
    """
    scale, offset, lower = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    return (
        np.hstack([scale & 63, lower & 15 | scale >> 6 << 4]),
        np.hstack([offset & 63, lower >> 4 | offset >> 6 << 4]),
    )


def _decode_q4_k(blocks: Bytes, out: Floats) -> None:
    scale, offset = _six_bits(blocks[:, 4:16])
    q = _fields(blocks[:, 16:], 32, 4)
    _grouped(q, _f16(blocks, 0) * scale, _f16(blocks, 2) * offset, out)


def _decode_q5_k(blocks: Bytes, out: Floats) -> None:
    scale, offset = _six_bits(blocks[:, 4:16])
    q = _fields(blocks[:, 48:], 32, 4) | _fields(blocks[:, 16:48], 32, 1) << 4
    _grouped(q, _f16(blocks, 0) * scale, _f16(blocks, 2) * offset, out)


def _decode_q6_k(blocks: Bytes, out: Floats) -> None:
    q = _fields(blocks[:, :128], 64, 4) | _fields(blocks[:, 128:192], 32, 2) << 4
    scale = _f16(blocks, 208) * blocks[:, 192:208].view(np.int8)
    _grouped(q.view(np.int8) - np.int8(32), scale, None, out)


BLOCK_TYPES = {
    0: BlockType("F32", 1, 4, _decode_f32),
    1: BlockType("F16", 1, 2, _decode_f16),
    2: BlockType("Q4_0", 32, 18, _decode_q4_0),
    3: BlockType("Q4_1", 32, 20, _decode_q4_1),
    6: BlockType("Q5_0", 32, 22, _decode_q5_0),
    7: BlockType("Q5_1", 32, 24, _decode_q5_1),
    8: BlockType("Q8_0", 32, 34, _decode_q8_0),
    10: BlockType("Q2_K", 256, 84, _decode_q2_k),
    11: BlockType("Q3_K", 256, 110, _decode_q3_k),
    12: BlockType("Q4_K", 256, 144, _decode_q4_k),
    13: BlockType("Q5_K", 256, 176, _decode_q5_k),
    14: BlockType("Q6_K", 256, 210, _decode_q6_k),
    20: BlockType("IQ4_NL", 32, 18, _decode_iq4_nl),
    30: BlockType("BF16", 1, 2, _decode_bf16),
}

# ggml's numbers of the others, so that a message can name them.
OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0",
    35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 39: "MXFP4", 40: "NVFP4",
    41: "Q1_0",
}  # fmt: skip
