"""Files of torch.save, read without torch: zip archives, and the format before torch 1.6.

    zip       <folder>/data.pkl          the object, with persistent ids in place of storages
              <folder>/byteorder         `little` or `big`; little where it is missing
              <folder>/data/<key>        the numbers of each storage
    legacy    five pickles: magic number, 1001, properties of the machine, the object, keys
              then for each key: 8 bytes count of numbers, the numbers, always little endian

A tensor is a view of a storage: offset, sizes and strides. Several may share one, as GPT-2's head
does with the token table. The object is unpickled by `pickles`, which executes nothing; of the
storages only those of the state dict are read, one at a time: an optimizer's never.

Refused: a tensor that leaves its storage or has more numbers than it, tensors that together have
more than twice the bytes of the file, storages whose size is not what the object says, a legacy
file that goes on after its last storage.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.pickles import Unpickler
from gpt2fast.checkpoints.safetensors import open_regular
from gpt2fast.checkpoints.torch_objects import NAMES, Storage, StoredTensor, storage
from gpt2fast.checkpoints.weight_file import NoteRead, to_float32
from gpt2fast.checkpoints.zip_records import ZipRecords
from gpt2fast.config import CheckpointError, quote

MAX_PICKLE = 16 << 20  # a 1.5B checkpoint with its optimizer has 0.3 MB
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the numbers of a storage begin in the file, and the CRC-32 to compare, if any."""

    start: int
    crc: int = 0


