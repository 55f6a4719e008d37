"""Hostile files of torch.save: catches a damaged one let through, and one that reads out of bounds.

Each case is a CheckpointError that names the file, within a second, and leaves nothing behind.
What their pickles may do is in test_pickles.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from torch_refusals import (
    NUMBERS,
    ONE,
    ONE_LEGACY,
    SOUND,
    SOUND_LEGACY,
    as_zip,
    read_all,
    refused,
)
from torch_save_files import (
    LEGACY_MAGIC,
    ZipRecord,
    glob,
    legacy_file,
    pickled,
    plain,
    storage,
    tensor,
    zip_file,
    zip_records,
)

from gpt2fast.checkpoints.torch_files import MAX_PICKLE, TorchFile
from gpt2fast.checkpoints.zip_records import MAX_RECORDS
from gpt2fast.config import CheckpointError

RECORDS = zip_records(pickled(ONE), {"0": NUMBERS})


def view(offset: object, shape: object, stride: object, count: object = 12, **how: str) -> bytes:
    """Return the opcodes of a tensor; `key` and `kind` are its storage's."""
    return tensor(
        storage(how.get("key", "0"), count, how.get("kind", "Float")), offset, shape, stride
    )


VIEWS = {
    "storage shorter than the view": (view(0, (13,), (1,)), "'x' of shape .* does not lie in"),
    "offset behind the end": (view(12, (1,), (1,)), "does not lie"),
    "stride leads out": (view(0, (2, 2), (11, 1)), "does not lie"),
    "negative stride": (view(11, (12,), (-1,)), "makes a tensor of"),
    "negative offset": (view(-1, (12,), (1,)), "makes a tensor of"),
    "negative size": (view(0, (-12,), (1,)), "makes a tensor of"),
    "two negative sizes": (view(0, (-3, -4), (4, 1)), "makes a tensor of"),
    "stride 0: a bomb": (view(0, (1 << 40,), (0,)), "does not lie"),
    "product that wraps": (view(0, (1 << 32, 1 << 32), (0, 0)), "does not lie"),
    "span that wraps": (view(0, (2, 2), (1 << 61, 1 << 61)), "does not lie"),
    "size of 2^64": (view(0, (1 << 64,), (1,)), "makes a tensor of"),
    "size of 600 digits": (view(0, (1 << 2000,), (1,)), "makes a tensor of"),
    "size true": (view(0, (True,), (1,)), "makes a tensor of"),
    "size a float": (view(0, (12.0,), (1,)), "makes a tensor of"),
    "shape a list": (view(0, [12], (1,)), "makes a tensor of"),
    "fewer strides": (view(0, (3, 4), (4,)), "makes a tensor of"),
    "rank 33": (view(0, (1,) * 33, (1,) * 33), "makes a tensor of"),
    "no numbers": (view(0, (0, 1 << 61), (1, 1)), "'x' has no numbers"),
    "storage larger than its record": (view(0, (13,), (1,), 13), "is of 48 bytes, not of 52"),
    "storage smaller than its record": (view(0, (1,), (1,), 11), "is of 48 bytes, not of 44"),
    "storage of 2^61 numbers": (view(0, (1,), (1,), 1 << 61), "is of 48 bytes"),
    "negative storage": (view(0, (1,), (1,), -12), "names no storage"),
    "storage size true": (view(0, (1,), (1,), True), "names no storage"),
    "storage outside the archive": (view(0, (12,), (1,), key="../0"), "'../0' is missing"),
    "unknown dtype": (view(0, (12,), (1,), kind="QInt8"), "names 'torch.QInt8Storage'"),
    "spread thin": (view(0, (2,), (999,), 1000), "'x' has 2 numbers spread over 1000"),
}  # fmt: skip


@pytest.mark.parametrize("case", VIEWS)
def test_hostile_view(case: str, tmp_path: Path) -> None:
    """Catches a view that leads out of its storage, and sizes that would fill the memory."""
    opcodes, message = VIEWS[case]
    refused(tmp_path, as_zip(pickled({"x": opcodes})), message)


