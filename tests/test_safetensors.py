"""The safetensors format: catches a hostile header let through, and a value read wrongly."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import header_bytes, stored, write_safetensors
from hostile_safetensors import HOSTILE, entry

from gpt2fast.checkpoints.safetensors import (
    MAX_HEADER,
    SafetensorsFile,
    TensorInfo,
    encode_header,
)
from gpt2fast.config import CheckpointError


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