class TorchFile:
    """An open file of torch.save: a WeightFile of the state dict in it.

    `content` is the whole object; `key` names the entry that is the state dict, None says that the
    object itself is it. Raises CheckpointError for what is damaged, hostile or not of tensors.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path = path
        self._byte_order = "<"
        self._storages: dict[str, Storage] = {}
        self._places: dict[str, _Place] = {}
        self._checked: set[str] = set()
        self._file = open_regular(path)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._open(key)
        except BaseException:
            self._file.close()
            raise

    def names(self) -> list[str]:
        """Return the tensors' names as stored."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._tensors[name].shape

    def nbytes(self, name: str) -> int:
        """Return the size of a tensor as stored, in bytes."""
        return self._tensors[name].nbytes

    def same(self, name: str, other: str) -> bool:
        """Tell whether two tensors are one and the same view."""
        return self._tensors[name] == self._tensors[other]

    def read(self, name: str, note: NoteRead | None = None) -> NDArray[np.float32]:
        """Return a tensor as float32, C-contiguous; see WeightFile."""
        tensor = self._tensors[name]
        kind, place = tensor.storage.type, self._places[tensor.storage.key]
        where = f"{self.path}: tensor {quote(name)}"
        raw = np.empty(tensor.span * kind.itemsize, np.uint8)
        self._file.seek(place.start + tensor.offset * kind.itemsize)
        if self._file.readinto(raw.data) != raw.nbytes:
            raise CheckpointError(f"{where}: the file was truncated while it was read")
        self._check_crc(tensor.storage, raw, where)
        if note is not None:
            note(self.path, name, raw.data)
        values = to_float32(raw, kind.dtype, where, self._byte_order)
        pairs = zip(tensor.shape, tensor.stride, strict=True)
        strides = tuple(0 if size == 1 else 4 * step for size, step in pairs)
        view = np.ndarray(tensor.shape, np.float32, values, 0, strides)  # checks bounds once more
        return view if view.flags.c_contiguous else view.copy()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self, key: str | None) -> None:
        start = self._file.read(512)
        if start.startswith(b"PK\3\4"):
            records = ZipRecords(self._file, self._size, self.path)
            self._open_zip(records)
            self._select(key)
            self._find_in_zip(records)
        elif start.startswith(b"\x80"):
            self._open_legacy()
            self._select(key)
        elif start[257:262] == b"ustar":
            raise CheckpointError(f"{self.path} was written by torch 0.1, as tar: save it again")
        else:
            raise CheckpointError(
                f"{self.path} is not a file of torch.save: neither a zip archive nor its format "
                "before torch 1.6"
            )

    def _open_zip(self, records: ZipRecords) -> None:
        if records.find("constants.pkl"):
            raise CheckpointError(
                f"{self.path} is a TorchScript archive, a program: save the state dict instead"
            )
        record = records.find("data.pkl")
        if record is None or record.size > MAX_PICKLE:
            raise CheckpointError(f"{self.path} has no data.pkl of at most {MAX_PICKLE} bytes")
        data = self._read(records.start("data.pkl"), record.size)
        if record.crc and zlib.crc32(data) != record.crc:
            raise CheckpointError(f"{self.path}: data.pkl is damaged: its CRC-32 is wrong")
        order = records.find("byteorder")
        if order is not None:
            word = self._read(records.start("byteorder"), min(order.size, 7))
            if word not in (b"little", b"big"):
                raise CheckpointError(f"{self.path}: unknown byte order {quote(word)}")
            self._byte_order = "<" if word == b"little" else ">"
        self.digest = hashlib.sha256(data + records.directory).hexdigest()
        unpickler = self._unpickler(data)
        self.content = unpickler.load()
        if unpickler.position != len(data):
            raise CheckpointError(f"{self.path}: data.pkl goes on after its end")

    def _find_in_zip(self, records: ZipRecords) -> None:
        for name, tensor in self._tensors.items():
            key, nbytes = tensor.storage.key, tensor.storage.nbytes
            if key in self._places:
                continue
            record = records.find(f"data/{key}")
            if record is None or record.size != nbytes:
                size = "missing" if record is None else f"of {record.size} bytes"
                raise CheckpointError(
                    f"{self.path}: tensor {quote(name)}: its storage {quote(key)} is {size}, not "
                    f"of {nbytes} bytes"
                )
            self._places[key] = _Place(records.start(f"data/{key}"), record.crc)

    def _open_legacy(self) -> None:
        data = self._read(0, min(self._size, MAX_PICKLE))
        unpickler = self._unpickler(data)
        for expected in (_LEGACY_MAGIC, _LEGACY_VERSION):
            found = unpickler.load()
            if type(found) is not int or found != expected:
                raise CheckpointError(
                    f"{self.path} is a pickle, but not of torch.save: begins with {quote(found)}"
                )
        unpickler.load()  # the properties of the machine; storages are little endian on all
        self.content = unpickler.load()
        keys = unpickler.load()
        if type(keys) is not list or not all(isinstance(key, str) for key in keys):
            raise CheckpointError(f"{self.path}: the list of storages is {quote(keys)}")
        if len(keys) != len(self._storages) or set(keys) != self._storages.keys():
            raise CheckpointError(f"{self.path}: the storages listed are not those of the tensors")
        self.digest = hashlib.sha256(data[: unpickler.position]).hexdigest()
        position = unpickler.position
        for key in keys:
            stored = self._storages[key]
            count = int.from_bytes(self._read(position, 8), "little")
            if count != stored.count:
                raise CheckpointError(
                    f"{self.path}: storage {quote(key)} has {count} numbers, its tensors say "
                    f"{stored.count}"
                )
            self._places[key] = _Place(position + 8)
            position += 8 + stored.nbytes
        if position != self._size:
            problem = "truncated" if position > self._size else "longer than its storages"
            raise CheckpointError(f"{self.path} is {problem}: {self._size} bytes, not {position}")

    def _unpickler(self, data: bytes) -> Unpickler:
        return Unpickler(data, NAMES, self._storage, str(self.path))

    def _storage(self, persistent_id: Any) -> Storage:
        found = storage(persistent_id)
        if self._storages.setdefault(found.key, found) != found:
            raise ValueError(f"gives storage {quote(found.key)} two types or sizes")
        return found

    def _select(self, key: str | None) -> None:
        """Take the state dict out of the object, and check its tensors."""
        found = self.content
        if key is not None:
            found = found.get(key) if type(found) is dict else None
        if type(found) is not dict or not found:
            if key is None:
                raise CheckpointError(f"{self.path} has no state dict at its top")
            raise CheckpointError(
                f"{self.path} has no state dict under {quote(key)}, where nanoGPT keeps it; that "
                "of a model of transformers is read from pytorch_model.bin, config.json beside it"
            )
        for name, tensor in found.items():
            if not isinstance(name, str) or type(tensor) is not StoredTensor:
                raise CheckpointError(
                    f"{self.path}: entry {quote(name)} of the state dict is {quote(tensor)}, not "
                    "a tensor"
                )
            if (problem := tensor.problem()) is not None:
                raise CheckpointError(f"{self.path}: tensor {quote(name)} {problem}")
        self._tensors: dict[str, StoredTensor] = found
        if sum(map(self.nbytes, found)) > 2 * self._size:  # only the head repeats the token table
            raise CheckpointError(f"{self.path}: tensors share storages too often")

    def _check_crc(self, stored: Storage, raw: NDArray[np.uint8], where: str) -> None:
        """Compare the CRC-32 of a storage once, from `raw` if the tensor is all of it."""
        place = self._places[stored.key]
        if not place.crc or stored.key in self._checked:
            return
        if raw.nbytes == stored.nbytes:
            crc = zlib.crc32(raw.data)
        else:
            crc = 0
            for begin in range(0, stored.nbytes, _PIECE):
                size = min(_PIECE, stored.nbytes - begin)
                crc = zlib.crc32(self._read(place.start + begin, size), crc)
        if crc != place.crc:
            raise CheckpointError(f"{where} is damaged: the CRC-32 of its storage is wrong")
        self._checked.add(stored.key)

    def _read(self, position: int, size: int) -> bytes:
        content = b""
        if position + size <= self._size:  # a seek far behind the end would overflow
            self._file.seek(position)
            content = self._file.read(size)
        if len(content) != size:
            raise CheckpointError(f"{self.path} is truncated: {self._size} bytes")
        return content