BIG = {str(i): view(0, (50_000,), (1,), 50_000) for i in range(3)}
STATE_DICTS = {
    "not a dict": (as_zip(pickled([1])), "no state dict at its top"),
    "empty dict": (as_zip(pickled({})), "no state dict at its top"),
    "a tensor is a number": (as_zip(pickled({**ONE, "y": 1})), "'y' of the state dict is 1"),
    "a tensor is a dict": (as_zip(pickled({"model": ONE})), "'model' of the state dict is"),
    "a name is a number": (as_zip(pickled({7: ONE["x"]})), "entry 7 of the state dict"),
    "storage of two types": (
        as_zip(pickled({**ONE, "y": view(0, (12,), (1,), kind="Half")})), "two types or sizes"
    ),
    "storage of two sizes": (
        as_zip(pickled({**ONE, "y": view(0, (1,), (1,), 11)})), "two types or sizes"
    ),
    "one storage for all": (as_zip(pickled(BIG), bytes(200_000)), "share storages too often"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATE_DICTS)
def test_hostile_state_dict(case: str, tmp_path: Path) -> None:
    """Catches an object that is no state dict, and tensors that fill more than the file."""
    refused(tmp_path, *STATE_DICTS[case])


def changed(index: int, **changes: object) -> bytes:
    """Return the sound archive with one record changed."""
    records = zip_records(pickled(ONE), {"0": NUMBERS})
    for field, value in changes.items():
        setattr(records[index], field, value)
    return zip_file(records)


DEFLATED = zlib.compress(bytes(1 << 24))[2:-4]
ZIPS = {
    "compressed: a bomb": (
        changed(2, data=DEFLATED, size=1 << 24, packed=len(DEFLATED), method=8),
        "is compressed or encrypted",
    ),
    "encrypted": (changed(2, flags=0x809), "is compressed or encrypted"),
    "bzip2": (changed(0, method=12), "is compressed or encrypted"),
    "two sizes": (changed(2, packed=47), "has 47 bytes that become 48"),
    "wrong CRC of the pickle": (changed(0, crc=1), "data.pkl is damaged: its CRC-32"),
    "wrong CRC of a storage": (changed(2, crc=1), "'x' is damaged: the CRC-32"),
    "a record twice": (zip_file([*RECORDS, RECORDS[0]]), "is there twice"),
    "data.pkl missing": (zip_file(RECORDS[1:]), "has no data.pkl"),
    "storage missing": (zip_file(RECORDS[:2]), "its storage '0' is missing"),
    "TorchScript": (zip_file([*RECORDS, ZipRecord("archive/constants.pkl", b"")]), "TorchScript"),
    "unknown byte order": (changed(1, data=b"middle"), "unknown byte order b'middle'"),
    "byte order of a gigabyte": (changed(1, data=b"little" * 1000), "unknown byte order"),
    "record outside the folder": (changed(2, name="../../etc/passwd"), "is not in the folder"),
    "absolute name": (changed(2, name="/etc/passwd"), "is not in the folder"),
    "folder above": (
        zip_file(zip_records(pickled(ONE), {"0": NUMBERS}, "..")), "in no folder of its own"
    ),
    "no folder": (zip_file([ZipRecord("data.pkl", pickled(ONE))]), "in no folder of its own"),
    "no records": (b"PK\3\4" + zip_file([]), "does not end where it must"),
    "local header of another record": (
        changed(2, local_name="archive/data/1"), "has another local header"
    ),
    "header on another's": (changed(2, header=0), "overlaps another"),
    "header inside another": (changed(2, header=70), "overlaps another|another local header"),
    "header in the directory": (changed(2, header=len(SOUND) - 60), "overlaps another"),
    "header behind the end": (changed(2, header=1 << 31), "overlaps another"),
    "size leads into the directory": (
        zip_file([ZipRecord("archive/data.pkl", pickled({"x": view(0, (9,), (1,), 99)})),
                  ZipRecord("archive/data/0", NUMBERS, size=99 * 4)]),
        "overlaps another",
    ),
    "data into the directory": (
        zip_file([ZipRecord("archive/data.pkl", pickled({"x": view(0, (9,), (1,), 17)})),
                  ZipRecord("archive/data/0", NUMBERS, size=17 * 4)]),
        "record 'data/0' overlaps another",
    ),
    "size of 4 GB": (changed(2, size=0xFFFFFFFE), "overlaps another"),
    "64-bit size missing": (changed(2, size=0xFFFFFFFF), "lacks its 64-bit sizes"),
    "64-bit size cut": (
        changed(2, size=0xFFFFFFFF, extra=struct.pack("<2HI", 1, 16, 48)), "lacks its 64-bit"
    ),
    "64-bit size of 2^63": (
        changed(2, size=0xFFFFFFFF, extra=struct.pack("<2H2Q", 1, 16, 1 << 63, 1 << 63)),
        "overlaps another",
    ),
    "64-bit offset of 2^64-1": (
        changed(2, header=0xFFFFFFFF, extra=struct.pack("<2HQ", 1, 8, (1 << 64) - 1)),
        "overlaps another",
    ),
    "two parts": (zip_file(RECORDS, end={"disk": 1}), "in parts"),
    "a comment": (zip_file(RECORDS, end={"comment": 5}), "with a comment"),
    "text behind the archive": (SOUND + b"hello", "does not end as a zip archive"),
    "bytes before the end record": (zip_file(RECORDS, after=b"hello"), "does not end where"),
    "count too large": (zip_file(RECORDS, end={"count": 4}), "the zip directory is truncated"),
    "count too small": (zip_file(RECORDS, end={"count": 2}), "longer than its records"),
    "count of millions": (
        zip_file(RECORDS, end={"count": 1 << 40}, zip64=True), "directory of 1099511627776 records"
    ),
    "directory of 2^63 bytes": (
        zip_file(RECORDS, end={"size": 1 << 63}, zip64=True), f"allowed are {MAX_RECORDS}|must"
    ),
    "directory at 2^63": (zip_file(RECORDS, end={"start": 1 << 63}, zip64=True), "where it must"),
    "directory before the file": (zip_file(RECORDS, end={"start": 0}), "where it must"),
    "64-bit end elsewhere": (
        zip_file(RECORDS, after=struct.pack("<4sIQI", b"PK\6\7", 0, 1 << 63, 1)), "not at its place"
    ),
    "64-bit end damaged": (
        zip_file(RECORDS, zip64=True).replace(b"PK\6\6", b"PK\6\5"), "zip64 end record is damaged"
    ),
    "directory damaged": (SOUND.replace(b"PK\1\2", b"PK\1\3"), "the zip directory is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", ZIPS)
def test_hostile_zip(case: str, tmp_path: Path) -> None:
    """Catches an archive that two readers would read differently, or that would unpack to more."""
    refused(tmp_path, *ZIPS[case])


def legacy(**changes: object) -> bytes:
    """Return the sound legacy file with the list of keys or the counts changed."""
    keys = changes.get("keys", ["0"])
    count = changes.get("count", 12)
    assert isinstance(count, int)
    return legacy_file(pickled(ONE_LEGACY), {"0": NUMBERS}, {"0": count}, keys)


PREFIX = pickled(LEGACY_MAGIC)
STORAGE = ("storage", glob("torch", "FloatStorage"), "0", "cpu", 12)
LEGACIES = {
    "empty file": (b"", "not a file of torch.save"),
    "one byte": (b"\x80", "is truncated or too long"),
    "text": (b"version https://git-lfs.github.com/spec/v1\n", "not a file of torch.save"),
    "safetensors": (b"\x02\0\0\0\0\0\0\0{}", "not a file of torch.save"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "not a file of torch.save"),
    "gzip": (b"\x1f\x8b" + bytes(100), "not a file of torch.save"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "written by torch 0.1"),
    "wrong magic number": (pickled(7) + SOUND_LEGACY, "not of torch.save: begins with 7"),
    "magic number true": (pickled(True), "begins with True"),
    "wrong version": (PREFIX + pickled(1002), "begins with 1002"),
    "keys not a list": (legacy(keys={"0": 1}), "the list of storages is"),
    "keys not strings": (legacy(keys=[0]), "the list of storages is"),
    "unknown key": (legacy(keys=["1"]), "are not those of the tensors"),
    "key twice": (legacy(keys=["0", "0"]), "are not those of the tensors"),
    "no keys": (legacy(keys=[]), "are not those of the tensors"),
    "fewer numbers": (legacy(count=11), "has 11 numbers, its tensors say 12"),
    "more numbers": (legacy(count=13), "has 13 numbers"),
    "negative count": (legacy(count=-12), "numbers, its tensors say 12"),
    "one byte short": (SOUND_LEGACY[:-1], "is truncated"),
    "one byte long": (SOUND_LEGACY + b"\0", "is longer than its storages"),
    "another pickle behind": (SOUND_LEGACY + pickled({}), "is longer than its storages"),
    "storage of 2^61 numbers": (
        legacy_file(
            pickled({"x": tensor(storage("0", 1 << 61, legacy=True), 0, (1,), (1,))}),
            {"0": NUMBERS}, {"0": 1 << 61},
        ),
        "is truncated",
    ),
    "three storages of 2^61": (
        legacy_file(
            pickled({k: tensor(storage(k, 1 << 61, legacy=True), 0, (1,), (1,)) for k in "012"}),
            dict.fromkeys("012", NUMBERS), dict.fromkeys("012", 1 << 61),
        ),
        "is truncated",
    ),
    "view of a storage": (
        legacy_file(
            pickled({"x": tensor(plain((*STORAGE, ("1", 0, 6))) + b"Q", 0, (6,), (1,))}),
            {"0": NUMBERS}, {"0": 12},
        ),
        "names no storage",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEGACIES)
def test_hostile_legacy(case: str, tmp_path: Path) -> None:
    """Catches a damaged file of the old format, or another format taken for it."""
    refused(tmp_path, *LEGACIES[case])


@pytest.mark.parametrize("content", [SOUND, SOUND_LEGACY], ids=["zip", "legacy"])
def test_truncated_anywhere(content: bytes, tmp_path: Path) -> None:
    """Catches a file cut at any byte that is accepted, or fails with another exception."""
    path = tmp_path / "cut.bin"
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            TorchFile(path)


@pytest.mark.parametrize("content", [SOUND, SOUND_LEGACY], ids=["zip", "legacy"])
def test_one_bit_changed(content: bytes, tmp_path: Path) -> None:
    """Catches a flipped bit that leads to another exception than CheckpointError."""
    path = tmp_path / "flipped.bin"
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with suppress(CheckpointError):
            read_all(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_not_a_regular_file(kind: str, tmp_path: Path) -> None:
    """Catches a pipe that would block for ever."""
    path = tmp_path / "pytorch_model.bin"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(CheckpointError, match="not a regular file"):
        TorchFile(path)


def test_pickle_too_long(tmp_path: Path) -> None:
    """Catches a data.pkl of gigabytes that is read whole; the file is sparse."""
    path = tmp_path / "long.bin"
    sound = zip_file([ZipRecord("archive/data.pkl", b"")])
    body, tail = sound[: sound.index(b"PK\1\2")], sound[sound.index(b"PK\1\2") :]
    directory, end = tail[:-22], tail[-22:]
    size = MAX_PICKLE + 1
    directory = directory[:20] + struct.pack("<2I", size, size) + directory[28:]
    end = end[:16] + struct.pack("<I", len(body) + size) + end[20:]
    with open(path, "wb") as file:
        file.write(body)
        file.seek(len(body) + size)
        file.write(directory + end)
    with pytest.raises(CheckpointError, match=f"no data.pkl of at most {MAX_PICKLE} bytes"):
        TorchFile(path)


def test_many_records(tmp_path: Path) -> None:
    """Catches an archive of very many records that takes seconds."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", *[0] * 9, 7, *[0] * 6)
    directory = b"".join(entry + b"a/%05d" % i for i in range(MAX_RECORDS))
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, MAX_RECORDS, MAX_RECORDS,
                      len(directory), 4)  # fmt: skip
    end += struct.pack("<4sIQI", b"PK\6\7", 0, 4 + len(directory), 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    refused(tmp_path, b"PK\3\4" + directory + end, "overlaps another")
