"""Writes small checkpoints for the tests, byte by byte, with NumPy and the standard library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stored = tuple[str, tuple[int, ...], bytes]

_SIZES: dict[str, int] = {
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 24,
    "n_positions": 13,
    "vocab_size": 300,
}


def hf_config(**changes: Any) -> dict[str, Any]:
    """Return the content of a config.json; a change to None removes the key."""
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **_SIZES, **changes}
    return {key: value for key, value in config.items() if value is not None}


def random_tensors(
    shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> dict[str, NDArray[np.float32]]:
    """Return normal weights of the given shapes."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.1, s).astype(np.float32) for name, s in shapes.items()}


def stored(values: NDArray[Any], dtype: str = "F32") -> Stored:
    """Return a tensor as safetensors stores it; BF16 cuts the lower half of each float32 off."""
    if dtype == "BF16":
        raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        names = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "BOOL": "?"}
        raw = values.astype(names[dtype]).tobytes()
    return dtype, values.shape, raw


def header_bytes(content: object, data: bytes = b"") -> bytes:
    """Return a safetensors file of any header: JSON text, bytes, or something to encode as JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    return len(content).to_bytes(8, "little") + content + data


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Write a plain safetensors file, as the safetensors package would."""
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        offsets = [len(data), len(data) + len(raw)]
        content[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += raw
    path.write_bytes(header_bytes(content, data))


def write_checkpoint(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    *,
    dtype: str = "F32",
    prefix: str = "transformer.",
    extra: Mapping[str, Stored] | None = None,
) -> Path:
    """Write a Hugging Face directory without tokenizer, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    content = {
        ("" if name == "lm_head.weight" else prefix) + name: stored(values, dtype)
        for name, values in tensors.items()
    }
    write_safetensors(directory / "model.safetensors", {**content, **(extra or {})})
    return directory


def byte_level_vocabulary(n_tokens: int = 257) -> tuple[list[str], list[tuple[str, str]]]:
    """Return tokens and merges: the 256 bytes, then made-up merges, <|endoftext|> last."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + i) for i, byte in enumerate(rest)})
    tokens = [letters[byte] for byte in [*printable, *rest]]
    merges = []
    for i in range(n_tokens - 257):
        merges.append((tokens[i % 94], tokens[i // 94]))
        tokens.append("".join(merges[-1]))
    return [*tokens, "<|endoftext|>"], merges


def write_tokenizer(directory: Path, n_tokens: int = 257) -> None:
    """Write vocab.json and merges.txt of `byte_level_vocabulary`."""
    tokens, merges = byte_level_vocabulary(n_tokens)
    vocab = {token: i for i, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
