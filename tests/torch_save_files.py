"""Writes files of torch.save byte by byte, sound ones and damaged ones, without torch."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STORAGES = {"<f4": "Float", "<f2": "Half", "<u2": "BFloat16", "<f8": "Double", "|b1": "Bool"}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def glob(module: str, name: str) -> bytes:
    """Return the opcode GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    """Return the opcode BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def tuple_of(*parts: bytes) -> bytes:
    """Return the opcodes of a tuple."""
    return b"(" + b"".join(parts) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Return the opcodes that call a function: the last is REDUCE."""
    return function + tuple_of(*arguments) + b"R"


def plain(value: Any) -> bytes:
    """Return the opcodes of a plain value; bytes are taken for opcodes."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, tuple):
        return tuple_of(*map(plain, value))
    if isinstance(value, list):
        return b"](" + b"".join(map(plain, value)) + b"e"
    return b"}(" + b"".join(plain(k) + plain(v) for k, v in value.items()) + b"u"


def pickled(value: Any, protocol: int = 2) -> bytes:
    """Return a whole pickle."""
    return bytes([0x80, protocol]) + plain(value) + b"."


ORDERED_DICT = glob("collections", "OrderedDict")
REBUILD = glob("torch._utils", "_rebuild_tensor_v2")


def storage(key: str, count: Any, kind: str = "Float", *, legacy: bool = False) -> bytes:
    """Return the opcodes of a storage: a persistent id."""
    view = (None,) if legacy else ()
    return plain(("storage", glob("torch", kind + "Storage"), key, "cpu", count, *view)) + b"Q"


def tensor(stored: bytes, offset: Any, shape: Any, stride: Any) -> bytes:
    """Return the opcodes of a tensor."""
    values = (stored, offset, shape, stride, False, call(ORDERED_DICT))
    return call(REBUILD, *map(plain, values))


@dataclass
class TorchObject:
    """An object in the making: `add` gives the opcodes of a tensor and keeps its numbers."""

    legacy: bool = False
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(self, values: NDArray[Any]) -> bytes:
        """Store an array as a storage of its own."""
        key = str(len(self.numbers))
        self.numbers[key] = values
        kind = _STORAGES[values.dtype.str]
        steps = tuple(step // values.itemsize for step in values.strides)
        stored = storage(key, values.size, kind, legacy=self.legacy)
        return tensor(stored, 0, values.shape, steps)

    def file(self, value: Any) -> bytes:
        """Return the file of an object made of plain values and what `add` returned."""
        data = {key: values.tobytes() for key, values in self.numbers.items()}
        if not self.legacy:
            return zip_file(zip_records(pickled(value), data))
        counts = {key: values.size for key, values in self.numbers.items()}
        return legacy_file(pickled(value), data, counts)


def torch_file(tensors: Mapping[str, NDArray[Any]], *, legacy: bool = False) -> bytes:
    """Return what torch.save makes of a state dict."""
    made = TorchObject(legacy)
    return made.file({name: made.add(values) for name, values in tensors.items()})


def legacy_file(
    content: bytes, data: Mapping[str, bytes], counts: Mapping[str, int], keys: Any = None
) -> bytes:
    """Return a file of the format before torch 1.6; `content` is the pickle of the object."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickled(LEGACY_MAGIC), pickled(1001), pickled(machine), content]
    parts.append(pickled(list(data) if keys is None else keys))
    parts += [struct.pack("<q", counts[key]) + raw for key, raw in data.items()]
    return b"".join(parts)


@dataclass
class ZipRecord:
    """A record of a zip archive and what its headers say of it; None is the truth."""

    name: str
    data: bytes
    local_name: str | None = None
    crc: int | None = None
    method: int = 0
    flags: int = 0x808
    size: int | None = None
    packed: int | None = None
    header: int | None = None
    extra: bytes = b""


def zip_records(
    content: bytes, data: Mapping[str, bytes], folder: str = "archive", order: str = "little"
) -> list[ZipRecord]:
    """Return the records of a file of torch.save."""
    records = {"data.pkl": content, "byteorder": order.encode()}
    records |= {f"data/{key}": raw for key, raw in data.items()}
    return [ZipRecord(f"{folder}/{name}", raw) for name, raw in records.items()]


def zip_file(
    records: Sequence[ZipRecord],
    *,
    end: Mapping[str, Any] | None = None,
    zip64: bool = False,
    after: bytes = b"",
) -> bytes:
    """Return a zip archive as torch writes it: data aligned to 64, sizes in descriptors.

    `end` changes fields of the end record (count, size, start, disk, comment), `zip64` adds the
    64-bit end record, `after` comes between directory and end.
    """
    out, directory = b"", b""
    for record in records:
        name = record.name.encode()
        local = name if record.local_name is None else record.local_name.encode()
        crc = zlib.crc32(record.data) if record.crc is None else record.crc
        size = len(record.data) if record.size is None else record.size
        packed = size if record.packed is None else record.packed
        header = len(out) if record.header is None else record.header
        padding = -(len(out) + 34 + len(local)) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        out += struct.pack(
            "<4s5H3I2H", b"PK\3\4", 0, record.flags, record.method, 0, 0, 0, 0, 0,
            len(local), len(extra),
        )  # fmt: skip
        out += local + extra + record.data
        out += struct.pack("<4s3I", b"PK\7\x08", crc, packed, size)
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0, 0, record.flags, record.method, 0, 0, crc, packed, size,
            len(name), len(record.extra), 0, 0, 0, 0, header,
        )  # fmt: skip
        directory += name + record.extra
    fields = {"count": len(records), "size": len(directory), "start": len(out), "disk": 0}
    fields |= {"comment": 0, **(end or {})}
    tail = after
    if zip64:
        where = len(out) + len(directory)
        tail += struct.pack(
            "<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, fields["count"], fields["count"],
            fields["size"], fields["start"],
        )  # fmt: skip
        tail += struct.pack("<4sIQI", b"PK\6\7", 0, where, 1)
        fields |= {"count": 0xFFFF, "size": 0xFFFFFFFF, "start": 0xFFFFFFFF}
    tail += struct.pack(
        "<4s4H2IH", b"PK\5\6", fields["disk"], 0, fields["count"], fields["count"],
        fields["size"], fields["start"], fields["comment"],
    )  # fmt: skip
    return out + directory + tail


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper halves of float32 numbers, as torch keeps bfloat16."""
    return (values.view("<u4") >> 16).astype("<u2")
