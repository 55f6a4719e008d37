"""TensorFlow's tensor bundle (`Saver`, format V2): what `model.ckpt.index` says of the tensors, and
their bytes in `model.ckpt.data-00000-of-00001`.

    index   a sorted table (sstable.py); values are protocol buffers
            ""      BundleHeaderProto: 1 num_shards, 2 endianness (0 is little), 3 version
                    (VersionDef: 1 producer, 2 min_consumer)
            name    BundleEntryProto: 1 dtype, 2 shape, 3 shard_id, 4 offset, 5 size, 6 crc32c
                    (masked), 7 slices (of a partitioned variable: refused)
    data    raw bytes of the tensors, at the offsets that the index says

A field that is not there is 0; fields that we do not know are skipped, as protocol buffers want it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.crc32c import crc32c
from gpt2fast.checkpoints.safetensors import open_regular
from gpt2fast.checkpoints.sstable import read_table, unmask, varint
from gpt2fast.checkpoints.weight_file import NoteRead, to_float32
from gpt2fast.config import CheckpointError, quote

MAX_INDEX = 8 << 20  # 1.5B with an optimizer's slots has 100 KB
MAX_SHARDS = 256
MAX_RANK = 8
MAX_FIELDS = 16

_VERSION = 1  # of the format, as TensorFlow counts it
_DTYPES = {1: ("F32", 4), 14: ("BF16", 2), 19: ("F16", 2)}  # name, bytes
_OTHERS = {2: "double", 3: "int32", 4: "uint8", 6: "int8", 7: "string", 9: "int64", 10: "bool"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of an index, as it says; `crc32c` is masked."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    begin: int = 0
    size: int = 0
    crc32c: int = 0


class TensorBundle:
    """The tensors of one checkpoint: the index is read at once, tensors one at a time.

    `select` says which tensors are wanted, `open` opens the data files, which then stay open.
    """

    def __init__(self, index: Path) -> None:
        """Read and check an index. Raises CheckpointError."""
        self.index = index
        with open_regular(index) as file:
            if os.fstat(file.fileno()).st_size > MAX_INDEX:
                raise CheckpointError(f"{index} has more than {MAX_INDEX} bytes")
            content = file.read(MAX_INDEX)
        self.digest = hashlib.sha256(content).hexdigest()
        try:
            table = read_table(content)
            self._n_shards = _read_header(table.pop(b"", b""))
        except CheckpointError as error:
            raise CheckpointError(f"{index} {error}") from None
        self._raw = {key.decode("utf-8", "backslashreplace"): raw for key, raw in table.items()}
        self.entries: dict[str, Entry] = {}
        self._files: dict[int, BufferedReader] = {}

    @property
    def names(self) -> Iterable[str]:
        """The names of all tensors, in the index's order."""
        return self._raw.keys()

    def select(self, names: Iterable[str]) -> None:
        """Read the entries of the tensors that are wanted; their data files must be there.

        Raises CheckpointError.
        """
        for name in names:
            try:
                entry = _read_entry(self._raw[name])
                _check(entry, self._n_shards)
            except CheckpointError as error:
                raise CheckpointError(f"{self.index}: tensor {quote(name)} {error}") from None
            self.entries[name] = entry
        for shard, name in {entry.shard: name for name, entry in self.entries.items()}.items():
            if not (path := self._path(shard)).exists():
                raise CheckpointError(f"{path} is missing: tensor {quote(name)} is in it")
        places = sorted((e.shard, e.begin, e.size, name) for name, e in self.entries.items())
        for (shard, begin, size, name), (next_shard, next_begin, _, other) in pairwise(places):
            if next_shard == shard and next_begin < begin + size:
                raise CheckpointError(
                    f"{self.index}: tensors {quote(name)} and {quote(other)} overlap"
                )

    @property
    def files(self) -> tuple[Path, ...]:
        """The data files that the selected tensors lie in."""
        return tuple(map(self._path, sorted({entry.shard for entry in self.entries.values()})))

    def open(self) -> None:
        """Open the data files. Raises CheckpointError if one is too short."""
        sizes: dict[int, int] = {}
        for name, entry in self.entries.items():
            shard, end = entry.shard, entry.begin + entry.size
            if shard not in sizes:
                self._files[shard] = open_regular(self._path(shard))
                sizes[shard] = os.fstat(self._files[shard].fileno()).st_size
            if end > sizes[shard]:
                raise CheckpointError(
                    f"{self._path(shard)}: tensor {quote(name)} would end at {end}, the file has "
                    f"{sizes[shard]} bytes: truncated"
                )

    def read(self, name: str, note: NoteRead) -> NDArray[np.float32]:
        """Return a tensor as float32, in its stored shape, its checksum compared.

        `note`, as `Checkpoint.note_read`, is told file, name and bytes as stored. Raises
        CheckpointError if the file became shorter, or is damaged.
        """
        entry = self.entries[name]
        path = self._path(entry.shard)
        where = f"{path}: tensor {quote(name)}"
        raw = np.empty(entry.size, np.uint8)
        file = self._files[entry.shard]
        file.seek(entry.begin)
        if file.readinto(raw.data) != raw.nbytes:
            raise CheckpointError(f"{where}: the file was truncated while it was read")
        if crc32c(raw.data) != unmask(entry.crc32c):
            raise CheckpointError(f"{where} has a wrong checksum: the file is damaged")
        note(path, name, raw.data)
        dtype, _ = _DTYPES[entry.dtype]
        return to_float32(raw, dtype, where).reshape(entry.shape)

    def close(self) -> None:
        """Close the data files."""
        for file in self._files.values():
            file.close()

    def _path(self, shard: int) -> Path:
        prefix = self.index.name.removesuffix(".index")
        return self.index.with_name(f"{prefix}.data-{shard:05d}-of-{self._n_shards:05d}")


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield field number and wire type (`tag`), and the value: a number, or bytes."""
    position, n_fields = 0, 0
    while position < len(data):
        n_fields += 1
        if n_fields > MAX_FIELDS:
            raise CheckpointError(f"has more than {MAX_FIELDS} fields in its entry")
        tag, position = varint(data, position, len(data))
        wire = tag & 7
        if wire == 0:
            number, position = varint(data, position, len(data))
            yield tag, number, b""
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, position = varint(data, position, len(data))
        if size is None or position + size > len(data):
            raise CheckpointError("has a damaged entry in the index")
        value = data[position : position + size]
        position += size
        yield tag, 0 if wire == 2 else int.from_bytes(value, "little"), value


def _read_header(data: bytes) -> int:
    """Return the number of data files."""
    n_shards = 0
    for tag, number, value in _fields(data):
        if tag == 0x08:
            n_shards = number
        elif tag == 0x10 and number:
            raise CheckpointError("was written on a big-endian machine: not supported")
        elif tag == 0x1A:
            for inner, version, _ in _fields(value):
                if inner == 0x10 and version > _VERSION:
                    raise CheckpointError(
                        f"needs a reader of version {version} of the format, this is {_VERSION}"
                    )
    if not 1 <= n_shards <= MAX_SHARDS:
        raise CheckpointError(f"names {n_shards} data files: allowed are 1 to {MAX_SHARDS}")
    return n_shards


def _read_entry(data: bytes) -> Entry:
    found: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    names = {0x08: "dtype", 0x18: "shard", 0x20: "begin", 0x28: "size", 0x35: "crc32c"}
    for tag, number, value in _fields(data):
        if tag in names:
            found[names[tag]] = number
        elif tag == 0x12:
            shape = _read_shape(value)
        elif tag == 0x3A:
            raise CheckpointError("is stored in slices (a partitioned variable): not supported")
    return Entry(shape=shape, **found)


def _read_shape(data: bytes) -> tuple[int, ...]:
    shape: list[int] = []
    for tag, number, value in _fields(data):
        if tag == 0x18 and number:
            raise CheckpointError("has a shape of unknown rank")
        if tag == 0x12:
            size = 0
            for inner, number, _ in _fields(value):
                size = number if inner == 0x08 else size
            shape.append(size)
    if len(shape) > MAX_RANK or any(size >= 1 << 63 for size in shape):
        raise CheckpointError(f"has shape {quote(shape)}, not at most {MAX_RANK} sizes >= 0")
    return tuple(shape)


def _check(entry: Entry, n_shards: int) -> None:
    if entry.dtype not in _DTYPES:
        named = _OTHERS.get(entry.dtype, f"number {entry.dtype}")
        raise CheckpointError(
            f"has TensorFlow's dtype {named}: weights must be float, half or bfloat16"
        )
    if entry.shard >= n_shards:
        raise CheckpointError(f"is in data file {entry.shard}, there are {n_shards}, from 0 on")
    if math.prod(entry.shape) * _DTYPES[entry.dtype][1] != entry.size:
        raise CheckpointError(
            f"has shape {quote(list(entry.shape))}, which does not fill its {entry.size} bytes"
        )
