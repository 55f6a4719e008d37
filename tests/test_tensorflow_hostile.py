"""Damaged and hostile TensorFlow checkpoints: each must be a CheckpointError that names the file
and the reason, within a second of computing, and leave nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_files as files
from checkpoint_files import random_tensors

import gpt2fast
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.sstable import MAX_KEY_BYTES, MAX_KEYS
from gpt2fast.checkpoints.tensor_bundle import MAX_INDEX
from gpt2fast.config import CheckpointError, Config

HPARAMS: dict[str, Any] = {"n_vocab": 40, "n_ctx": 7, "n_embd": 8, "n_head": 2, "n_layer": 1}
CONFIG = Config(**HPARAMS, n_inner=32)
TENSORS = files.openai_names(random_tensors(CONFIG.tensor_shapes()))
ENTRIES, [DATA] = files.lay_out(TENSORS)
INDEX = files.index(ENTRIES)
WTE = TENSORS["model/wte"]
CRC = files.masked(WTE.tobytes())
PLACE = DATA.index(WTE.tobytes())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A sound checkpoint, to be damaged."""
    return files.write(tmp_path / "model", HPARAMS, TENSORS)


@contextmanager
def refused(message: str) -> Iterator[None]:
    """Expect a CheckpointError soon; `message` is a pattern that begins in the error's text."""
    started = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        yield
    assert time.process_time() - started < 1


def put_index(directory: Path, content: bytes) -> None:
    """Replace the index."""
    (directory / "model.ckpt.index").write_bytes(content)


def test_the_sound_one_is_read(directory: Path) -> None:
    """Catches cases below that would be refused for another reason than theirs."""
    with gpt2fast.load(directory) as model:
        assert model.logits([1, 2]).shape == (2, 40)


def test_every_truncation_of_the_index(directory: Path) -> None:
    """Catches an index that ends early and is read all the same, or crashes the reader."""
    for size in range(len(INDEX)):
        put_index(directory, INDEX[:size])
        with refused(r"model\.ckpt\.index "):
            open_checkpoint(directory)


def test_every_byte_of_the_index(directory: Path) -> None:
    """Catches a changed byte that changes what is read: all but the footer is under checksums."""
    for place in range(len(INDEX)):
        changed = bytearray(INDEX)
        changed[place] ^= 1 << place % 8
        put_index(directory, bytes(changed))
        if place >= len(INDEX) - 48:
            with suppress(CheckpointError), open_checkpoint(directory) as checkpoint:
                assert np.array_equal(checkpoint.read("wte.weight"), WTE)  # in the padding
        else:
            with refused(r"model\.ckpt\.index "):
                open_checkpoint(directory)


ONE = [(b"", files.header()), *sorted((n.encode(), raw) for n, raw in ENTRIES.items())]
LONG = b"\xff" * 10 + b"\x01"  # a varint of more than 64 bits
GROWING = b"".join(files.varint(n) + b"\x01\x00k" for n in range(9000))


def raw_block(entries: bytes) -> bytes:
    """Return a block of given entries with one restart point."""
    return entries + bytes(4) + b"\x01\0\0\0"


def handles(*places: tuple[int, int]) -> bytes:
    """Return a table whose index names these places of one sound data block."""
    content = files.block(ONE)
    data = content + files.trailer(content)
    entries = [(bytes([i]), files.varint(at) + files.varint(n)) for i, (at, n) in enumerate(places)]
    return files.finished(data, entries)


SIZE = len(files.block(ONE))
TABLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes, not ending in the magic number"),
    "footer cut": (INDEX[-47:], "47 bytes, not ending in the magic"),
    "magic": (INDEX[:-1] + b"\0", "not ending in the magic number 0xdb4775248b80fb57"),
    "footer of varints": (b"\xff" * 40 + INDEX[-8:], "number of more than 64 bits"),
    "index past the end": (
        (files.varint(0) + files.varint(1 << 63)).ljust(40, b"\0") + INDEX[-8:],
        "past its end: truncated",
    ),
    "no padding": (b"\x80" * 3 + INDEX[-8:], "11 bytes"),
    "snappy": (files.table([files.block(ONE)], kind=1), "Snappy compressed"),
    "other type": (files.table([files.block(ONE)], kind=2), "unknown type 2"),
    "checksum": (bytes([INDEX[0] ^ 1]) + INDEX[1:], "wrong checksum in its block at 0"),
    "no restarts": (files.table([files.block(ONE, restarts=0)]), "0 restart points"),
    "restarts": (files.table([files.block(ONE, restarts=1 << 30)]), "1073741824 restart points"),
    "tiny block": (files.table([b"\0"]), "0 restart points: damaged"),
    "shared": (files.table([raw_block(b"\x01\x01\x00a")]), "damaged entry in its block at 0"),
    "unshared": (files.table([raw_block(b"\x00\x7f\x00a")]), "damaged entry in its block"),
    "value": (files.table([raw_block(b"\x00\x01\x7fa")]), "damaged entry in its block"),
    "huge value": (files.table([raw_block(b"\x00\x00" + files.varint(1 << 63))]), "damaged entry"),
    "long varint": (files.table([raw_block(LONG)]), "number of more than 64 bits"),
    "65 bits": (files.table([raw_block(b"\xff" * 9 + b"\x02")]), "number of more than 64 bits"),
    "cut varint": (files.table([raw_block(b"\x80")]), "ends inside a number"),
    "key twice": (files.table([files.block([*ONE, ONE[-1]])]), r"after b'model/wte': out of order"),
    "order": (files.table([files.block(ONE[::-1])]), "out of order"),
    "block twice": (handles((0, SIZE), (0, SIZE)), "block at 0 where [0-9]+ was expected"),
    "hole": (handles((4, SIZE - 4)), "block at 4 where 0 was expected"),
    "handle": (files.finished(b"", [(b"a", b"\x80")]), "ends inside a number"),
    "no blocks": (files.finished(b"", []), "names 0 data files"),
    "many keys": (
        files.table([raw_block(b"".join(
            b"\x00\x04\x00" + n.to_bytes(4, "big") for n in range(MAX_KEYS + 1)
        ))]),
        f"more than {MAX_KEYS} keys",
    ),
    "growing keys": (files.table([raw_block(GROWING)]), f"or {MAX_KEY_BYTES} bytes of keys"),
    "many blocks": (
        files.finished(
            (raw_block(b"") + files.trailer(raw_block(b""))) * (MAX_KEYS + 1),
            [(b"", files.varint(13 * n) + b"\x08") for n in range(MAX_KEYS + 1)],
        ),
        f"more than {MAX_KEYS} keys",
    ),
    "too big": (bytes(MAX_INDEX + 1), f"more than {MAX_INDEX} bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_hostile_table(case: str, directory: Path) -> None:
    """Catches a table that leads outside itself, is ambiguous, or takes long."""
    content, message = TABLES[case]
    put_index(directory, content)
    with refused(rf"model\.ckpt\.index .*{message}"):
        open_checkpoint(directory)


HEADERS: dict[str, tuple[bytes, str]] = {
    "none": (b"", "names 0 data files: allowed are 1 to 256"),
    "shards": (files.header(shards=10**6), "names 1000000 data files"),
    "negative": (files.header(shards=(1 << 64) - 1), "names 18446744073709551615 data files"),
    "big endian": (files.header(endianness=1), "big-endian"),
    "newer": (files.header(min_consumer=2), "reader of version 2 of the format, this is 1"),
    "cut": (files.header()[:-1], "damaged entry in the index"),
    "wire type": (b"\x0b\x01", "damaged entry in the index"),
    "fields": (b"\x50\x01" * 17, "more than 16 fields"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_hostile_header(case: str, directory: Path) -> None:
    """Catches a header that is believed."""
    content, message = HEADERS[case]
    put_index(directory, files.index(ENTRIES, content))
    with refused(rf"model\.ckpt\.index .*{message}"):
        open_checkpoint(directory)


def wte(**changes: Any) -> bytes:
    """Return the entry of model/wte with changes."""
    sound = {"shape": WTE.shape, "offset": PLACE, "size": WTE.nbytes, "crc32c": CRC}
    return files.entry(**{**sound, **changes})


ENTRY: dict[str, tuple[bytes, str]] = {
    "int32": (wte(dtype=3), "dtype int32: weights must be float, half or bfloat16"),
    "string": (wte(dtype=7), "dtype string"),
    "unknown dtype": (wte(dtype=999), "dtype number 999"),
    "no dtype": (wte(dtype=0), "dtype number 0"),
    "half": (wte(dtype=19), r"shape \[40, 8\], which does not fill its 1280 bytes"),
    "negative size": (wte(shape=(40, (1 << 64) - 8)), "not at most 8 sizes >= 0"),
    "overflow": (wte(shape=(1 << 62, 1 << 62)), "does not fill its 1280 bytes"),
    "rank 9": (wte(shape=(1,) * 9), "not at most 8 sizes"),
    "rank 10000": (wte(shape=(1,) * 10000), "more than 16 fields"),
    "unknown rank": (wte(more=files.message(2, b"\x18\x01")), "shape of unknown rank"),
    "shape": (wte(shape=(8, 40)), r"tensor wte.weight has shape \[8, 40\], the configuration says"),
    "flat": (wte(shape=(320,)), r"has shape \[320\], the configuration says \[40, 8\]"),
    "slices": (wte(more=files.message(7, b"")), "slices .a partitioned variable.: not supported"),
    "shard": (wte(shard=1), "in data file 1, there are 1"),
    "negative shard": (wte(shard=(1 << 64) - 1), "in data file 18446744073709551615"),
    "past the end": (wte(offset=len(DATA) - 1279), "would end at .*: truncated"),
    "offset": (wte(offset=1 << 63), "would end at .*: truncated"),
    "aliased": (wte(offset=PLACE - 4), "tensors .* and 'model/wte' overlap"),
    "size": (wte(size=1 << 62), "does not fill its 4611686018427387904 bytes"),
    "sparse": (wte(shape=(1 << 40, 8), size=1 << 45), "would end at"),
    "cut": (wte()[:-1], "damaged entry in the index"),
    "empty": (b"", "dtype number 0"),
    "varint": (b"\x08" + LONG, "more than 64 bits"),
    "dimension": (wte(more=files.message(2, files.message(2, b"\x08\x80"))), "inside a number"),
}


@pytest.mark.parametrize("case", ENTRY)
def test_hostile_entry(case: str, directory: Path) -> None:
    """Catches an entry that is believed: memory, other bytes, a crash."""
    content, message = ENTRY[case]
    put_index(directory, files.index({**ENTRIES, "model/wte": content}))
    with refused(rf"model.*wte.*{message}|{message}"):
        open_checkpoint(directory)


WITHOUT = {name: raw for name, raw in ENTRIES.items() if name != "model/h0/ln_1/g"}
NAMES: dict[str, tuple[dict[str, bytes], str]] = {
    "none": ({}, "no weights under OpenAI's names .*its 0 tensors: none"),
    "other model": ({"bert/a": wte()}, "no weights under .*its 1 tensors: 'bert/a'"),
    "missing": (WITHOUT, "1 missing tensor: 'h.0.ln_1.weight'"),
    "layer": (
        {**ENTRIES, "model/h1/ln_1/g": wte(shape=())},
        "1 unknown tensor: 'model/h1/ln_1/g'; a GPT-2 of 1 layers",
    ),
    "deep": ({**ENTRIES, "model/h0/ln_1/x" + "/x" * 2000: wte()}, "1 unknown tensor"),
    "below none": ({**ENTRIES, "model/h1/w/Adam": files.entry((0,), 0, 0, 0)}, "1 unknown tensor"),
    "not UTF-8": ({**ENTRIES, "model/\udcff": files.entry((0,), 0, 0, 0)}, "1 unknown tensor"),
}


@pytest.mark.parametrize("case", NAMES)
def test_hostile_names(case: str, directory: Path) -> None:
    """Catches a model with other tensors than the configuration demands."""
    entries, message = NAMES[case]
    raw = {name.encode("utf-8", "surrogateescape"): value for name, value in entries.items()}
    content = [(b"", files.header()), *sorted(raw.items())]
    put_index(directory, files.table([files.block(content)]))
    with refused(message):
        open_checkpoint(directory)
