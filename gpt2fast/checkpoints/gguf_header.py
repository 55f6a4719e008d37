"""The header of a GGUF file, versions 2 and 3, little endian: metadata, and where tensors lie.

    4 bytes    "GGUF"
    u32        version
    u64        number of tensors
    u64        number of metadata entries
    entries    key: string, type: u32, value        a string is its length, u64, and UTF-8
    tensors    name: string, n: u32, sizes: u64[n], type: u32, offset: u64
    padding    to a multiple of general.alignment (32 if absent), where the data begins
    data       the tensors, each padded to a multiple of the alignment; offsets count from here

An array is the type of its items, u32, their number, u64, and the items. The first size of a tensor
is that of a row: the one whose neighbours lie side by side.

Forbidden, and refused: lengths and counts beyond the file or the limits below, a key or tensor
twice, arrays of arrays, tensors that overlap, leave a hole or run past the end.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.gguf_blocks import BLOCK_TYPES, OTHER_TYPES, BlockType
from gpt2fast.config import CheckpointError, quote

MAGIC = b"GGUF"
MAX_HEADER = 64 << 20  # a vocabulary of 250,000 tokens, with types, scores and merges, has 12 MB
MAX_ENTRIES = 100_000  # of metadata, and tensors
MAX_STRINGS = 1 << 20  # in all arrays together: tokens and merges
_MAX_NAME = (1 << 16) - 1  # bytes of a key or a tensor's name
_MAX_DIMENSIONS = 4
_PIECE = 1 << 20  # bytes read at once

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    number: struct.Struct("<" + code)
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor: `sizes` begin with that of a row; `begin`, `end` count from the file's start."""

    name: str
    kind: BlockType
    sizes: tuple[int, ...]
    begin: int
    end: int


class GGUFHeader:
    """A validated header: tensors by name, metadata by key, `sha256` of its bytes.

    The methods return the value of a key, None if it is absent, and raise CheckpointError if it is
    of another type.
    """

    def __init__(
        self, path: Path, metadata: dict[str, Any], tensors: dict[str, GGUFTensor], sha256: str
    ) -> None:
        self.path = path
        self.tensors = tensors
        self.sha256 = sha256
        self._metadata = metadata

    def text(self, key: str) -> str | None:
        found = self._typed(key, bytes, "a string")
        return None if found is None else decoded(found, self.path, key)

    def integer(self, key: str) -> int | None:
        found: int | None = self._typed(key, int, "an integer")
        return found

    def number(self, key: str) -> float | None:
        found: float | None = self._typed(key, float, "a floating-point number")
        return found

    def flag(self, key: str) -> bool | None:
        found: bool | None = self._typed(key, bool, "true or false")
        return found

    def strings(self, key: str) -> list[bytes] | None:
        found: list[bytes] | None = self._typed(key, list, "an array of strings")
        return found

    def numbers(self, key: str) -> NDArray[Any] | None:
        found: NDArray[Any] | None = self._typed(key, np.ndarray, "an array of numbers")
        return found

    def _typed(self, key: str, kind: type, words: str) -> Any:
        found = self._metadata.get(key)
        if found is None or type(found) is kind:
            return found
        shown = f"an array of {len(found)}" if hasattr(found, "__len__") else quote(found)
        raise CheckpointError(f"{self.path}: {key} is {shown}, not {words}")


