"""The float64 NumPy twin of every kernel and of the whole model: what the core is compared with.

Written for reading, in the words of the paper, and from the papers and transformers' GPT-2 only: it
imports nothing of ours. Where a result is fixed bit by bit (the sum in virtual lanes) the twin
works in float32 in that very order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Config = Mapping[str, Any]
Tensors = Mapping[str, Array]

LANES = 16


def erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def gelu_tanh(x: Array) -> Array:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), Hendrycks and Gimpel 2016."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def gelu_fast(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": lambda x: 0.5 * x * (1.0 + erf(x / math.sqrt(2.0))),
    "gelu_fast": gelu_fast,
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
}


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = np.square(x - mean).mean(axis=-1, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(variance + eps) * weight + bias)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x [n, n_in], weight [n_out, n_in] -> [n, n_out]."""
    y: Array = x @ weight.T
    return y if bias is None else y + bias


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def through_cache(x: Array, cache_dtype: str) -> Array:
    """What a cache of this dtype gives back: float16 is clipped at its largest number, not
    infinite.
    """
    if cache_dtype != "float16":
        return x
    return np.clip(x, -65504.0, 65504.0).astype(np.float16).astype(x.dtype)


def attention(q: Array, k: Array, v: Array, scale: float) -> Array:
    """q [n, n_head, head_dim], k and v [m, n_head, head_dim]: the queries are the last n of the m
    positions.
    """
    n, m = len(q), len(k)
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    future = np.arange(m)[None, :] > np.arange(m - n, m)[:, None]
    p = softmax(np.where(future, -np.inf, scores))
    mixed: Array = np.einsum("hqk,khd->qhd", p, v)
    return mixed


def lane_sum(x: Array) -> np.float32:
    """The sum of a row in the contract's order: element i in lane i mod 16, then lanes l and l + 8,
    4, 2, 1.
    """
    lanes = np.zeros(LANES, np.float32)
    for start in range(0, len(x), LANES):
        part = x[start : start + LANES]
        lanes[: len(part)] += part
    for half in (8, 4, 2, 1):
        lanes = lanes[:half] + lanes[half : 2 * half]
    return np.float32(lanes[0])


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32 arrays, rounded once.

    The product is exact in float64; the sum is rounded to odd there (its error is known exactly),
    and rounding that to float32 is then the rounding of the true value: Boldo and Melquiond 2008.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (np.ascontiguousarray(total).view(np.int64) & 1) == 0
    inexact = np.isfinite(total) & (error != 0.0) & even
    return np.where(inexact, np.nextafter(total, np.copysign(np.inf, error)), total).astype(
        np.float32
    )


class Twin:
    """GPT-2 in `dtype` (float64 unless told): one sequence, no cache, every row's logits.

    `tensors` carry their checkpoint names without the prefix `transformer.`. A subclass overrides
    `linear` and `embedding` to say what another format of the weights does.
    """

    def __init__(
        self, config: Config, tensors: Tensors, dtype: type = np.float64, cache_dtype: str = "none"
    ) -> None:
        self.config = config
        self.cache_dtype = cache_dtype
        self.tensors: dict[str, Array] = {
            name: np.asarray(value, dtype) for name, value in tensors.items()
        }

    def matrix(self, name: str) -> Array:
        """The matrix as [n_out, n_in]: Conv1D stores [n_in, n_out], the two tables do not."""
        weight = self.tensors[f"{name}.weight"]
        return weight if name in ("wte", "lm_head") else weight.T

    def bias(self, name: str) -> Array | None:
        return self.tensors.get(f"{name}.bias")

    def linear(self, x: Array, name: str) -> Array:
        return linear(x, self.matrix(name), self.bias(name))

    def embedding(self, tokens: Array) -> Array:
        return self.tensors["wte.weight"][tokens]

    def norm(self, x: Array, name: str) -> Array:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return layer_norm(x, weight, bias, self.config["layer_norm_epsilon"])

    def attn(self, x: Array, layer: int) -> Array:
        n, n_embd = x.shape
        n_head = self.config["n_head"]
        head_dim = n_embd // n_head
        qkv = self.linear(x, f"h.{layer}.attn.c_attn").reshape(n, 3, n_head, head_dim)
        scale = head_dim**-0.5 if self.config["scale_attn_weights"] else 1.0
        if self.config["scale_attn_by_inverse_layer_idx"]:
            scale /= layer + 1
        k, v = (through_cache(qkv[:, i], self.cache_dtype) for i in (1, 2))
        mixed = attention(qkv[:, 0], k, v, scale).reshape(n, n_embd)
        return self.linear(mixed, f"h.{layer}.attn.c_proj")

    def mlp(self, x: Array, layer: int) -> Array:
        act = ACTIVATIONS[self.config["activation"]]
        return self.linear(act(self.linear(x, f"h.{layer}.mlp.c_fc")), f"h.{layer}.mlp.c_proj")

    def hidden_states(self, tokens: Array) -> Array:
        """[n_layer + 1, n, n_embd]: the embedding, each block's output; ln_f is applied to the
        last, as transformers'.
        """
        x = self.embedding(tokens) + self.tensors["wpe.weight"][: len(tokens)]
        states = [x]
        for layer in range(self.config["n_layer"]):
            x = x + self.attn(self.norm(x, f"h.{layer}.ln_1"), layer)
            x = x + self.mlp(self.norm(x, f"h.{layer}.ln_2"), layer)
            states.append(x)
        states[-1] = self.norm(x, "ln_f")
        return np.stack(states)

    def logits(self, tokens: Array) -> Array:
        """[n, n_vocab]."""
        head = "wte" if self.config["tie_word_embeddings"] else "lm_head"
        return self.linear(self.hidden_states(np.asarray(tokens))[-1], head)


def log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def score(logits: Array, targets: Array) -> dict[str, Array]:
    """How likely targets are, one for each row, as `gpt2fast.Score` tells it."""
    p = log_softmax(logits)
    # In the order of logits, between equal ones of ids: a target's rank is its place.
    ids = np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
    order = np.lexsort((ids, -logits))
    return {
        "logprobs": p[np.arange(len(targets)), targets],
        "ranks": (order == targets[:, None]).argmax(axis=1),
        "entropies": -(np.exp(p) * p).sum(axis=1),
        "likeliest": order[:, 0],
    }


def kl_divergence(truth: Array, other: Array) -> float:
    """Mean over rows of KL(softmax(truth) || softmax(other)), in nats."""
    p, q = log_softmax(truth), log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())
