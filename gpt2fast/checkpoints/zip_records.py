"""The zip archives that torch.save writes: every record stored as it is, found by its offset.

    records              local header (30 bytes), name, padding up to a multiple of 64, data
    central directory    46 bytes, name and 64-bit sizes where needed, for each record
    end                  zip64 end and its locator where needed, then the 22 bytes of the end record

Refused: compressed or encrypted records, a name twice, records that overlap, names outside the
archive's one folder, an archive of several parts, and anything between directory and end. Sizes are
the directory's; local headers only say where the data begins. Data descriptors are passed over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

from gpt2fast.config import CheckpointError, quote

MAX_DIRECTORY = 16 << 20
MAX_RECORDS = 20_000  # a 1.5B checkpoint with its optimizer has 2,400
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_WIDE = 0xFFFFFFFF  # the value stands in the zip64 extra field
_DESCRIPTOR, _UTF8 = 1 << 3, 1 << 11


@dataclass(frozen=True, slots=True)
class Record:
    """A record: its local header begins at `header`, and all of it ends before `limit`.

    `crc` is 0 where torch was told not to compute it.
    """

    header: int
    size: int
    crc: int
    limit: int


class ZipRecords:
    """The directory of an open archive, validated; `directory` holds its bytes.

    Records are named without the archive's folder: `data.pkl`. Raises CheckpointError.
    """

    def __init__(self, file: BufferedReader, size: int, path: Path) -> None:
        self._file = file
        self._path = path
        count, length, start = self._read_end(size)
        if count > MAX_RECORDS or length > MAX_DIRECTORY:
            raise CheckpointError(
                f"{path}: a zip directory of {count} records and {length} bytes; allowed are "
                f"{MAX_RECORDS} and {MAX_DIRECTORY}"
            )
        self.directory = self._read(start, length)
        found = self._read_directory(count)
        self._folder = _folder(next(iter(found), b""), path)
        limits = [*sorted(header for header, _, _ in found.values()), start]
        following = dict(pairwise(limits))
        self._records: dict[bytes, Record] = {}
        for name, (header, data_size, crc) in found.items():
            limit = following[header]
            if len(following) < len(found) or header + _LOCAL.size + len(name) + data_size > limit:
                raise CheckpointError(f"{path}: record {quote(name)} overlaps another")
            if not name.startswith(self._folder):
                raise CheckpointError(
                    f"{path}: record {quote(name)} is not in the folder {quote(self._folder)}"
                )
            self._records[name[len(self._folder) :]] = Record(header, data_size, crc, limit)

    def find(self, name: str) -> Record | None:
        """Return a record, or None if there is none of that name."""
        return self._records.get(name.encode("utf-8", "surrogatepass"))

    def start(self, name: str) -> int:
        """Return where the data of a record begins, from its local header."""
        stored = name.encode("utf-8", "surrogatepass")
        record = self._records[stored]
        full = self._folder + stored
        header = self._read(record.header, _LOCAL.size + len(full))
        magic, *_, name_size, extra_size = _LOCAL.unpack_from(header)
        if magic != b"PK\3\4" or name_size != len(full) or header[_LOCAL.size :] != full:
            raise CheckpointError(f"{self._path}: record {quote(name)} has another local header")
        begin = record.header + len(header) + int(extra_size)
        if begin + record.size > record.limit:
            raise CheckpointError(f"{self._path}: record {quote(name)} overlaps another")
        return begin

    def _read(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        content = self._file.read(size)
        if len(content) != size:
            raise CheckpointError(f"{self._path} was truncated while it was read")
        return content

    def _read_end(self, size: int) -> tuple[int, int, int]:
        """Return the number of records, and length and offset of the directory."""
        position = size - _END.size
        end = self._read(position, _END.size) if position >= 0 else b""
        if end[:4] != b"PK\5\6":
            raise CheckpointError(f"{self._path} does not end as a zip archive: truncated?")
        _, *disks, here, count, length, start, comment = _END.unpack(end)
        locator = position - _LOCATOR.size
        if locator >= 0 and self._read(locator, 4) == b"PK\6\7":
            _, _, position, _ = _LOCATOR.unpack(self._read(locator, _LOCATOR.size))
            if position + _END64.size != locator:
                raise CheckpointError(f"{self._path}: the zip64 end record is not at its place")
            magic, _, _, _, *disks, here, count, length, start = _END64.unpack(
                self._read(position, _END64.size)
            )
            if magic != b"PK\6\6":
                raise CheckpointError(f"{self._path}: the zip64 end record is damaged")
        if any(disks) or here != count or comment:
            raise CheckpointError(f"{self._path}: a zip archive in parts, or with a comment")
        if start + length != position:
            raise CheckpointError(f"{self._path}: the zip directory does not end where it must")
        return count, length, start

    def _read_directory(self, count: int) -> dict[bytes, tuple[int, int, int]]:
        """Return offset of the header, size and CRC of every record."""
        found: dict[bytes, tuple[int, int, int]] = {}
        position = 0
        for _ in range(count):
            if position + _CENTRAL.size > len(self.directory):
                raise CheckpointError(f"{self._path}: the zip directory is truncated")
            (
                magic, _, _, flags, method, _, _, crc, packed, size,
                name_size, extra_size, comment_size, disk, _, _, header,
            ) = _CENTRAL.unpack_from(self.directory, position)  # fmt: skip
            begin = position + _CENTRAL.size
            extra = begin + name_size
            position = extra + extra_size + comment_size
            if magic != b"PK\1\2" or position > len(self.directory):
                raise CheckpointError(f"{self._path}: the zip directory is damaged")
            name = self.directory[begin:extra]
            where = f"{self._path}: record {quote(name)}"
            if method or flags & ~(_DESCRIPTOR | _UTF8):
                raise CheckpointError(
                    f"{where} is compressed or encrypted (method {method}, flags {flags:#x}): "
                    "torch.save stores records as they are"
                )
            if name in found:
                raise CheckpointError(f"{where} is there twice")
            values = [size, packed, header]
            _widen(values, self.directory[extra : extra + extra_size], where)
            size, packed, header = values
            if packed != size or disk:
                raise CheckpointError(f"{where} has {packed} bytes that become {size}")
            found[name] = (header, size, crc)
        if position != len(self.directory):
            raise CheckpointError(f"{self._path}: the zip directory is longer than its records")
        return found


def _folder(name: bytes, path: Path) -> bytes:
    """Return the archive's folder with its slash: that of the first record, as torch takes it."""
    folder = name[: name.find(b"/") + 1]
    if folder in (b"", b"/", b"./", b"../"):
        raise CheckpointError(f"{path}: record {quote(name)} is in no folder of its own")
    return folder


def _widen(values: list[int], extra: bytes, where: str) -> None:
    """Replace the 32-bit values that say so by those of the zip64 extra field, in their order."""
    places = [i for i, value in enumerate(values) if value == _WIDE]
    position = 0
    while places and position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1 and size >= 8 * len(places) and position + size <= len(extra):
            for place in places:
                (values[place],) = struct.unpack_from("<Q", extra, position)
                position += 8
            return
        position += size
    if places:
        raise CheckpointError(f"{where} lacks its 64-bit sizes")
