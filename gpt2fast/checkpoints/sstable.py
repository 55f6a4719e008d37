"""The sorted table of LevelDB, in which TensorFlow keeps the index of a checkpoint.

    data blocks      back to back from the start of the file
    metaindex block  empty in TensorFlow's files
    index block      one entry for each data block: its last key (or a little more) -> its handle
    footer           48 bytes: handles of metaindex and index, zeros, magic number

    block    entries; starts of restart points, 4 bytes each; their number, 4 bytes
             | type, 1 byte: 0 is uncompressed | masked CRC-32C of block and type, 4 bytes
    entry    shared, unshared, length (varints); the key but its first `shared` bytes, which are
             those of the key before; the value
    handle   offset and size of a block without its type and CRC (varints)

Read whole and checked whole: every CRC, that data blocks leave no hole and do not overlap, that
keys ascend. Restart points only serve searches and are not used. Type 1, compression by Snappy, is
refused: TensorFlow has written its indexes uncompressed since version 1.2, before GPT-2.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpt2fast.checkpoints.crc32c import crc32c
from gpt2fast.config import CheckpointError, quote

MAX_KEYS = 50_000  # 1.5B with an optimizer's slots has 1,743 and one a block
MAX_KEY_BYTES = 16 << 20  # sharing makes keys of any length out of few bytes

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER = 5
_MASK_DELTA = 0xA282EAD8


def unmask(masked: int) -> int:
    """Return the CRC-32C that LevelDB and TensorFlow store rotated by 15 bits, plus a constant."""
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, low bits first, and the position after it.

    Raises CheckpointError if it is longer than 64 bits or does not end before `end`.
    """
    value = shift = 0
    while position < end:
        octet = data[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            if value >= 1 << 64:
                break
            return value, position
        shift += 7
        if shift == 70:
            break
    else:
        raise CheckpointError("ends inside a number")
    raise CheckpointError("holds a number of more than 64 bits")


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Return the entries of a table in their order. Raises CheckpointError, saying what is wrong.

    The message goes on from the name of the file.
    """
    footer = len(data) - _FOOTER
    if footer < 0 or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise CheckpointError(
            f"is not an index of TensorFlow, or truncated: {len(data)} bytes, not ending in the "
            f"magic number {_MAGIC:#x}"
        )
    begin, end, position = _handle(data, footer, len(data) - 8)  # of the metaindex: not used
    _check_block(data, begin, end, footer)
    begin, end, _ = _handle(data, position, len(data) - 8)
    _check_block(data, begin, end, footer)
    entries: dict[bytes, bytes] = {}
    last, n_keys, n_bytes, next_begin = None, 0, 0, 0
    for separator, handle in _entries(data, begin, end):
        begin, end, _ = _handle(handle, 0, len(handle))
        if begin != next_begin:
            raise CheckpointError(f"has a block at {begin} where {next_begin} was expected")
        next_begin = end + _TRAILER
        _check_block(data, begin, end, footer)
        n_keys, n_bytes = _bounded(n_keys + 1, n_bytes + len(separator))
        for key, value in _entries(data, begin, end):
            if last is not None and key <= last:
                raise CheckpointError(f"has key {quote(key)} after {quote(last)}: out of order")
            n_keys, n_bytes = _bounded(n_keys + 1, n_bytes + len(key))
            entries[key] = value
            last = key
    return entries


def _bounded(n_keys: int, n_bytes: int) -> tuple[int, int]:
    if n_keys > MAX_KEYS or n_bytes > MAX_KEY_BYTES:
        raise CheckpointError(f"has more than {MAX_KEYS} keys, or {MAX_KEY_BYTES} bytes of keys")
    return n_keys, n_bytes


def _handle(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Return begin and end of a block, and the position after its handle."""
    begin, position = varint(data, position, end)
    size, position = varint(data, position, end)
    return begin, begin + size, position


def _check_block(data: bytes, begin: int, end: int, limit: int) -> None:
    if end + _TRAILER > limit:
        raise CheckpointError(f"has a block of bytes {begin} to {end}, past its end: truncated")
    stored = unmask(int.from_bytes(data[end + 1 : end + _TRAILER], "little"))
    if crc32c(memoryview(data)[begin : end + 1]) != stored:
        raise CheckpointError(f"has a wrong checksum in its block at {begin}: damaged")
    if data[end] == 1:
        raise CheckpointError(
            f"has a block at {begin} that Snappy compressed, as no TensorFlow from 1.2 on writes"
        )
    if data[end]:
        raise CheckpointError(f"has a block at {begin} of unknown type {data[end]}")


def _entries(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    n_restarts = int.from_bytes(data[end - 4 : end], "little") if end - begin >= 4 else 0
    limit = end - 4 - 4 * n_restarts
    if limit < begin or not n_restarts:
        raise CheckpointError(f"has a block at {begin} with {n_restarts} restart points: damaged")
    position, key = begin, b""
    while position < limit:
        shared, position = varint(data, position, limit)
        unshared, position = varint(data, position, limit)
        length, position = varint(data, position, limit)
        if shared > len(key) or position + unshared + length > limit:
            raise CheckpointError(f"has a damaged entry in its block at {begin}")
        key = key[:shared] + data[position : position + unshared]
        position += unshared + length
        yield key, data[position - length : position]
