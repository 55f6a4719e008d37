"""Reference packers of the weight formats, byte for byte, the exact int8 product, and llama.cpp's
Q8_0 beside it.

    float32, float16   [ceil(out / 64), in, 64]: 64 outputs side by side for each input; padded
                       outputs are 0
    int8               uint8 [ceil(out / 64), ceil(in / 64), 4224]: byte (i // 4) * 256 + o * 4 +
                       i % 4 is q + 128 of output o and input i; then 64 float16 scales. Padding is
                       q = 0 (byte 128) and scale 0
"""

from __future__ import annotations

import numpy as np
from reference import Array, Config, Tensors, Twin, fma32

BLOCK = 64


def blocks(n: int) -> int:
    return -(-n // BLOCK)


def pad(x: Array, *lengths: int) -> Array:
    return np.pad(x, [(0, length - have) for length, have in zip(lengths, x.shape, strict=True)])


def quantize_weight(weight: Array) -> tuple[Array, Array]:
    """[n_out, n_in] -> q int8 [n_out, ib, 64] and their float16 scales [n_out, ib]."""
    n_out, n_in = weight.shape
    ib = blocks(n_in)
    w = pad(weight.astype(np.float32), n_out, ib * BLOCK).reshape(n_out, ib, BLOCK)
    exact = np.abs(w).max(axis=-1) / np.float32(127)
    if not np.all(exact <= 65504):
        raise ValueError("a scale is beyond float16")
    scale = exact.astype(np.float16)
    wide = scale.astype(np.float32)[..., None]
    safe = np.where(wide > 0, wide, np.float32(1))
    q = np.where(wide > 0, np.clip(np.rint(w / safe), -127, 127), 0)
    return q.astype(np.int8), scale


def pack_int8(weight: Array) -> Array:
    n_out, n_in = weight.shape
    ob, ib = blocks(n_out), blocks(n_in)
    q, scale = quantize_weight(weight)
    q = pad(q, ob * BLOCK, ib, BLOCK)
    scale = pad(scale, ob * BLOCK, ib)
    by_input = (q.astype(np.int16) + 128).astype(np.uint8).reshape(ob, BLOCK, ib, 16, 4)
    body = by_input.transpose(0, 2, 3, 1, 4).reshape(ob, ib, 4096)
    tail = np.ascontiguousarray(scale.reshape(ob, BLOCK, ib).transpose(0, 2, 1)).view(np.uint8)
    return np.concatenate([body, tail], axis=-1)


def pack_float(weight: Array, dtype: type) -> Array:
    n_out, n_in = weight.shape
    ob = blocks(n_out)
    rows = pad(weight.astype(dtype), ob * BLOCK, n_in).reshape(ob, BLOCK, n_in)
    return np.ascontiguousarray(rows.transpose(0, 2, 1))


def pack(weight: Array, dtype: str) -> Array:
    """What the file stores for a matrix [n_out, n_in]."""
    if dtype == "int8":
        return pack_int8(weight)
    return pack_float(weight, np.float16 if dtype == "float16" else np.float32)


def dequantize(weight: Array, dtype: str) -> Array:
    """The float32 matrix that the packed one stands for."""
    if dtype == "int8":
        q, scale = quantize_weight(weight)
        wide = q.astype(np.float32) * scale.astype(np.float32)[..., None]
        return wide.reshape(len(weight), -1)[:, : weight.shape[1]]
    return weight.astype(np.float16 if dtype == "float16" else np.float32).astype(np.float32)


def pack_model(config: Config, tensors: Tensors, dtype: str) -> dict[str, Array]:
    """A packed model's tensors, matrices packed and vectors as they are, from a checkpoint's."""
    packed = {}
    for name, value in tensors.items():
        if name in ("wte.weight", "lm_head.weight"):
            if name == "wte.weight" or not config["tie_word_embeddings"]:
                packed[name] = pack(value, dtype)
        elif value.ndim == 2 and name != "wpe.weight":
            packed[name] = pack(value.T, dtype)
        else:
            packed[name] = np.ascontiguousarray(value, np.float32)
    return packed


def quantize(x: Array) -> tuple[Array, Array]:
    """Activations [n, d] -> int8 [n, d padded to 64] and float32 scales, one for each 64, all in
    float32.
    """
    n, d = x.shape
    ib = blocks(d)
    x = pad(x.astype(np.float32), n, ib * BLOCK).reshape(n, ib, BLOCK)
    absmax = np.abs(x).max(axis=-1)
    small = absmax < np.float32(1e-30)
    scale = np.where(small, np.float32(0), absmax / np.float32(127))
    q = np.rint(x / np.where(small, np.float32(1), scale)[..., None])
    return np.where(small[..., None], 0, q).astype(np.int8).reshape(n, -1), scale


def linear_int8(x: Array, q_weight: Array, w_scale: Array, bias: Array | None) -> Array:
    """The contract's int8 product, bit for bit: blocks in order, one fused multiply-add each, the
    bias last.
    """
    q_x, x_scale = quantize(x)
    acc = np.zeros((len(x), len(q_weight)), np.float32)
    for b in range(q_weight.shape[1]):
        part = q_x[:, b * BLOCK : (b + 1) * BLOCK].astype(np.float64)
        dot = (part @ q_weight[:, b].T.astype(np.float64)).astype(np.float32)
        acc = fma32(dot, w_scale[:, b].astype(np.float32) * x_scale[:, b, None], acc)
    return acc if bias is None else acc + bias.astype(np.float32)


class Int8Twin(Twin):
    """The model under the int8 contract: exact in the products and the embedding, float64 between
    them.
    """

    def __init__(self, config: Config, tensors: Tensors, cache_dtype: str = "float16") -> None:
        super().__init__(config, tensors, np.float64, cache_dtype)
        names = [key.removesuffix(".weight") for key, w in self.tensors.items() if w.ndim == 2]
        self.packed = {name: quantize_weight(self.matrix(name)) for name in names if name != "wpe"}

    def linear(self, x: Array, name: str) -> Array:
        q, scale = self.packed[name]
        return linear_int8(x.astype(np.float32), q, scale, self.bias(name)).astype(np.float64)

    def embedding(self, tokens: Array) -> Array:
        q, scale = self.packed["wte"]
        rows = q[tokens].astype(np.float64) * scale[tokens].astype(np.float64)[..., None]
        return rows.reshape(len(tokens), -1)[:, : self.config["n_embd"]]


def q8_0(x: Array) -> Array:
    """x [n, multiple of 32] after llama.cpp's Q8_0: rounded with the float32 scale, read back with
    the float16 one.
    """
    n, d = x.shape
    x = x.astype(np.float32).reshape(n, d // 32, 32)
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = x * inverse
    q = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return np.asarray(q * scale.astype(np.float16).astype(np.float32)).reshape(n, d)


class Q80Twin(Twin):
    """The model as llama.cpp runs it from Q8_0: weights, and the rows that meet them, in 32-blocks;
    float16 cache.
    """

    def __init__(self, config: Config, tensors: Tensors) -> None:
        super().__init__(config, tensors, np.float32, "float16")
        self.matrices: dict[str, Array] = {}

    def quantized(self, name: str) -> Array:
        if name not in self.matrices:
            self.matrices[name] = q8_0(self.matrix(name))
        return self.matrices[name]

    def linear(self, x: Array, name: str) -> Array:
        y = q8_0(x) @ self.quantized(name).T
        bias = self.bias(name)
        return y if bias is None else y + bias

    def embedding(self, tokens: Array) -> Array:
        return self.quantized("wte")[tokens]
