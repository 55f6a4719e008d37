"""Writes GGUF files byte by byte, sound ones and damaged ones, without the gguf package."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint_files import byte_level_vocabulary
from numpy.typing import NDArray

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 12: (256, 144), 14: (256, 210)}
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10

_SCALARS = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}


@dataclass(frozen=True)
class Raw:
    """A metadata value as its bytes, of any type."""

    kind: int
    content: bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file; an offset of None is the place behind the one before."""

    sizes: tuple[int, ...]
    kind: int
    content: bytes
    offset: int | None = None


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def strings(items: list[str] | list[bytes]) -> Raw:
    content = b"".join(map(string, items))
    return Raw(ARRAY, struct.pack("<IQ", STRING, len(items)) + content)


def integers(items: list[int]) -> Raw:
    return Raw(ARRAY, struct.pack("<IQ", I32, len(items)) + np.array(items, "<i4").tobytes())


def encoded(value: Any) -> Raw:
    """Return a value with the type that llama.cpp's converter gives it."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, str | bytes):
        return Raw(STRING, string(value))
    kind = BOOL if isinstance(value, bool) else U32 if isinstance(value, int) else F32
    return Raw(kind, struct.pack(_SCALARS[kind], value))


@dataclass
class GGUFFile:
    """A GGUF file in parts; what is not given is as it must be."""

    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    extra: list[tuple[str | bytes, Any]] = field(default_factory=list)  # entries, names may repeat
    extra_tensors: list[tuple[str, Tensor]] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    n_entries: int | None = None
    n_tensors: int | None = None
    alignment: int = 32
    tail: bytes = b""

    def header(self) -> tuple[bytes, bytes]:
        """Return the header without its padding, and the data."""
        entries = [*self.metadata.items(), *self.extra]
        tensors = [*self.tensors.items(), *self.extra_tensors]
        n_tensors = len(tensors) if self.n_tensors is None else self.n_tensors
        n_entries = len(entries) if self.n_entries is None else self.n_entries
        parts = [self.magic + struct.pack("<IQQ", self.version, n_tensors, n_entries)]
        for key, value in entries:
            raw = encoded(value)
            parts.append(string(key) + struct.pack("<I", raw.kind) + raw.content)
        data = bytearray()
        for name, tensor in tensors:
            offset = len(data) if tensor.offset is None else tensor.offset
            parts.append(string(name) + struct.pack("<I", len(tensor.sizes)))
            parts.append(struct.pack(f"<{len(tensor.sizes)}Q", *tensor.sizes))
            parts.append(struct.pack("<IQ", tensor.kind % (1 << 32), offset))
            data += tensor.content
            data += bytes(-len(data) % self.alignment)
        return b"".join(parts), bytes(data)

    def bytes(self) -> bytes:
        header, data = self.header()
        return header + bytes(-len(header) % self.alignment) + data + self.tail

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path


SMALL = {
    "gpt2.block_count": 1,
    "gpt2.context_length": 8,
    "gpt2.embedding_length": 32,
    "gpt2.feed_forward_length": 64,
    "gpt2.attention.head_count": 2,
    "gpt2.attention.layer_norm_epsilon": 1e-5,
}
N_ROWS = 260


def stored_shapes(
    metadata: Mapping[str, Any] = SMALL, n_rows: int = N_ROWS
) -> dict[str, tuple[int, ...]]:
    """Return the sizes of every tensor in ggml's order, from the metadata."""
    d, inner = metadata["gpt2.embedding_length"], metadata["gpt2.feed_forward_length"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (d, n_rows),
        "position_embd.weight": (d, metadata["gpt2.context_length"]),
    }
    for layer in range(metadata["gpt2.block_count"]):
        for name, n_in, n_out in (
            ("attn_qkv", d, 3 * d),
            ("attn_output", d, d),
            ("ffn_up", d, inner),
            ("ffn_down", inner, d),
        ):
            shapes[f"blk.{layer}.{name}.weight"] = (n_in, n_out)
            shapes[f"blk.{layer}.{name}.bias"] = (n_out,)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{name}.weight"] = shapes[f"blk.{layer}.{name}.bias"] = (d,)
    shapes["output_norm.weight"] = shapes["output_norm.bias"] = (d,)
    return shapes


def f32(values: NDArray[Any]) -> Tensor:
    """Return a float32 tensor of a NumPy array, whose last size is that of a row."""
    return Tensor(values.shape[::-1], TYPES["F32"], values.astype("<f4").tobytes())


def tokenizer_metadata(n_tokens: int = N_ROWS) -> dict[str, Any]:
    """Return the metadata of `byte_level_vocabulary`, as llama.cpp's converter writes it."""
    tokens, merges = byte_level_vocabulary(n_tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": strings(tokens),
        "tokenizer.ggml.token_type": integers([1] * (n_tokens - 1) + [3]),
        "tokenizer.ggml.merges": strings([" ".join(pair) for pair in merges]),
        "tokenizer.ggml.bos_token_id": n_tokens - 1,
        "tokenizer.ggml.eos_token_id": n_tokens - 1,
    }


def small_file(changes: Mapping[str, Any] | None = None, *, tokenizer: bool = True) -> GGUFFile:
    """Return a sound GPT-2 of one layer; a change to None removes a key of the metadata."""
    metadata: dict[str, Any] = {"general.architecture": "gpt2", **SMALL}
    metadata |= (tokenizer_metadata() if tokenizer else {}) | dict(changes or {})
    rng = np.random.default_rng(0)
    tensors = {
        name: f32(rng.normal(0, 0.1, sizes[::-1])) for name, sizes in stored_shapes().items()
    }
    return GGUFFile({k: v for k, v in metadata.items() if v is not None}, tensors)
