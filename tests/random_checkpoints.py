"""Small random GPT-2 checkpoints of every shape and variant, and a reader for the trained one."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from reference import Array, Config

PLAIN: Config = {
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 48,
    "n_ctx": 64,
    "n_vocab": 67,
    "n_inner": 192,
    "activation": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True,
    "eot": None,
}

HUGGING_FACE_NAMES = {
    "n_ctx": "n_positions",
    "n_vocab": "vocab_size",
    "activation": "activation_function",
    "eot": "eos_token_id",
}


def config_of(**changes: Any) -> dict[str, Any]:
    """PLAIN with these changes; `n_inner` follows `n_embd` unless given."""
    config = {**PLAIN, **changes}
    if "n_inner" not in changes:
        config["n_inner"] = 4 * config["n_embd"]
    return config


ACTIVATION_NAMES = ("gelu_new", "gelu_pytorch_tanh", "gelu", "gelu_fast", "relu", "silu", "tanh")

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": config_of(),
    **{f"act_{name}": config_of(activation=name) for name in ACTIVATION_NAMES[1:]},
    "untied": config_of(tie_word_embeddings=False),
    "unscaled": config_of(scale_attn_weights=False),
    "inverse_layer_idx": config_of(scale_attn_by_inverse_layer_idx=True, n_layer=3),
    "unscaled_inverse": config_of(scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True),
    "upcast": config_of(reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True),
    "epsilon": config_of(layer_norm_epsilon=1e-2),
    "narrow_inner": config_of(n_inner=37),
    "wide_inner": config_of(n_inner=417),
    "head_dim_1": config_of(n_head=5, n_embd=5, n_vocab=33),
    "head_dim_7": config_of(n_head=5, n_embd=35, n_vocab=65),
    "head_dim_32": config_of(n_head=3, n_embd=96),
    "head_dim_48": config_of(n_head=1, n_embd=48),
    "head_dim_64": config_of(n_head=2, n_embd=128),
    "head_dim_80": config_of(n_head=2, n_embd=160),
    "head_dim_96": config_of(n_head=1, n_embd=96),
    "head_dim_128": config_of(n_head=2, n_embd=256, n_layer=1),
    "one_layer_one_head": config_of(n_layer=1, n_head=1, n_embd=17, n_vocab=33),
    "deep": config_of(n_layer=7, n_embd=33),
    "long": config_of(n_ctx=600, n_layer=2, n_head=2, n_embd=34),
    "vocab_33": config_of(n_vocab=33),
    "vocab_250000": config_of(n_vocab=250_000, n_layer=1, n_head=1, n_embd=8, n_ctx=16),
}
ODD = config_of(
    n_layer=3, n_head=5, n_embd=65, n_ctx=600, n_vocab=131, n_inner=203, tie_word_embeddings=False
)


def random_tensors(config: Config, seed: int = 0) -> dict[str, Array]:
    """float32 tensors under their checkpoint names: attention that is not flat, norms that are not
    1 and 0.
    """
    rng = np.random.default_rng(seed)
    d, inner = config["n_embd"], config["n_inner"]

    def normal(*shape: int, std: float) -> Array:
        return (rng.standard_normal(shape) * std).astype(np.float32)

    tensors = {
        "wte.weight": normal(config["n_vocab"], d, std=0.3),
        "wpe.weight": normal(config["n_ctx"], d, std=0.1),
    }

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + normal(d, std=0.2)
        tensors[f"{name}.bias"] = normal(d, std=0.1)

    def conv(name: str, n_in: int, n_out: int) -> None:
        tensors[f"{name}.weight"] = normal(n_in, n_out, std=n_in**-0.5)
        tensors[f"{name}.bias"] = normal(n_out, std=0.1)

    for layer in range(config["n_layer"]):
        norm(f"h.{layer}.ln_1")
        conv(f"h.{layer}.attn.c_attn", d, 3 * d)
        conv(f"h.{layer}.attn.c_proj", d, d)
        norm(f"h.{layer}.ln_2")
        conv(f"h.{layer}.mlp.c_fc", d, inner)
        conv(f"h.{layer}.mlp.c_proj", inner, d)
    norm("ln_f")
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = normal(config["n_vocab"], d, std=0.3)
    return tensors


def random_tokens(config: Config, n: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(1000 + seed)
    n_vocab, n = config["n_vocab"], min(n, config["n_ctx"])
    return np.asarray(rng.integers(0, n_vocab, n), np.int32)


def huggingface_config(config: Config) -> dict[str, Any]:
    """The same configuration in the words of a config.json."""
    renamed = {HUGGING_FACE_NAMES.get(key, key): value for key, value in config.items()}
    return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **renamed}


def config_from_huggingface(found: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a plain GPT-2 config.json, defaults filled in."""
    known = {key: found.get(HUGGING_FACE_NAMES.get(key, key)) for key in PLAIN}
    config = {key: PLAIN[key] if value is None else value for key, value in known.items()}
    return config | {"n_inner": found.get("n_inner") or 4 * found["n_embd"]}


def read_safetensors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a file, without the prefix `transformer.`."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            value = np.frombuffer(raw[start:end], np.float32).reshape(entry["shape"])
            tensors[name.removeprefix("transformer.")] = value
    return tensors
