"""The safetensors format, in our own hands: a hostile header is refused before it is used.

    8 bytes   length of the header, unsigned, little endian
    header    JSON, UTF-8, begins with `{`, may end in spaces:
              {"__metadata__": {str: str}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets":
              [begin, end]}, ...}
    data      the tensors back to back: the first begins at 0, the last ends at the end of the file

Forbidden, and refused: a header longer than the file or than 16 MiB (the format allows 100 MB; a
GPT-2's is under 100 KB, and JSON takes twenty times its size once parsed), a name twice, an unknown
key or dtype, offsets that leave a hole, overlap or run past the end, a shape whose bytes are not
exactly the tensor's range.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.weight_file import NoteRead, to_float32
from gpt2fast.config import CheckpointError, parse_json, quote

MAX_HEADER = 16 << 20
MAX_TENSORS = 50_000  # a GPT-2 of 4,096 layers has 49,156; to parse so many takes half a second
ALIGNMENT = 64

_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a header; `begin` and `end` count from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A validated header: `data_start` counts from the file's start, `sha256` is its bytes' own."""

    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    data_start: int
    sha256: str


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; a directory, pipe or device raises CheckpointError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CheckpointError(f"{path} is not a regular file")
    return open(path, "rb")


def read_header(file: BufferedReader, path: Path) -> Header:
    """Read and validate the header of an open safetensors file. Raises CheckpointError."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    prefix = file.read(8)
    if len(prefix) < 8:
        raise CheckpointError(f"{path} is not a safetensors file: {size} bytes")
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        raise CheckpointError(
            f"{path}: header of {length} bytes in a file of {size}: truncated, or not safetensors"
        )
    if length > MAX_HEADER:
        raise CheckpointError(f"{path}: header of {length} bytes, at most {MAX_HEADER} allowed")
    raw = file.read(length)
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{path} is not a safetensors file: the header must begin with '{{'")
    # Counted before parsing: a million tensors would take seconds and hundreds of megabytes.
    if raw.count(b"data_offsets") > MAX_TENSORS:
        raise CheckpointError(f"{path}: more than {MAX_TENSORS} tensors")
    content = parse_json(raw, f"{path}: header")
    metadata = _metadata(content.pop("__metadata__", {}), path)
    tensors = {name: _tensor(entry, name, path) for name, entry in content.items()}
    _check_contiguous(tensors, size - 8 - length, path)
    return Header(metadata, tensors, 8 + length, hashlib.sha256(prefix + raw).hexdigest())


def _metadata(metadata: Any, path: Path) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings")
    return metadata


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _tensor(entry: Any, name: str, path: Path) -> TensorInfo:
    where = f"{path}: tensor {quote(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"{where} has unknown dtype {quote(dtype)}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(map(_is_size, shape)):
        raise CheckpointError(f"{where} has shape {quote(shape)}, not at most 64 sizes >= 0")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise CheckpointError(f"{where} has data_offsets {quote(offsets)}, not [begin, end]")
    begin, end = offsets
    if begin > end:
        raise CheckpointError(f"{where} ends before it begins: data_offsets [{begin}, {end}]")
    if math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
        raise CheckpointError(
            f"{where}: shape {quote(shape)} of {dtype} does not fill its {end - begin} bytes"
        )
    return TensorInfo(dtype, tuple(shape), begin, end)


def _check_contiguous(tensors: Mapping[str, TensorInfo], size: int, path: Path) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != position:
            problem = "overlaps the one before it" if info.begin < position else "leaves a hole"
            raise CheckpointError(
                f"{path}: tensor {quote(name)} {problem}: begins at {info.begin}, not {position}"
            )
        position = info.end
    if position != size:
        problem = "the file is truncated" if position > size else "the rest belongs to no tensor"
        raise CheckpointError(
            f"{path}: {position} bytes of tensors, {size} bytes of data: {problem}"
        )


def encode_header(
    metadata: Mapping[str, str], tensors: Mapping[str, TensorInfo], room: int = 0
) -> bytes:
    """Return length and JSON, padded with spaces to a multiple of 64 and to `room` bytes."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, info in tensors.items():
        content[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.begin, info.end],
        }
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    total = max(room, 8 + len(text))
    total += -total % ALIGNMENT
    return (total - 8).to_bytes(8, "little") + text.ljust(total - 8)


class SafetensorsFile:
    """A WeightFile of the safetensors format: the header validated, tensors read, never mapped.

    The file stays open, so that a file renamed over it cannot mix two checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
        try:
            self.header = read_header(self._file, path)
        except BaseException:
            self._file.close()
            raise

    @property
    def digest(self) -> str:
        """Return the sha256 of the header."""
        return self.header.sha256

    def names(self) -> list[str]:
        """Return the tensors' names as stored."""
        return list(self.header.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self.header.tensors[name].shape

    def nbytes(self, name: str) -> int:
        """Return the size of a tensor as stored, in bytes."""
        info = self.header.tensors[name]
        return info.end - info.begin

    def same(self, name: str, other: str) -> bool:
        """Tell whether two tensors are one: in this format each has bytes of its own."""
        return name == other

    def read(self, name: str, note: NoteRead | None = None) -> NDArray[np.float32]:
        """Return a F32, F16 or BF16 tensor as float32; see WeightFile."""
        info = self.header.tensors[name]
        where = f"{self.path}: tensor {quote(name)}"
        raw = np.empty(info.end - info.begin, np.uint8)
        self._file.seek(self.header.data_start + info.begin)
        if self._file.readinto(raw.data) != raw.nbytes:
            raise CheckpointError(f"{where}: the file was truncated while it was read")
        if note is not None:
            note(self.path, name, raw.data)
        return to_float32(raw, info.dtype, where).reshape(info.shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
