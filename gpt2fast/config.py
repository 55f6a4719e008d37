"""The configuration of a GPT-2: what a checkpoint may say, checked once, in one place.

`Config` is what every later stage relies on: after it exists, all dimensions are positive integers
within bounds, `n_embd` is a multiple of `n_head`, and the activation is one that the kernels know.
Everything that is not GPT-2 is refused here by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh", "gelu", "gelu_fast", "relu", "silu", "tanh")

# Far above any GPT-2 and far below what could overflow 64-bit sizes.
_LIMITS = {
    "n_layer": 4096,
    "n_head": 1 << 16,
    "n_embd": 1 << 20,
    "n_ctx": 1 << 24,
    "n_vocab": 1 << 24,
    "n_inner": 1 << 22,
}
_FLAGS = (
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "tie_word_embeddings",
)

# field: the names that transformers takes for it, the usual one first
_HUGGINGFACE_NAMES = {
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_ctx": ("n_positions", "max_position_embeddings", "n_ctx"),
    "n_vocab": ("vocab_size",),
}
_HUGGINGFACE_FLAGS = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True,
}
_LANGUAGE_MODELS = ("GPT2LMHeadModel", "GPT2Model")
_OTHER_MODELS = {
    "bloom": ("BLOOM", "positions by attention bias"),
    "codegen": ("CodeGen", "rotary positions, parallel blocks"),
    "ctrl": ("CTRL", "sinusoidal positions"),
    "gpt_bigcode": ("GPT-BigCode", "multi-query attention"),
    "gpt_neo": ("GPT-Neo", "local attention layers"),
    "gpt_neox": ("GPT-NeoX", "rotary positions, parallel blocks"),
    "gptj": ("GPT-J", "rotary positions, parallel blocks"),
    "imagegpt": ("ImageGPT", "pixels instead of text"),
    "llama": ("Llama", "rotary positions, RMS norm, gated MLP"),
    "mistral": ("Mistral", "rotary positions, RMS norm, gated MLP"),
    "openai-gpt": ("GPT-1", "normalises after each block"),
    "opt": ("OPT", "its own position table and blocks"),
    "qwen2": ("Qwen2", "rotary positions, RMS norm, gated MLP"),
}


_short = reprlib.Repr()
_short.maxlevel = 2
_short.maxstring = _short.maxlong = _short.maxother = 80


class CheckpointError(ValueError):
    """Say that a file is missing, damaged or not a GPT-2: which file, which tensor, why."""


def quote(value: object) -> str:
    """Show a value from a file inside an error message: quoted, ASCII, and short whatever it is."""
    return _short.repr(value).encode("ascii", "backslashreplace").decode("ascii")


def parse_json(data: bytes, what: str) -> Any:
    """Parse JSON from an untrusted file: UTF-8, no key twice in an object, bounded nesting.

    Raises CheckpointError, which starts with `what`.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{what} is not UTF-8: byte {data[error.start]:#04x} at {error.start}"
        ) from None
    except RecursionError:
        raise CheckpointError(f"{what} is not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{what} is not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {quote(key)} appears twice")
            seen.add(key)
    return result


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """Describe a GPT-2. Raises CheckpointError if a value is not one that a GPT-2 can have.

    `n_inner` is the width of the MLP, `n_ctx` the number of positions, `n_vocab` the rows of the
    token table, `eot` the id that ends a text, or None if the vocabulary has none.
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_ctx: int
    n_vocab: int
    n_inner: int
    activation: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    eot: int | None = None

    def __post_init__(self) -> None:
        for field, limit in _LIMITS.items():
            _check_integer(field, getattr(self, field), limit)
        if self.n_embd % self.n_head:
            raise CheckpointError(
                f"n_embd must be a multiple of n_head, got n_embd {self.n_embd} and n_head "
                f"{self.n_head}"
            )
        if self.activation not in ACTIVATIONS:
            raise CheckpointError(
                f"activation must be one of {', '.join(ACTIVATIONS)}; got {quote(self.activation)}"
            )
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, float) or not 0 < epsilon < math.inf:
            raise CheckpointError(
                f"layer_norm_epsilon must be a positive finite number, got {quote(epsilon)}"
            )
        for field in _FLAGS:
            if not isinstance(getattr(self, field), bool):
                raise CheckpointError(
                    f"{field} must be true or false, got {quote(getattr(self, field))}"
                )
        if self.eot is not None and (not _is_integer(self.eot) or not 0 <= self.eot < self.n_vocab):
            raise CheckpointError(
                f"eot must be an id below n_vocab {self.n_vocab} or null, got {quote(self.eot)}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any]) -> Config:
        """Read a Hugging Face `config.json`; absent options take transformers' defaults.

        Raises CheckpointError for another architecture, a missing dimension, or a value out of
        range.
        """
        _refuse_other_models(config)
        sizes: dict[str, Any] = {
            field: _size(config, field, names) for field, names in _HUGGINGFACE_NAMES.items()
        }
        n_inner = config.get("n_inner")
        activation = config.get("activation_function", "gelu_new")
        epsilon = config.get("layer_norm_epsilon", 1e-5)
        if _is_integer(epsilon) and 0 < epsilon < 1 << 53:
            epsilon = float(epsilon)
        return cls(
            **sizes,
            n_inner=4 * sizes["n_embd"] if n_inner is None else n_inner,
            activation="silu" if activation == "swish" else activation,
            layer_norm_epsilon=epsilon,
            **{flag: config.get(flag, default) for flag, default in _HUGGINGFACE_FLAGS.items()},
            eot=_end_of_text(config.get("eos_token_id", 50256), sizes["n_vocab"]),
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Config:
        """Read what `to_dict` wrote: exactly its keys. Raises CheckpointError."""
        expected = {field.name for field in dataclasses.fields(cls)}
        if config.keys() != expected:
            missing, extra = sorted(expected - config.keys()), sorted(config.keys() - expected)
            raise CheckpointError(f"missing keys {quote(missing)}, unknown keys {quote(extra)}")
        return cls(**config)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self)

    def check_tokenizer(self, n_tokens: int, where: object) -> None:
        """Raise CheckpointError, naming `where`, if a tokenizer has ids without an embedding."""
        if n_tokens > self.n_vocab:
            raise CheckpointError(
                f"{where}: the tokenizer has {n_tokens} tokens, wte.weight only {self.n_vocab} rows"
            )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Map every tensor to its shape, in order of use, as Hugging Face names and lays them out.

        Matrices inside the blocks are [n_in, n_out] (transformers' Conv1D), the tables [rows,
        n_embd].
        """
        d, inner = self.n_embd, self.n_inner
        shapes: dict[str, tuple[int, ...]] = {
            "wte.weight": (self.n_vocab, d),
            "wpe.weight": (self.n_ctx, d),
        }
        for layer in range(self.n_layer):
            block = {
                "ln_1": ((d,), (d,)),
                "attn.c_attn": ((d, 3 * d), (3 * d,)),
                "attn.c_proj": ((d, d), (d,)),
                "ln_2": ((d,), (d,)),
                "mlp.c_fc": ((d, inner), (inner,)),
                "mlp.c_proj": ((inner, d), (d,)),
            }
            for name, (weight, bias) in block.items():
                shapes[f"h.{layer}.{name}.weight"] = weight
                shapes[f"h.{layer}.{name}.bias"] = bias
        shapes["ln_f.weight"] = shapes["ln_f.bias"] = (d,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.n_vocab, d)
        return shapes


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_integer(name: str, value: object, limit: int) -> None:
    if not _is_integer(value) or not 1 <= value <= limit:  # type: ignore[operator]
        raise CheckpointError(f"{name} must be an integer from 1 to {limit}, got {quote(value)}")


def _size(config: Mapping[str, Any], field: str, names: tuple[str, ...]) -> int:
    for name in names:
        if name in config:
            value = config[name]
            _check_integer(name, value, _LIMITS[field])
            return int(value)
    raise CheckpointError(f"{names[0]} is missing")


def _end_of_text(eos: object, n_vocab: int) -> int | None:
    """Take the (first) id; one outside the vocabulary is the default of another vocabulary."""
    if isinstance(eos, list):
        eos = eos[0] if eos else None
    if eos is None:
        return None
    if not isinstance(eos, int) or isinstance(eos, bool):
        raise CheckpointError(f"eos_token_id must be an integer, a list or null, got {quote(eos)}")
    return eos if 0 <= eos < n_vocab else None


def _refuse_other_models(config: Mapping[str, Any]) -> None:
    only = "gpt2fast runs GPT-2 only"
    model_type = config.get("model_type", "gpt2")  # files of 2019 do not name it
    if model_type != "gpt2":
        if isinstance(model_type, str) and model_type in _OTHER_MODELS:
            name, reason = _OTHER_MODELS[model_type]
            raise CheckpointError(f"is a {name} model ({reason}): {only}")
        raise CheckpointError(f"is a {quote(model_type)} model: {only}")
    architectures = config.get("architectures") or ["GPT2LMHeadModel"]
    if not isinstance(architectures, list):
        raise CheckpointError(f"architectures must be a list, got {quote(architectures)}")
    if not any(name in architectures for name in _LANGUAGE_MODELS):
        allowed = " or ".join(_LANGUAGE_MODELS)
        raise CheckpointError(
            f"is a {', '.join(map(quote, architectures[:3]))} model, not {allowed}: {only}, with "
            "its language-model head"
        )
    if config.get("add_cross_attention"):
        raise CheckpointError(f"add_cross_attention is true (an encoder-decoder model): {only}")
    if config.get("pruned_heads"):
        raise CheckpointError("pruned_heads is not empty: models with removed heads are not read")
    if config.get("quantization_config"):
        raise CheckpointError(
            "quantization_config is set: give the checkpoint before quantization, in float32, "
            "float16 or bfloat16"
        )
