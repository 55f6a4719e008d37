"""GGUF files of architecture gpt2, as llama.cpp's converter and quantizer write them.

    token_embd      wte             blk.N.attn_norm     h.N.ln_1
    position_embd   wpe             blk.N.attn_qkv      h.N.attn.c_attn
    output_norm     ln_f            blk.N.attn_output   h.N.attn.c_proj
    output          lm_head         blk.N.ffn_norm      h.N.ln_2
                                    blk.N.ffn_up        h.N.mlp.c_fc
                                    blk.N.ffn_down      h.N.mlp.c_proj

Matrices of the blocks are stored [n_out, n_in], the transpose of ours. The activation is not in the
file: of architecture gpt2 it is gelu_new, as llama.cpp computes it.

The output head: without `output.weight` it is the token table. Converters until 2024 repeated the
table there: the two are compared in places (`_is_repeated`), and completely when they are packed.
If they differ, also because a quantizer gave the head a finer type, it is a head of its own: the
logits are those that the file says.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import Checkpoint
from gpt2fast.checkpoints.gguf_blocks import dequantize
from gpt2fast.checkpoints.gguf_header import MAGIC, GGUFHeader, GGUFTensor, read_header
from gpt2fast.checkpoints.gguf_tokenizer import GGUFTokenizer
from gpt2fast.checkpoints.layout import is_conv1d
from gpt2fast.checkpoints.safetensors import open_regular
from gpt2fast.config import CheckpointError, Config, quote

_NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_TABLE, _HEAD = "token_embd.weight", "output.weight"
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "*.pt", "*.pth", "*.ckpt*")
_SIZES = {
    "n_layer": "gpt2.block_count",
    "n_head": "gpt2.attention.head_count",
    "n_embd": "gpt2.embedding_length",
    "n_ctx": "gpt2.context_length",
    "n_inner": "gpt2.feed_forward_length",
}
_EPSILON = "gpt2.attention.layer_norm_epsilon"


class GGUFCheckpoint(Checkpoint):
    """A GGUF file, or a directory whose only weights are one; read, never mapped."""

    format = "a GGUF file of architecture gpt2, or a directory whose only weights are one"
    original_names = MappingProxyType({"tokenizer.json": "tokenizer.ggml"})

    def __init__(self, path: Path) -> None:
        path = _single_file(path)
        if not path.exists():
            raise CheckpointError(f"{path} is missing")
        self.name = path.stem.encode("utf-8", "replace").decode() or "model"
        self.files = (path,)
        self.stamp()
        self._path = path
        self._file = open_regular(path)
        try:
            self._header = read_header(self._file, path)
            self._read_metadata()
            self._places = self._tensors_by_name()
        except BaseException:
            self.close()
            raise
        self.digests = {path.name: self._header.sha256}
        self.nbytes = sum(tensor.end - tensor.begin for tensor in self._places.values())

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Tell whether the path is a GGUF file, or a directory with such files and no others."""
        if path.is_file():
            with open(path, "rb") as file:
                return path.suffix.lower() == ".gguf" or file.read(4) == MAGIC
        return any(path.glob("*.gguf")) and not any(
            any(path.glob(pattern)) for pattern in _OTHER_WEIGHTS
        )

    @cached_property
    def tokenizer_files(self) -> dict[str, bytes]:  # type: ignore[override]
        """The tokenizer as files; made when asked for, since `load` of a cached model is not."""
        return self._tokenizer.files()

    def names(self) -> list[str]:
        """Return the tensors' Hugging Face names."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return _shape(name, self._places[name])

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32, dequantized. Raises CheckpointError if the file shrank."""
        tensor = self._places[name]
        raw = np.empty(tensor.end - tensor.begin, np.uint8)
        self._read_at(tensor, 0, raw)
        self.note_read(self._path, tensor.name, raw.data)
        weights = dequantize(raw, tensor.kind)
        shape = self.shape(name)
        if is_conv1d(name):
            return weights.reshape(shape[::-1]).T  # packing transposes it back: nothing is moved
        return weights.reshape(shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_metadata(self) -> None:
        header = self._header
        _check_model(header)
        table = self._stored(_TABLE)
        n_rows = _rows(table)
        self._tokenizer = GGUFTokenizer(header, n_rows)
        head = header.tensors.get(_HEAD)
        tied = head is None or self._is_repeated(table, head)
        self.config = _config(header, n_rows, tied, self._tokenizer.eot)

    def _stored(self, name: str) -> GGUFTensor:
        found = self._header.tensors.get(name)
        if found is None:
            raise CheckpointError(f"{self._path}: tensor {name} is missing")
        return found

    def _tensors_by_name(self) -> dict[str, GGUFTensor]:
        """Compare names and sizes with what the configuration demands."""
        expected = self.config.tensor_shapes()
        if _HEAD in self._header.tensors:
            expected["lm_head.weight"] = expected["wte.weight"]
        places = {name: self._stored(_stored_name(name)) for name in expected}
        known = {tensor.name for tensor in places.values()}
        for name in self._header.tensors:
            if name not in known:
                raise CheckpointError(
                    f"{self._path}: tensor {quote(name)} is unknown; a GPT-2 of "
                    f"{self.config.n_layer} layers has none"
                )
        for name, shape in expected.items():
            if _shape(name, places[name]) != shape:
                sizes = shape if is_conv1d(name) else shape[::-1]
                raise CheckpointError(
                    f"{self._path}: tensor {places[name].name} has the sizes "
                    f"{quote(list(places[name].sizes))}, the metadata says {list(sizes)}"
                )
        return places

    def _is_repeated(self, table: GGUFTensor, head: GGUFTensor) -> bool:
        """Compare two tensors where they begin, where they end, and in places between."""
        if (table.kind, table.sizes) != (head.kind, head.sizes):
            return False
        size = table.end - table.begin
        long, short = min(size, 1 << 20), min(size, 1 << 12)
        pieces = [(0, long), (size - long, long)]
        pieces += [((size - short) * i // 64, short) for i in range(64)]
        for start, length in pieces:
            one, other = np.empty((2, length), np.uint8)
            self._read_at(table, start, one)
            self._read_at(head, start, other)
            if not np.array_equal(one, other):
                return False
        return True

    def _read_at(self, tensor: GGUFTensor, start: int, out: NDArray[np.uint8]) -> None:
        self._file.seek(tensor.begin + start)
        if self._file.readinto(out.data) != out.nbytes:
            raise CheckpointError(
                f"{self._path}: tensor {tensor.name}: the file was truncated while it was read"
            )


def _single_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        shown = ", ".join(quote(file.name) for file in files[:5]) + ", ..." * (len(files) > 5)
        raise CheckpointError(f"{path} has {len(files)} GGUF files ({shown}): name one of them")
    return files[0]


def _check_model(header: GGUFHeader) -> None:
    """Refuse what is not a whole GPT-2."""
    architecture = header.text("general.architecture")
    if architecture is None:
        raise CheckpointError(f"{header.path}: general.architecture is missing")
    if architecture != "gpt2":
        raise CheckpointError(
            f"{header.path} is a {quote(architecture)} model: gpt2fast runs GPT-2 only"
        )
    kind = header.text("general.type")
    if kind not in (None, "model"):
        raise CheckpointError(f"{header.path} is a file of type {quote(kind)}, not a model")
    pieces = header.integer("split.count")
    if pieces not in (None, 0, 1):
        raise CheckpointError(
            f"{header.path} is one of {pieces} pieces of a model: join them "
            "(llama-gguf-split --merge)"
        )


def _config(header: GGUFHeader, n_vocab: int, tied: bool, eot: int | None) -> Config:
    values: dict[str, Any] = {key: header.integer(key) for key in _SIZES.values()}
    values[_EPSILON] = header.number(_EPSILON)
    for key, value in values.items():
        if value is None:
            raise CheckpointError(f"{header.path}: {key} is missing")
    try:
        return Config(
            **{field: values[key] for field, key in _SIZES.items()},
            n_vocab=n_vocab,
            # 1e-5 was rounded to float32 when it was written: the shortest number that does so
            layer_norm_epsilon=float(str(np.float32(values[_EPSILON]))),
            tie_word_embeddings=tied,
            eot=eot,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{header.path}: {error}") from None


def _stored_name(name: str) -> str:
    part, _, kind = name.rpartition(".")
    block = re.fullmatch(r"h\.(\d+)\.(.*)", part)
    stored = _NAMES[part] if block is None else f"blk.{block[1]}.{_NAMES[block[2]]}"
    return f"{stored}.{kind}"


def _rows(table: GGUFTensor) -> int:
    """Return the rows of a table; ggml writes a single one without its size 1."""
    return table.sizes[1] if len(table.sizes) > 1 else 1


def _shape(name: str, tensor: GGUFTensor) -> tuple[int, ...]:
    """Return a tensor's shape in our layout, sizes of 1 that ggml adds or leaves out put right."""
    sizes = list(tensor.sizes)
    rank = 2 if name.endswith(".weight") and ".ln_" not in f".{name}" else 1
    while len(sizes) > rank and sizes[-1] == 1:
        sizes.pop()
    sizes += [1] * (rank - len(sizes))
    return tuple(sizes if is_conv1d(name) else reversed(sizes))