def decoded(text: bytes, path: Path, what: str) -> str:
    """Decode UTF-8, or raise CheckpointError naming file and `what`."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path}: {what} is not UTF-8: byte {text[error.start]:#04x} at {error.start}"
        ) from None


class _Cursor:
    """The bytes of a header from the start on, read as they are asked for."""

    def __init__(self, file: BufferedReader, path: Path) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0
        self.what = "the header"  # what is being read, for messages
        self.data = b""
        self._file = file
        self._path = path
        self._strings_left = MAX_STRINGS

    def fail(self, problem: str) -> NoReturn:
        raise CheckpointError(f"{self._path}: {self.what} {problem}")

    def reach(self, end: int) -> None:
        """Have the bytes before `end`, an absolute position, in `data`."""
        if end <= len(self.data):
            return
        if end > self.size:
            self.fail(f"ends at byte {end}, the file has {self.size}: truncated, or damaged")
        if end > MAX_HEADER:
            self.fail(f"ends at byte {end}: a header may have {MAX_HEADER} bytes")
        self._file.seek(len(self.data))
        self.data += self._file.read(max(end - len(self.data), len(self.data), _PIECE))
        if end > len(self.data):
            self.fail("was truncated while it was read")

    def number(self, kind: struct.Struct) -> Any:
        start = self.at
        self.at += kind.size
        self.reach(self.at)
        return kind.unpack_from(self.data, start)[0]

    def take(self, length: int) -> bytes:
        start = self.at
        self.reach(start + length)
        self.at += length
        return self.data[start : self.at]

    def name(self) -> str:
        length = self.number(_U64)
        if length > _MAX_NAME:
            self.fail(f"has a name of {length} bytes, allowed are {_MAX_NAME}")
        return decoded(self.take(length), self._path, f"the name of {self.what}")

    def strings(self, count: int) -> list[bytes]:
        if count > self._strings_left:
            self.fail(f"is an array of {count} strings: a file may have {MAX_STRINGS} in arrays")
        self._strings_left -= count
        result = []
        at, data, length_at = self.at, self.data, _U64.unpack_from
        for _ in range(count):
            begin = at + 8
            if begin > len(data):
                self.reach(begin)
                data = self.data
            at = begin + length_at(data, at)[0]
            if at > len(data):
                self.reach(at)
                data = self.data
            result.append(data[begin:at])
        self.at = at
        return result


def read_header(file: BufferedReader, path: Path) -> GGUFHeader:
    """Read and validate the header of an open GGUF file. Raises CheckpointError."""
    cursor = _Cursor(file, path)
    if cursor.size < 24:
        cursor.fail(f"of a GGUF file has at least 24 bytes, the file has {cursor.size}")
    _check_version(cursor)
    n_tensors, n_entries = cursor.number(_U64), cursor.number(_U64)
    for count, words in ((n_entries, "metadata entries"), (n_tensors, "tensors")):
        if count > MAX_ENTRIES:
            cursor.fail(f"announces {count} {words}, allowed are {MAX_ENTRIES}")
    metadata: dict[str, Any] = {}
    for index in range(n_entries):
        cursor.what = f"metadata entry {index}"
        key = cursor.name()
        cursor.what = f"metadata entry {quote(key)}"
        if key in metadata:
            cursor.fail("appears twice")
        metadata[key] = _value(cursor, cursor.number(_U32))
    entries = []
    for index in range(n_tensors):
        cursor.what = f"tensor {index}"
        entries.append(_tensor_entry(cursor))
    cursor.what = "the header"
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        cursor.fail(f"has general.alignment {quote(alignment)}, not a power of two")
    end = cursor.at
    tensors = _placed(entries, end + -end % alignment, path)
    _check_contiguous(tensors.values(), end, alignment, cursor)
    return GGUFHeader(path, metadata, tensors, hashlib.sha256(cursor.data[:end]).hexdigest())


def _check_version(cursor: _Cursor) -> None:
    magic, version = cursor.take(4), cursor.number(_U32)
    if magic == MAGIC[::-1] or (magic == MAGIC and version and version & 0xFFFF == 0):
        cursor.fail("is that of a big-endian GGUF file: give the file in little endian")
    if magic != MAGIC:
        cursor.fail(f"begins with {quote(magic)}: it is not a GGUF file")
    if version == 1:
        cursor.fail("is that of GGUF version 1, of 2023: convert the original model anew")
    if version not in (2, 3):
        cursor.fail(f"is that of GGUF version {version}; gpt2fast reads versions 2 and 3")


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind in _NUMBERS:
        return cursor.number(_NUMBERS[kind])
    if kind == _STRING:
        return cursor.take(cursor.number(_U64))
    if kind != _ARRAY:
        cursor.fail(f"has the unknown value type {kind}")
    item, count = cursor.number(_U32), cursor.number(_U64)
    if item == _STRING:
        return cursor.strings(count)
    if item == _ARRAY:
        cursor.fail("is an array of arrays, which no GPT-2 has")
    if item not in _NUMBERS:
        cursor.fail(f"is an array of the unknown value type {item}")
    return np.frombuffer(cursor.take(count * _NUMBERS[item].size), _NUMBERS[item].format)


def _tensor_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.name()
    cursor.what = f"tensor {quote(name)}"
    n_dimensions = cursor.number(_U32)
    if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
        cursor.fail(f"has {n_dimensions} dimensions, allowed are 1 to {_MAX_DIMENSIONS}")
    sizes = tuple(cursor.number(_U64) for _ in range(n_dimensions))
    return name, sizes, cursor.number(_U32), cursor.number(_U64)


def _placed(
    entries: Iterable[tuple[str, tuple[int, ...], int, int]], data_start: int, path: Path
) -> dict[str, GGUFTensor]:
    """Give every tensor its type and its place in the file."""
    tensors: dict[str, GGUFTensor] = {}
    for name, sizes, number, offset in entries:
        where = f"{path}: tensor {quote(name)}"
        if name in tensors:
            raise CheckpointError(f"{where} appears twice")
        kind = BLOCK_TYPES.get(number)
        if kind is None:
            unread = OTHER_TYPES.get(number, f"{number}, which is unknown")
            raise CheckpointError(
                f"{where} has type {unread}: gpt2fast reads "
                f"{', '.join(sorted(known.name for known in BLOCK_TYPES.values()))}"
            )
        if sizes[0] % kind.n_weights:
            raise CheckpointError(
                f"{where} has rows of {sizes[0]} weights, {kind.name} has blocks of "
                f"{kind.n_weights}"
            )
        begin = data_start + offset
        size = math.prod(sizes) // kind.n_weights * kind.n_bytes
        tensors[name] = GGUFTensor(name, kind, sizes, begin, begin + size)
    return tensors


def _check_contiguous(
    tensors: Iterable[GGUFTensor], header_end: int, alignment: int, cursor: _Cursor
) -> None:
    end = header_end
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)):
        cursor.what = f"tensor {quote(tensor.name)}"
        expected = end + -end % alignment
        if tensor.begin != expected:
            problem = "overlaps what is before it" if tensor.begin < expected else "leaves a hole"
            cursor.fail(f"{problem}: begins at byte {tensor.begin} of the file, not {expected}")
        end = tensor.end
        if end > cursor.size:
            cursor.fail(f"ends at byte {end}, the file has {cursor.size}: truncated, or damaged")
    cursor.what = "the data"
    if cursor.size > end + -end % alignment:
        cursor.fail(f"ends at byte {end}, the file has {cursor.size}: the rest is of no tensor")
