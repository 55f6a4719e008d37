"""Readers of checkpoints, one per source format, behind one interface, and our own packed file.

A new source format is one module with a `Checkpoint` and one line in `_readers`. Names and layouts
are always those of Hugging Face's GPT-2 without the `transformer.` prefix: `h.0.attn.c_attn.weight`
is [n_in, n_out].
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.safetensors import open_regular
from gpt2fast.config import CheckpointError, Config, quote

MAX_SMALL_FILE = 256 << 20  # a tokenizer.json of 250,000 tokens has 30 MB
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a model was converted from: name, size in bytes, and one digest in hexadecimal.

    `sha256` is that of the file, of those read whole (configuration, tokenizer, index).
    `tensors_sha256` is that of a file of weights, which is read tensor by tensor. It is not what
    sha256sum prints, but the sha256 of a text: first the sha256 of the file's header, or nothing if
    the reader gives none; then, per tensor that was read, sorted by name as stored, `NAME SHA256`
    of its bytes as stored; each with a newline.
    """

    name: str
    size: int
    sha256: str | None = None
    tensors_sha256: str | None = None


class Checkpoint(ABC):
    """A source of weights: configuration, tokenizer files, and tensors that are read one at a time.

    Readers set the attributes: `name` of the model, `config`, `tokenizer_files` (name to content),
    `files` (every file read), `digests` (sha256 of headers and of files read whole), `nbytes` (of
    all tensors as stored).
    """

    format: ClassVar[str]
    original_names: ClassVar[Mapping[str, str]] = {}  # what the format calls the tokenizer's files
    name: str
    config: Config
    tokenizer_files: dict[str, bytes]
    files: tuple[Path, ...]
    digests: dict[str, str]
    nbytes: int
    _stamps: tuple[tuple[int, int, int], ...]
    _tensor_hashes: dict[Path, dict[str, str]]

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Tell whether the path looks like this format; does not read weights."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the tensors' names, mask buffers left out."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""

    @abstractmethod
    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32, in C or in Fortran order. Raises CheckpointError."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def where(self) -> Path:
        """What messages name: the file if there is only one, else the directory."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent

    def check_tensors(self) -> None:
        """Compare names and shapes with what the configuration demands. Raises CheckpointError."""
        expected = self.config.tensor_shapes()
        names = set(self.names())
        if self.config.tie_word_embeddings and "lm_head.weight" in names:
            expected["lm_head.weight"] = expected["wte.weight"]  # a copy; compared when packed
        if missing := [name for name in expected if name not in names]:
            raise CheckpointError(f"{self.where}: {_listed('missing', missing)}")
        if extra := sorted(names - expected.keys()):
            raise CheckpointError(
                f"{self.where}: {_listed('unknown', extra)}; a GPT-2 of "
                f"{self.config.n_layer} layers has none"
            )
        for name, shape in expected.items():
            if self.shape(name) != shape:
                raise CheckpointError(
                    f"{self.where}: tensor {name} has shape {list(self.shape(name))}, "
                    f"the configuration says {list(shape)}"
                )

    def read_small(self, path: Path, limit: int = MAX_SMALL_FILE) -> bytes:
        """Return the content of a file that is not of weights, and note its digest.

        Raises CheckpointError if it has more than `limit` bytes or is not a regular file.
        """
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(f"{path} has more than {limit} bytes")
            content = file.read(size)  # allocates what it is told, however short the file
        self.digests[path.name] = hashlib.sha256(content).hexdigest()
        return content

    def stamp(self) -> None:
        """Remember size, time and inode of every file; readers call it before they open one."""
        self._stamps = self._stat()
        self._tensor_hashes = {}

    def note_read(self, file: Path, stored_name: str, raw: bytes | memoryview) -> None:
        """Record the sha256 of a tensor's bytes as stored; every `read` calls it, once.

        `file` is one of `files`, `raw` the bytes (of an array: its `data`). So each tensor is read
        once for hash, error and packing.
        """
        if file not in self.files:
            raise ValueError(f"{file} is none of the checkpoint's files")
        self._tensor_hashes.setdefault(file, {})[stored_name] = hashlib.sha256(raw).hexdigest()

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written, replaced or removed since `stamp`."""
        try:
            stamps = self._stat()
        except FileNotFoundError as error:
            raise CheckpointError(f"{error.filename} was removed while it was read") from None
        for path, before, now in zip(self.files, self._stamps, stamps, strict=True):
            if before != now:
                raise CheckpointError(f"{path} changed while it was read")

    def identity(self) -> str:
        """Return a digest that changes when the source does, without reading its weights."""
        parts = [repr(item) for item in sorted(self.digests.items())]
        for path, (size, modified, _) in zip(self.files, self._stamps, strict=True):
            parts.append(repr((os.path.abspath(path), size, modified)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def sources(self) -> tuple[SourceFile, ...]:
        """Return every file and its digest, once all tensors were read.

        Raises CheckpointError if a file changed since `stamp`.
        """
        self.check_unchanged()
        sources = tuple(map(self._source, self.files, self._stamps))
        self.check_unchanged()
        return sources

    def _source(self, path: Path, stamp: tuple[int, int, int]) -> SourceFile:
        if path not in self._tensor_hashes:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return SourceFile(path.name, stamp[0], digest)
        lines = [self.digests.get(path.name, "")]
        lines += [f"{name} {sha256}" for name, sha256 in sorted(self._tensor_hashes[path].items())]
        text = "".join(f"{line}\n" for line in lines)
        return SourceFile(
            path.name, stamp[0], tensors_sha256=hashlib.sha256(text.encode()).hexdigest()
        )

    def _stat(self) -> tuple[tuple[int, int, int], ...]:
        stats = map(os.stat, self.files)
        return tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in stats)


def _listed(kind: str, names: list[str]) -> str:
    shown = ", ".join(map(quote, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind} tensor{'s' if len(names) > 1 else ''}: {shown}"


def _readers() -> tuple[type[Checkpoint], ...]:
    from gpt2fast.checkpoints.gguf import GGUFCheckpoint
    from gpt2fast.checkpoints.huggingface import HuggingFaceCheckpoint
    from gpt2fast.checkpoints.nanogpt import NanoGPTCheckpoint
    from gpt2fast.checkpoints.tensorflow import TensorflowCheckpoint

    return (GGUFCheckpoint, HuggingFaceCheckpoint, TensorflowCheckpoint, NanoGPTCheckpoint)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint in any of the formats that we read.

    Headers, configuration and tokenizer files are read and checked, no weight is. Raises
    CheckpointError, naming what is missing.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    found = [reader for reader in _readers() if reader.recognises(path)]
    if not found:
        formats = "; ".join(reader.format for reader in _readers())
        raise CheckpointError(
            f"{path} is not a checkpoint that gpt2fast reads. It reads: {formats}"
        )
    if len(found) > 1 and path.is_dir():
        formats = " and ".join(reader.format for reader in found)
        raise CheckpointError(
            f"{path} holds several checkpoints: {formats}. Give the path of the file that you mean"
        )
    checkpoint = found[0](path)  # type: ignore[call-arg]
    try:
        checkpoint.check_tensors()
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint
