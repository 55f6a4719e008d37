"""The ready-for-use form of a tokenizer, as a packed model carries it. Little-endian.

    offset  size
         0     8  "gpt2bpe" and a zero byte
         8     4  version, 1
        12     4  n_vocab
        16     4  n_merges
        20     4  n_bytes: bytes of all tokens
        24     4  n_settings: bytes of the settings
        28    36  zeros
        64        offsets   uint32[n_vocab + 1]   where each token's bytes begin, and n_bytes
                  flags     uint8[n_vocab]        1 byte-level, 3 and merging gives it, 0 added
                  merges    uint32[n_merges][3]   left, right and merged id, in order of rank
                  bytes     uint8[n_bytes]        of all tokens in order of id
                  settings  UTF-8 JSON: added tokens, splitting, eot

Each section is padded with zeros to a multiple of 64 bytes, and nothing follows the last. Reading
checks every length, offset and id (the hash tables are built anew), so that a damaged or hostile
table raises ValueError and a readable one can only ever give ids below n_vocab.
"""

import json
import struct
import sys
from array import array
from dataclasses import asdict
from typing import Any

from gpt2fast._bpe import BPE
from gpt2fast.config import parse_json
from gpt2fast.tokenizer.vocabulary import (
    BEHAVIORS,
    AddedToken,
    Split,
    Splitting,
    added_token,
    field,
    short,
)

MAGIC = b"gpt2bpe\0"
VERSION = 1
_HEADER = struct.Struct("<8s5I36x")
_NAME = "tokenizer table"


def write_table(
    bpe: BPE, added: tuple[AddedToken, ...], splitting: Splitting, eot: int | None
) -> bytes:
    """Return the table; `read_table` gives the arguments back."""
    blob, offsets, flags, merges = bpe.sections()
    settings = json.dumps(
        {"added": [asdict(token) for token in added], "splitting": asdict(splitting), "eot": eot}
    ).encode()
    header = _HEADER.pack(MAGIC, VERSION, len(flags), len(merges) // 12, len(blob), len(settings))
    sections = (header, _little(offsets), flags, _little(merges), blob, settings)
    return b"".join(section.ljust(_padded(len(section)), b"\0") for section in sections)


def read_table(data: bytes) -> tuple[BPE, tuple[AddedToken, ...], Splitting, int | None]:
    """Return what `write_table` was given. Raises ValueError saying what does not fit."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise ValueError(f"{_NAME}: {len(data)} bytes that do not begin with {MAGIC!r}")
    _, version, n_vocab, n_merges, n_bytes, n_settings = _HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"{_NAME}: version {version}, this release reads {VERSION}")
    lengths = (_HEADER.size, 4 * (n_vocab + 1), n_vocab, 12 * n_merges, n_bytes, n_settings)
    if sum(map(_padded, lengths)) != len(data):
        raise ValueError(
            f"{_NAME}: {len(data)} bytes, but its header asks for {sum(map(_padded, lengths))}"
        )
    sections = []
    at = 0
    for length in lengths:
        sections.append(data[at : at + length])
        at += _padded(length)
    _, offsets, flags, merges, blob, settings = sections
    try:
        bpe = BPE(blob, _little(offsets), flags, _little(merges), known_direct=True)
    except ValueError as error:
        raise ValueError(f"{_NAME}: {error}") from None
    return bpe, *_settings(parse_json(settings, _NAME), n_vocab)


def _settings(root: Any, n_vocab: int) -> tuple[tuple[AddedToken, ...], Splitting, int | None]:
    added = tuple(added_token(_NAME, entry) for entry in field(_NAME, root, "added", list, []))
    cut = field(_NAME, root, "splitting", dict, {})
    steps = tuple(_split(entry) for entry in field(_NAME, cut, "steps", list, []))
    splitting = Splitting(
        steps,
        field(_NAME, cut, "add_prefix_space", bool, False),
        field(_NAME, cut, "gpt2_pattern", bool, True),
    )
    eot = field(_NAME, root, "eot", int)
    for index in (*(token.id for token in added), 0 if eot is None else eot):
        if not 0 <= index < n_vocab:
            raise ValueError(f"{_NAME}: token id {index} is out of range: 0 to {n_vocab - 1}")
    return added, splitting, eot


def _split(entry: Any) -> Split:
    pattern = field(_NAME, entry, "pattern", str)
    behavior = field(_NAME, entry, "behavior", str)
    if pattern is None or behavior not in BEHAVIORS:
        raise ValueError(f"{_NAME}: {short(entry)} is not a way to split")
    return Split(pattern, behavior, field(_NAME, entry, "invert", bool, False))


def _padded(length: int) -> int:
    return -(-length // 64) * 64


def _little(numbers: bytes) -> bytes:
    """Return uint32 numbers converted between little-endian and the machine's order."""
    if sys.byteorder == "little":
        return numbers
    swapped = array("I", numbers)
    swapped.byteswap()
    return swapped.tobytes()
