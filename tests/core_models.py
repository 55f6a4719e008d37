"""Models of the core from tensors in memory, packed by the reference packers."""

from __future__ import annotations

from reference import Array, Config, Tensors
from reference_formats import pack_model

from gpt2fast import _core


def build(config: Config, tensors: Tensors, dtype: str) -> _core.Model:
    """The core's model of checkpoint tensors."""
    return _core.Model(dict(config), dtype, pack_model(config, tensors, dtype))


def cache_of(dtype: str) -> str:
    """The dtype of the cache that goes with weights of this dtype."""
    return "float32" if dtype == "float32" else "float16"


def all_logits(model: _core.Model, tokens: Array, **options: int) -> Array:
    """Every row's logits, from an empty cache."""
    logits: Array
    cache = _core.Cache(model, cache_of(model.dtype))
    (logits,) = model.forward([cache], [tokens], [len(tokens)], **options)
    return logits
