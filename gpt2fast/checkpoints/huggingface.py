"""Hugging Face directories: `config.json`, safetensors weights (or shards), tokenizer files.

transformers writes the body of GPT2LMHeadModel as `transformer.h.0...` and that of GPT2Model as
`h.0...`; both are read. Causal masks that old versions stored as `h.0.attn.bias` and
`h.0.attn.masked_bias` are left out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import TOKENIZER_FILES, Checkpoint
from gpt2fast.checkpoints.safetensors import SafetensorsFile, open_regular
from gpt2fast.config import CheckpointError, Config, parse_json, quote

_CONFIG = "config.json"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MASK = re.compile(r"(transformer\.)?h\.[0-9]+\.attn\.(masked_)?bias")
_MAX_SMALL_FILE = 256 << 20  # a tokenizer.json of 250,000 tokens has 30 MB


class HuggingFaceCheckpoint(Checkpoint):
    """A directory as `save_pretrained` writes it, with float32, float16 or bfloat16 weights."""

    format = f"a directory with {_CONFIG} and {_SINGLE} (or {_INDEX} and its shards)"

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name.encode("utf-8", "replace").decode() or "model"
        self.digests = {}
        index_path = path / _INDEX
        weights = [path / _SINGLE]
        sources = [path / _CONFIG, *(path / n for n in TOKENIZER_FILES if (path / n).exists())]
        weight_map: dict[str, str] | None = None
        if not weights[0].exists() and index_path.exists():
            weight_map = _weight_map(self._read_small(index_path), index_path)
            weights = [path / name for name in sorted(set(weight_map.values()))]
            sources.append(index_path)
        for source in [sources[0], *weights]:
            if not source.exists():
                raise CheckpointError(f"{source} is missing")
        self.files = (*sources, *weights)
        self.stamp()
        self.config = _config(self._read_small(sources[0]), sources[0])
        self.tokenizer_files = {
            source.name: self._read_small(source)
            for source in sources
            if source.name in TOKENIZER_FILES
        }
        self._open(weights, weight_map, index_path)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Tell whether the directory holds safetensors weights, or should."""
        if any((path / name).exists() for name in (_SINGLE, _INDEX)):
            return True
        return (path / _CONFIG).exists() and not any(path.glob("*.bin"))

    def names(self) -> list[str]:
        """Return the tensors' names without `transformer.`, mask buffers left out."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        file, stored = self._places[name]
        return file.header.tensors[stored].shape

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a F32, F16 or BF16 tensor as float32. Raises CheckpointError for another dtype."""
        file, stored = self._places[name]
        return file.read(stored, self.note_read)

    def close(self) -> None:
        """Close the weight files."""
        for file in self._open_files:
            file.close()

    def _read_small(self, path: Path) -> bytes:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MAX_SMALL_FILE:
                raise CheckpointError(f"{path} has more than {_MAX_SMALL_FILE} bytes")
            content = file.read()
        self.digests[path.name] = hashlib.sha256(content).hexdigest()
        return content

    def _open(self, weights: list[Path], weight_map: dict[str, str] | None, index: Path) -> None:
        self._open_files: list[SafetensorsFile] = []
        self._places: dict[str, tuple[SafetensorsFile, str]] = {}
        self.nbytes = 0
        try:
            for path in weights:
                file = SafetensorsFile(path)
                self._open_files.append(file)
                self.digests[path.name] = file.header.sha256
                self._add(file, None if weight_map is None else weight_map.get, index)
            for name in weight_map or ():
                if not _MASK.fullmatch(name) and _plain(name) not in self._places:
                    raise CheckpointError(f"{index}: tensor {quote(name)} is in none of the files")
        except BaseException:
            self.close()
            raise

    def _add(
        self, file: SafetensorsFile, shard_of: Callable[[str], str | None] | None, index: Path
    ) -> None:
        for stored, info in file.header.tensors.items():
            if _MASK.fullmatch(stored):
                continue
            name = _plain(stored)
            if name in self._places:
                raise CheckpointError(f"{file.path}: tensor {quote(name)} is stored twice")
            if shard_of is not None and shard_of(stored) != file.path.name:
                raise CheckpointError(
                    f"{index} does not say that {file.path.name} holds tensor {quote(stored)}"
                )
            self._places[name] = (file, stored)
            self.nbytes += info.end - info.begin


def _plain(name: str) -> str:
    return name.removeprefix("transformer.")


def _config(content: bytes, path: Path) -> Config:
    config = parse_json(content, str(path))
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    try:
        return Config.from_huggingface(config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _weight_map(content: bytes, path: Path) -> dict[str, str]:
    index = parse_json(content, str(path))
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} must hold an object weight_map")
    for name, file in weight_map.items():
        # A name with a separator or drive could lead out of the directory.
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise CheckpointError(
                f"{path}: tensor {quote(name)} is in {quote(file)}, not a .safetensors file of "
                "this directory"
            )
    return weight_map
