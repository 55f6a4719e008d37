"""What packing costs a model: one text through the float32 weights and through the packed ones.

Two streams of activations go through a layer as soon as its tensors have been read, so that the
comparison needs one layer of the source, never the whole. The order of operations is that of
csrc/gpt2.cpp and the kernels are the same, so each stream ends in the very logits that a model of
that dtype gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast.checkpoints.receipt import Fidelity
from gpt2fast.config import Config

Floats = NDArray[np.float32]

_SLAB = 1 << 20  # logits at once: a few buffers of 8 MiB
_ROWS = 64  # of a packed matrix that lie together, in every format


class Comparison:
    """Both streams, fed with the tensors in the order of the packed file."""

    def __init__(
        self, config: Config, dtype: str, tokens: NDArray[np.int32], text: str, threads: int
    ) -> None:
        self._config = config
        self._tokens = tokens
        self._text = text
        self._streams = {
            kind: Activations(config, kind, tokens, threads)
            for kind in dict.fromkeys(("float32", dtype))
        }
        self._exact, self._packed = self._streams["float32"], self._streams[dtype]

    def add_vector(self, name: str, values: Floats) -> None:
        """Take a tensor that is float32 in both models: a norm, a bias, the positions."""
        for stream in self._streams.values():
            stream.add(name, values)

    def add_matrix(self, name: str, packed: Mapping[str, NDArray[np.uint8]]) -> None:
        """Take a matrix as it is packed in float32 and in the other dtype."""
        for dtype, stream in self._streams.items():
            stream.add(name, packed[dtype])

    def result(self) -> Fidelity:
        """Return what the streams say, after the last tensor.

        Per position, with p = softmax(float32 logits) and q = softmax(packed logits): the
        Kullback-Leibler divergence sum p (log p - log q), whether the likeliest tokens agree, and
        -log p, -log q of the text's next token, whose mean over the text is log(perplexity).
        """
        n, rows = len(self._tokens), max(1, _SLAB // self._config.n_vocab)
        divergence = agreeing = exact_loss = packed_loss = 0.0
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            exact = self._exact.logits(part)
            packed = exact if self._packed is self._exact else self._packed.logits(part)
            if not (np.isfinite(exact).all() and np.isfinite(packed).all()):
                return Fidelity(n, self._text, None, None, None, None)
            log_p, log_q = log_softmax(exact), log_softmax(packed)
            divergence += float((np.exp(log_p) * (log_p - log_q)).sum())
            agreeing += int((exact.argmax(axis=1) == packed.argmax(axis=1)).sum())
            following = self._tokens[start + 1 : start + 1 + rows]
            at = np.arange(len(following)), following
            exact_loss -= float(log_p[at].sum())
            packed_loss -= float(log_q[at].sum())
        return Fidelity(
            tokens=n,
            text=self._text,
            # Six and four digits: no more than rounding, which may differ from CPU to CPU, leaves.
            kl_divergence=float(f"{max(divergence, 0.0) / n:.4g}"),
            top1_agreement=float(f"{agreeing / n:.4g}"),
            perplexity_float32=_perplexity(exact_loss, n - 1),
            perplexity=_perplexity(packed_loss, n - 1),
        )


class Activations:
    """The residual stream of some tokens through a model of one dtype, layer by layer."""

    def __init__(self, config: Config, dtype: str, tokens: NDArray[np.int32], threads: int) -> None:
        self._config = config
        self._dtype = dtype
        self._cache_dtype = "float32" if dtype == "float32" else "float16"
        self._tokens = tokens
        self._threads = threads
        self._weights: dict[str, NDArray[Any]] = {}
        self._layer = 0
        self._x: Floats  # [n_tokens, n_embd]

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Take the next tensor; go through the layer that it completes, and forget the layer."""
        self._weights[name] = values
        with np.errstate(over="ignore", invalid="ignore"):  # found in the logits
            if name == "wpe.weight":
                self._embed()
            elif name == f"h.{self._layer}.mlp.c_proj.bias":
                self._block(f"h.{self._layer}.")
                self._layer += 1

    def logits(self, rows: slice) -> Floats:
        """Return [n_rows, n_vocab], after the last tensor."""
        head = "wte.weight" if self._config.tie_word_embeddings else "lm_head.weight"
        x = self._norm(self._x[rows], "ln_f")
        weight, n_vocab = self._weights[head], self._config.n_vocab
        return _core.linear(x, weight, self._dtype, n_vocab, None, self._threads)

    def _embed(self) -> None:
        n_embd = self._config.n_embd
        wte, wpe = self._weights["wte.weight"], self._weights.pop("wpe.weight")
        blocks = wte.reshape(-(-self._config.n_vocab // _ROWS), -1)
        self._x = wpe[: len(self._tokens)].copy()
        for block in np.unique(self._tokens // _ROWS):
            rows = _core.unpack(blocks[block], self._dtype, _ROWS, n_embd)
            for i in np.flatnonzero(self._tokens // _ROWS == block):
                self._x[i] += rows[self._tokens[i] % _ROWS]
        if not self._config.tie_word_embeddings:
            del self._weights["wte.weight"]

    def _block(self, h: str) -> None:
        self._x += self._attention(self._norm(self._x, f"{h}ln_1"), f"{h}attn")
        self._x += self._mlp(self._norm(self._x, f"{h}ln_2"), f"{h}mlp")
        for name in [name for name in self._weights if name.startswith(h)]:
            del self._weights[name]

    def _attention(self, x: Floats, attn: str) -> Floats:
        config, n = self._config, len(x)
        qkv = self._linear(x, f"{attn}.c_attn").reshape(n, 3, config.n_head, config.head_dim)
        q, k, v = (np.ascontiguousarray(qkv[:, i]) for i in range(3))
        scale = 1.0 / math.sqrt(config.head_dim) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= self._layer + 1
        attended = _core.attention(q, k, v, scale, self._cache_dtype, self._threads)
        return self._linear(attended.reshape(n, config.n_embd), f"{attn}.c_proj")

    def _mlp(self, x: Floats, mlp: str) -> Floats:
        inner = _core.activation(self._linear(x, f"{mlp}.c_fc"), self._config.activation)
        return self._linear(inner, f"{mlp}.c_proj")

    def _norm(self, x: Floats, name: str) -> Floats:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return _core.layer_norm(x, weight, bias, self._config.layer_norm_epsilon)

    def _linear(self, x: Floats, name: str) -> Floats:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return _core.linear(x, weight, self._dtype, bias.size, bias, self._threads)


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Return the logarithms of each row's probabilities."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def _perplexity(loss: float, n: int) -> float | None:
    """Return exp of the mean loss to six digits; None if there is no prediction, or no number."""
    try:
        return float(f"{math.exp(loss / n):.6g}")
    except (ZeroDivisionError, OverflowError):
        return None
