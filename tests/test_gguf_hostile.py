"""Damaged and hostile GGUF files: catches one let through, or one that costs time or memory."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import STRING, TYPES, Tensor, f32, integers, small_file, string, strings
from gguf_hostile import EOS, HOSTILE, MERGES, TOKEN_LIST, array, parts, tokens_with

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.config import CheckpointError
from gpt2fast.conversion.packing import pack


def check_refused(path: Path, message: str) -> None:
    """Open and pack a file: one CheckpointError that names it, within a second."""
    started = time.process_time()
    with pytest.raises(CheckpointError, match=message) as caught, open_checkpoint(path) as opened:
        pack(opened)
    assert time.process_time() - started < 1
    assert str(path) in str(caught.value) and len(str(caught.value)) < len(str(path)) + 700


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(case: str, tmp_path: Path) -> None:
    """Catches a malformed file that is accepted, fails otherwise, or is not named."""
    file, message = HOSTILE[case]
    check_refused(file().write(tmp_path / "hostile.gguf"), message)


HARMLESS: dict[str, dict[str, Any]] = {
    "no end of text": {EOS: (1 << 32) - 1},
    "a template": {"tokenizer.chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
    "a token of 64 KiB": {TOKEN_LIST: tokens_with(258, "a" * 65536), MERGES: strings([])},
    "a merge that looks like a comment": {
        TOKEN_LIST: tokens_with(258, "#version"),
        MERGES: strings([]),
    },
    "unknown keys": {"x": 1.5, "": True, "y\0": strings(["a"] * 1000), "z": integers([1])},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_file(case: str, tmp_path: Path) -> None:
    """Catches an unusual file refused, or what it holds taken for more than text."""
    path = small_file(HARMLESS[case]).write(tmp_path / "harmless.gguf")
    with open_checkpoint(path) as checkpoint:
        pack(checkpoint)


def test_cut_anywhere(tmp_path: Path) -> None:
    """Catches a place where a file may end and another exception or a model comes of it."""
    content = small_file(tokenizer=False).bytes()
    path = tmp_path / "cut.gguf"
    for length in (*range(0, 3000, 11), *range(3000, len(content), 997), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            open_checkpoint(path)


def test_a_weight_that_is_no_number(tmp_path: Path) -> None:
    """Catches a damaged scale packed into a model: tensor and number of weights are named."""
    file = small_file()
    blocks = bytearray(3 * 32 * 34)
    blocks[34:36] = struct.pack("<e", float("nan"))
    file.tensors["blk.0.attn_qkv.weight"] = Tensor((32, 96), TYPES["Q8_0"], bytes(blocks))
    check_refused(file.write(tmp_path / "nan.gguf"), r"h\.0\.attn\.c_attn\.weight: 32 NaN")


ONE = f32(np.ones(1))
EMPTY = array(STRING, 600_000, bytes(4_800_000))
MANY: dict[str, tuple[dict[str, Any], str | None]] = {
    "entries": ({"extra": [(str(i), 1) for i in range(30_000)]}, None),
    "tensors": ({"extra_tensors": [(str(i), ONE) for i in range(20_000)]}, "tensor '0' is unknown"),
    "strings": ({"extra": [("k", EMPTY)]}, None),
    "too many strings": ({"extra": [("k", EMPTY), ("l", EMPTY)]}, "'l' is an array of 600000"),
}


@pytest.mark.parametrize("case", MANY)
def test_much_of_it(case: str, tmp_path: Path) -> None:
    """Catches time that grows faster than the file: refused, or read, within a second."""
    changes, message = MANY[case]
    path = parts("", **changes)[0]().write(tmp_path / "many.gguf")
    started = time.process_time()
    if message is None:
        open_checkpoint(path).close()
    else:
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)
    assert time.process_time() - started < 1


def test_a_header_that_sizes_an_allocation(tmp_path: Path) -> None:
    """Catches a length within a huge sparse file that is read before it is doubted."""
    path = tmp_path / "sparse.gguf"
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k"))
        file.write(struct.pack("<IQ", STRING, 1 << 40))
        file.truncate(1 << 41)
    check_refused(path, "a header may have 67108864 bytes")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_not_a_regular_file(kind: str, tmp_path: Path) -> None:
    """Catches a pipe that would block for ever, and a link that leads nowhere."""
    path = tmp_path / "model.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nowhere")
    for source in (path, tmp_path):
        with pytest.raises(CheckpointError):
            open_checkpoint(source)
