"""Writes TensorFlow's tensor bundles byte by byte, sound ones and others, on its own: after the
description of LevelDB's table format and tensor_bundle.proto, with nothing of the reader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = 0xDB4775248B80FB57
CODES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
        table.append(value)
    return table


_TABLE = _crc_table()


def crc(data: bytes) -> int:
    """Return the CRC-32C, a byte at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value & 0xFF) ^ byte]
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """Return the CRC-32C as LevelDB stores it."""
    value = crc(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    """Return 7 bits a byte, low bits first."""
    octets = b""
    while value >= 128:
        octets += bytes([value & 127 | 128])
        value >>= 7
    return octets + bytes([value])


def number(field: int, value: int) -> bytes:
    """Return a varint field of a protocol buffer; 0 is left out, as proto3 does."""
    return varint(field << 3) + varint(value) if value else b""


def message(field: int, content: bytes) -> bytes:
    """Return a field that holds bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def header(shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    """Return a BundleHeaderProto."""
    version = number(1, 1) + number(2, min_consumer)
    return number(1, shards) + number(2, endianness) + message(3, version)


def shape_proto(shape: Sequence[int]) -> bytes:
    """Return a TensorShapeProto."""
    return b"".join(message(2, number(1, size)) for size in shape)


def entry(
    shape: Sequence[int],
    offset: int,
    size: int,
    crc32c: int,
    dtype: int = 1,
    shard: int = 0,
    more: bytes = b"",
) -> bytes:
    """Return a BundleEntryProto; `crc32c` is masked."""
    checksum = b"\x35" + crc32c.to_bytes(4, "little") if crc32c else b""
    place = number(3, shard) + number(4, offset) + number(5, size)
    return number(1, dtype) + message(2, shape_proto(shape)) + place + checksum + more


def block(
    entries: Sequence[tuple[bytes, bytes]], interval: int = 16, restarts: int | None = None
) -> bytes:
    """Return a block without type and CRC; `restarts` overrides the number of restart points."""
    content, starts, last = b"", [0], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % interval:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        elif i:
            starts.append(len(content))
        unshared = key[shared:]
        content += varint(shared) + varint(len(unshared)) + varint(len(value)) + unshared + value
        last = key
    count = len(starts) if restarts is None else restarts
    return b"".join([content, *(n.to_bytes(4, "little") for n in (*starts, count))])


def trailer(content: bytes, kind: int = 0) -> bytes:
    """Return type and CRC of a block."""
    return bytes([kind]) + masked(content + bytes([kind])).to_bytes(4, "little")


def table(blocks: Sequence[bytes], last: bytes = b"\xff", kind: int = 0) -> bytes:
    """Return a table of these data blocks; TensorFlow's index key `last` is a short successor."""
    data, handles = b"", []
    for number_of, content in enumerate(blocks):
        handle = varint(len(data)) + varint(len(content))
        handles.append((last + bytes([number_of]) if len(blocks) > 1 else last, handle))
        data += content + trailer(content, kind)
    return finished(data, handles)


def finished(data: bytes, handles: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Add metaindex, index and footer to data blocks."""
    footer = b""
    for content in (block([]), block(handles, 1)):
        footer += varint(len(data)) + varint(len(content))
        data += content + trailer(content)
    return data + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def index(entries: Mapping[str, bytes], head: bytes | None = None) -> bytes:
    """Return an index as TensorFlow writes it, of one block."""
    content = {b"": header() if head is None else head}
    content.update((name.encode(), raw) for name, raw in entries.items())
    ordered = sorted(content.items())
    last = ordered[-1][0]
    return table([block(ordered)], bytes([last[0] + 1]) if last else b"")


def openai_names(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rename Hugging Face's tensors to OpenAI's; matrices of the blocks get a leading 1."""
    renamed = {}
    for name, values in tensors.items():
        parts = name.split(".")
        kind = parts.pop()
        if parts[0] == "h":
            parts[:2] = ["h" + parts[1]]
        if parts[0] not in ("wte", "wpe"):
            scale = "g" if parts[-1].startswith("ln_") else "w"
            parts.append("b" if kind == "bias" else scale)
        matrix = parts[-1] == "w"
        renamed["/".join(["model", *parts])] = values[None] if matrix else values
    return renamed


def lay_out(
    tensors: Mapping[str, NDArray[Any]], shards: int = 1
) -> tuple[dict[str, bytes], list[bytes]]:
    """Return the entries of an index, and the content of the data files."""
    data = [b""] * shards
    entries = {}
    for i, name in enumerate(sorted(tensors)):
        values = np.ascontiguousarray(tensors[name])
        raw, shard = values.tobytes(), i % shards
        dtype = CODES[values.dtype.name]
        entries[name] = entry(values.shape, len(data[shard]), len(raw), masked(raw), dtype, shard)
        data[shard] += raw
    return entries, data


def write(
    directory: Path,
    hparams: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    *,
    prefix: str = "model.ckpt",
    shards: int = 1,
) -> Path:
    """Write a directory as OpenAI's download has it, without tokenizer; names are OpenAI's."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hparams.json").write_text(json.dumps(hparams), encoding="utf-8")
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n', encoding="utf-8")
    entries, data = lay_out(tensors, shards)
    (directory / f"{prefix}.index").write_bytes(index(entries, header(shards)))
    for shard, content in enumerate(data):
        name = f"{prefix}.data-{shard:05}-of-{shards:05}"
        (directory / name).write_bytes(content)
    return directory
