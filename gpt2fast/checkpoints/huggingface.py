"""Hugging Face directories: `config.json`, weights (or their shards), tokenizer files.

The weights are safetensors, or `pytorch_model.bin` files of torch.save, read without torch; where a
directory has both, safetensors. transformers writes the body of GPT2LMHeadModel as
`transformer.h.0...` and that of GPT2Model as `h.0...`; both are read. Causal masks that old
versions stored as `h.0.attn.bias` and `h.0.attn.masked_bias` are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import TOKENIZER_FILES, Checkpoint
from gpt2fast.checkpoints.safetensors import SafetensorsFile
from gpt2fast.checkpoints.torch_files import TorchFile
from gpt2fast.checkpoints.weight_file import WeightFile
from gpt2fast.config import CheckpointError, Config, parse_json, quote

_CONFIG = "config.json"
_SINGLE = ("model.safetensors", "pytorch_model.bin")  # the first of them that is there
_INDEX = ".index.json"
_OPENERS: dict[str, type[SafetensorsFile | TorchFile]] = {
    ".safetensors": SafetensorsFile,
    ".bin": TorchFile,
}
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.gguf", "*.index")
_TABLE, _HEAD = "wte.weight", "lm_head.weight"
_MASK = re.compile(r"(transformer\.)?h\.[0-9]+\.attn\.(masked_)?bias")


class HuggingFaceCheckpoint(Checkpoint):
    """A directory as `save_pretrained` writes it, with float32, float16 or bfloat16 weights.

    The path may also be that of its file of weights.
    """

    format = f"a directory with {_CONFIG} and {' or '.join(_SINGLE)} (or {_INDEX} and its shards)"

    def __init__(self, path: Path) -> None:
        directory = path if path.is_dir() else path.parent
        self.name = directory.resolve().name.encode("utf-8", "replace").decode() or "model"
        self.digests = {}
        tokenizer = [directory / n for n in TOKENIZER_FILES if (directory / n).exists()]
        sources = [directory / _CONFIG, *tokenizer]
        weights = _weights(path)
        index = weights.with_name(weights.name + _INDEX)
        places = None
        files = [weights]
        if not weights.exists() and index.exists():
            places = _weight_map(self.read_small(index), index, weights.suffix)
            files = [directory / name for name in sorted(set(places.values()))]
            sources.append(index)
        for source in [sources[0], *files]:
            if not source.exists():
                raise CheckpointError(f"{source} is missing")
        self.files = (*sources, *files)
        self.stamp()
        self.config = _config(self.read_small(sources[0]), sources[0])
        self.tokenizer_files = {source.name: self.read_small(source) for source in tokenizer}
        self._open(files, places, index)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Tell whether the path is such weights, or a directory that holds them or should."""
        if path.is_file():
            return path.suffix in _OPENERS
        if any((path / (name + end)).exists() for name in _SINGLE for end in ("", _INDEX)):
            return True
        others = any(any(path.glob(pattern)) for pattern in _OTHER_WEIGHTS)
        return (path / _CONFIG).exists() and not others

    def names(self) -> list[str]:
        """Return the tensors' names without `transformer.`, mask buffers left out."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        file, stored = self._places[name]
        return file.shape(stored)

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a F32, F16 or BF16 tensor as float32. Raises CheckpointError for another dtype."""
        file, stored = self._places[name]
        return file.read(stored, self.note_read)

    def close(self) -> None:
        """Close the weight files."""
        for file in self._open_files:
            file.close()

    def _open(self, weights: list[Path], weight_map: dict[str, str] | None, index: Path) -> None:
        self._open_files: list[WeightFile] = []
        self._places: dict[str, tuple[WeightFile, str]] = {}
        self.nbytes = 0
        try:
            for path in weights:
                file: WeightFile = _OPENERS[path.suffix](path)
                self._open_files.append(file)
                self.digests[path.name] = file.digest
                self._add(file, None if weight_map is None else weight_map.get, index)
            for name in weight_map or ():
                if not _MASK.fullmatch(name) and _plain(name) not in self._places:
                    raise CheckpointError(f"{index}: tensor {quote(name)} is in none of the files")
            self._drop_tied_head()
        except BaseException:
            self.close()
            raise

    def _add(
        self, file: WeightFile, shard_of: Callable[[str], str | None] | None, index: Path
    ) -> None:
        for stored in file.names():
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
            self.nbytes += file.nbytes(stored)

    def _drop_tied_head(self) -> None:
        """Forget a head that is the very bytes of the token table it is tied to."""
        if not self.config.tie_word_embeddings or not {_HEAD, _TABLE} <= self._places.keys():
            return
        (file, head), (other, table) = self._places[_HEAD], self._places[_TABLE]
        if file is other and file.same(head, table):
            del self._places[_HEAD]
            self.nbytes -= file.nbytes(head)


def _weights(path: Path) -> Path:
    """Return the file of weights, which need not exist if it is sharded."""
    if path.is_file():
        return path
    names = (name for name in _SINGLE for end in ("", _INDEX) if (path / (name + end)).exists())
    return path / next(names, _SINGLE[0])


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


def _weight_map(content: bytes, path: Path, suffix: str) -> dict[str, str]:
    index = parse_json(content, str(path))
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} must hold an object weight_map")
    for name, file in weight_map.items():
        # A name with a separator or drive could lead out of the directory.
        if not isinstance(file, str) or not re.fullmatch(rf"[\w.-]+\{suffix}", file):
            raise CheckpointError(
                f"{path}: tensor {quote(name)} is in {quote(file)}, not a {suffix} file of this "
                "directory"
            )
    return weight_map
