"""The safetensors format: catches a hostile header let through, and a value read wrongly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import header_bytes, stored, write_safetensors

from gpt2fast.checkpoints.safetensors import (
    MAX_HEADER,
    SafetensorsFile,
    TensorInfo,
    encode_header,
)
from gpt2fast.config import CheckpointError


def entry(dtype: object = "F32", shape: object = (2,), begin: object = 0, end: object = 8) -> Any:
    """Return a header entry, well-formed by default."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DEEP = b'{"a":' * 10_000 + b"1" + b"}" * 10_000
HOSTILE = {
    "empty file": (b"", "0 bytes"),
    "7 bytes": (b"\x02" + b"\0" * 6, "7 bytes"),
    "length 0": (bytes(8), "must begin with"),
    "length beyond the file": (header_bytes("{}")[:-1], "truncated"),
    "length 2^63": ((1 << 63).to_bytes(8, "little") + b"{}", "header of 9223372036854775808"),
    "length 2^64-1": (b"\xff" * 8 + b"{}", "header of 18446744073709551615"),
    "not UTF-8": (header_bytes(b'{"\xff":1}'), "is not UTF-8"),
    "UTF-16": (header_bytes('{"a":1}'.encode("utf-16")), "must begin with"),
    "not an object": (header_bytes("[]"), "must begin with"),
    "leading space": (header_bytes(" {}"), "must begin with"),
    "byte order mark": (header_bytes("\ufeff{}"), "must begin with"),
    "truncated JSON": (header_bytes('{"a":'), "not valid JSON"),
    "text after the object": (header_bytes("{}{}"), "not valid JSON"),
    "deep JSON": (header_bytes(DEEP), "not valid JSON|must have exactly"),
    "name twice": (
        header_bytes('{"a":%s,"a":%s}' % ((json.dumps(entry()),) * 2), bytes(8)),
        "'a' appears twice",
    ),
    "name twice by escape": (
        header_bytes('{"a":%s,"\\u0061":%s}' % ((json.dumps(entry()),) * 2), bytes(8)),
        "'a' appears twice",
    ),
    "key twice in a tensor": (
        header_bytes('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "'dtype' appears twice",
    ),
    "metadata of numbers": (header_bytes({"__metadata__": {"a": 1}}), "strings to strings"),
    "metadata a list": (header_bytes({"__metadata__": []}), "strings to strings"),
    "metadata nested": (header_bytes({"__metadata__": {"a": {"b": "c"}}}), "strings to strings"),
    "entry a number": (header_bytes({"a": 1}), "must have exactly dtype"),
    "entry without shape": (
        header_bytes({"a": {"dtype": "U8", "data_offsets": [0, 0]}}),
        "must have exactly dtype",
    ),
    "entry with another key": (header_bytes({"a": {**entry(), "x": 1}}), "must have exactly"),
    "unknown dtype": (header_bytes({"a": entry("F33")}, bytes(8)), "unknown dtype 'F33'"),
    "dtype a list": (header_bytes({"a": entry(["F32"])}, bytes(8)), "unknown dtype"),
    "dtype lower case": (header_bytes({"a": entry("f32")}, bytes(8)), "unknown dtype"),
    "negative size": (header_bytes({"a": entry(shape=[-2])}, bytes(8)), "has shape"),
    "two negative sizes": (header_bytes({"a": entry(shape=[-2, -1])}, bytes(8)), "has shape"),
    "size of 2^64": (header_bytes({"a": entry(shape=[2**64])}, bytes(8)), "has shape"),
    "fractional size": (header_bytes({"a": entry(shape=[2.0])}, bytes(8)), "has shape"),
    "size true": (header_bytes({"a": entry("U8", [True], 0, 1)}, bytes(1)), "has shape"),
    "shape a string": (header_bytes({"a": entry(shape="2")}, bytes(8)), "has shape"),
    "shape that wraps to 0": (
        header_bytes({"a": entry("U8", [1 << 32, 1 << 32], 0, 0)}),
        "does not fill its 0 bytes",
    ),
    "shape that wraps to 8": (
        header_bytes({"a": entry("U8", [(1 << 61) + 1, 8])}, bytes(8)),
        "does not fill its 8 bytes",
    ),
    "rank 65": (header_bytes({"a": entry(shape=[1] * 64 + [2])}, bytes(8)), "at most 64"),
    "shape too small": (header_bytes({"a": entry(shape=[1])}, bytes(8)), "does not fill"),
    "half a byte": (header_bytes({"a": entry("F4", [3], 0, 1)}, bytes(1)), "does not fill"),
    "offsets reversed": (header_bytes({"a": entry(begin=8, end=0)}, bytes(8)), "before it begins"),
    "offsets negative": (header_bytes({"a": entry(begin=-8, end=0)}, bytes(8)), "data_offsets"),
    "three offsets": (
        header_bytes({"a": {**entry(), "data_offsets": [0, 4, 8]}}, bytes(8)),
        "data_offsets",
    ),
    "overlap": (header_bytes({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)), "overlaps"),
    "same range twice": (header_bytes({"a": entry(), "b": entry()}, bytes(8)), "overlaps"),
    "hole": (header_bytes({"a": entry(), "b": entry(begin=9, end=17)}, bytes(17)), "a hole"),
    "hole at the start": (header_bytes({"a": entry(begin=4, end=12)}, bytes(12)), "a hole"),
    "one byte short": (header_bytes({"a": entry()}, bytes(7)), "truncated"),
    "one byte long": (header_bytes({"a": entry()}, bytes(9)), "belongs to no tensor"),
    "data without tensors": (header_bytes("{}", b"PK\x03\x04"), "belongs to no tensor"),
    "far past the end": (
        header_bytes({"a": entry("U8", [1 << 62], 0, 1 << 62)}, bytes(8)),
        "truncated",
    ),
    "a million tensors": (
        header_bytes('{"a":{"data_offsets":0}' + ',"":{"data_offsets":0}' * 600_000 + "}"),
        "more than 100000 tensors",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_header(case: str, tmp_path: Path) -> None:
    """Catches a malformed safetensors file that is accepted or fails with another exception."""
    content, message = HOSTILE[case]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < len(str(path)) + 700


@pytest.mark.parametrize("length", [MAX_HEADER + 1, 100_000_001])
def test_header_longer_than_allowed(length: int, tmp_path: Path) -> None:
    """Catches a header length that sizes an allocation; the file is sparse."""
    path = tmp_path / "long.safetensors"
    with open(path, "wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(8 + length)
    with pytest.raises(CheckpointError, match=f"header of {length} bytes, at most {MAX_HEADER}"):
        SafetensorsFile(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_not_a_regular_file(kind: str, tmp_path: Path) -> None:
    """Catches a pipe that would block for ever."""
    path = tmp_path / "model.safetensors"
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(CheckpointError, match="not a regular file"):
        SafetensorsFile(path)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (header_bytes("{}"), []),
        (header_bytes("{}   "), []),
        (header_bytes({"s": entry("F32", [], 0, 4)}, bytes(4)), ["s"]),
        (header_bytes({"e": entry("F32", [0, 3], 0, 0), "f": entry()}, bytes(8)), ["e", "f"]),
        (header_bytes({"b": entry(begin=8, end=16), "a": entry()}, bytes(16)), ["b", "a"]),
        (header_bytes({"a": entry("F4", [4], 0, 2)}, bytes(2)), ["a"]),
    ],
    ids=["no tensor", "trailing spaces", "scalar", "empty tensor", "any order", "four bits"],
)
def test_unusual_but_valid(content: bytes, names: list[str], tmp_path: Path) -> None:
    """Catches a valid file that is refused."""
    path = tmp_path / "valid.safetensors"
    path.write_bytes(content)
    file = SafetensorsFile(path)
    assert list(file.header.tensors) == names
    file.close()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_dtypes(name: str, tmp_path: Path) -> None:
    """Catches a conversion to float32 that changes a value: every 16-bit pattern is read."""
    bits = np.arange(65536, dtype=np.uint16)
    if name == "BF16":
        expected = (bits.astype(np.uint32) << 16).view(np.float32)
        raw = bits.tobytes()
    else:
        with np.errstate(invalid="ignore"):
            expected = bits.view(np.float16).astype(np.float32)
        raw = bits.tobytes() if name == "F16" else expected.tobytes()
    path = tmp_path / "all.safetensors"
    write_safetensors(path, {"pad": stored(np.zeros(1)), "x": (name, (256, 256), raw)})
    file = SafetensorsFile(path)
    got = file.read("x")
    file.close()
    assert got.dtype == np.float32 and got.shape == (256, 256)
    assert np.array_equal(got.reshape(-1), expected, equal_nan=True)


@pytest.mark.parametrize("name", ["F64", "I32", "BOOL"])
def test_other_dtypes_are_refused(name: str, tmp_path: Path) -> None:
    """Catches integers or doubles taken for weights."""
    path = tmp_path / "other.safetensors"
    write_safetensors(path, {"x": stored(np.ones(3), name)})
    file = SafetensorsFile(path)
    with pytest.raises(CheckpointError, match=f"'x' has dtype {name}: weights must be F32, F16"):
        file.read("x")
    file.close()


def test_truncated_while_open(tmp_path: Path) -> None:
    """Catches a file cut after its header was read: an error, not garbage."""
    path = tmp_path / "cut.safetensors"
    write_safetensors(path, {"x": stored(np.ones(1 << 20))})
    file = SafetensorsFile(path)
    os.truncate(path, 1000)
    with pytest.raises(CheckpointError, match="'x': the file was truncated while it was read"):
        file.read("x")
    file.close()


@pytest.mark.parametrize("room", [0, 1000])
def test_encoded_header(room: int, tmp_path: Path) -> None:
    """Catches a header of ours that we or the alignment rule would refuse."""
    path = tmp_path / "ours.safetensors"
    header = encode_header({"k": "\u00e9"}, {"x": TensorInfo("U8", (64,), 0, 64)}, room)
    path.write_bytes(header + bytes(64))
    file = SafetensorsFile(path)
    assert len(header) % 64 == 0 and len(header) >= room
    assert file.header.data_start == len(header) and file.header.metadata == {"k": "\u00e9"}
    file.close()
