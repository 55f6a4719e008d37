"""Hostile files at every door: a CheckpointError within a second, nothing left, nothing executed.

The malformed headers are those of `hostile_safetensors`; each comes as a packed file, as a file to
load, and as the weights of a directory.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import header_bytes, hf_config
from hostile_safetensors import HOSTILE, entry
from packed_files import FIXTURES, put_together, take_apart, tensor

import gpt2fast
from gpt2fast import cli
from gpt2fast.checkpoints.packed import open_packed
from gpt2fast.config import CheckpointError

PACKED = FIXTURES / "v1-int8.safetensors"
TEXT = {"__metadata__": {"format": "gpt2fast", "format_version": "1"}}
MORE: dict[str, bytes] = {
    "packed, nothing else": header_bytes(TEXT),
    "packed, in a comment": header_bytes('{"x": "\\"format\\":\\"gpt2fast\\""}'),
    "many tensors": header_bytes({f"t{i}": entry("U8", [0], 0, 0) for i in range(20_000)} | TEXT),
    "one name of 1 MB": header_bytes({"x" * (1 << 20): entry(), **TEXT}, bytes(8)),
    "a pickle": b"\x80\x04\x95" + bytes(61),
    "a zip": b"PK\x03\x04" + bytes(60),
    "length big-endian": (64).to_bytes(8, "big") + b"{}".ljust(64),
}
CASES = {**{name: content for name, (content, _) in HOSTILE.items()}, **MORE}


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Check that the block takes less than a second of CPU and leaves no file, open or written."""
    descriptors = Path("/proc/self/fd")
    gc.collect()  # what earlier tests left open
    before = sorted(folder.rglob("*")), len(list(descriptors.glob("*")))
    start = time.process_time()
    yield
    assert time.process_time() - start < 1
    assert before == (sorted(folder.rglob("*")), len(list(descriptors.glob("*"))))


@pytest.mark.parametrize("door", ["packed", "load", "verify", "directory", "estimate", "convert"])
@pytest.mark.parametrize("case", CASES)
def test_malformed_file(
    case: str, door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a door at which a malformed file is accepted, hangs, or fails in another way."""
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf_config()))
    path = folder / "model.safetensors"
    path.write_bytes(CASES[case])
    doors: dict[str, Callable[[], object]] = {
        "packed": lambda: open_packed(path),
        "load": lambda: gpt2fast.load(path),
        "verify": lambda: gpt2fast.load(path, verify=True, mmap=False),
        "directory": lambda: gpt2fast.load(folder),
        "estimate": lambda: gpt2fast.estimate(folder),
        "convert": lambda: gpt2fast.convert(folder, tmp_path / "out.safetensors"),
    }
    with watched(tmp_path), pytest.raises(CheckpointError) as caught:
        doors[door]()
    message = str(caught.value)
    assert str(folder) in message
    assert len(message) < 2 * len(str(path)) + 800 and message.isprintable()


@pytest.mark.parametrize("case", ["empty file", "deep JSON", "far past the end", "a pickle"])
def test_command(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback of the command line."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(CASES[case])
    assert cli.main(["verify", str(path)]) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"gpt2fast: error: {path}") and err.count("\n") == 1


def minor(version: str) -> Callable[[dict[str, Any], bytearray], None]:
    def change(header: dict[str, Any], _: bytearray) -> None:
        header["__metadata__"].update(format_version=version, colour="blue")

    return change


def extra(name: str, *, size: int = 5) -> Callable[[dict[str, Any], bytearray], None]:
    """Return a change that adds a tensor behind all others."""

    def change(header: dict[str, Any], data: bytearray) -> None:
        offsets = [len(data), len(data) + size]
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": offsets}
        data += bytes(range(size))

    return change


def extra_in_front(header: dict[str, Any], data: bytearray) -> None:
    for item in header.values():
        if "data_offsets" in item:
            item["data_offsets"] = [64 + at for at in item["data_offsets"]]
    header["extra.x"] = {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}
    data[:0] = bytes(64)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    "change",
    [minor("1.0"), minor("1.1"), minor("1.9999"), extra("extra.x"), extra("extra.y", size=0)],
)
def test_later_minor_version(change: Any, mmap: bool, tmp_path: Path) -> None:
    """Catches a file of a later minor version that is refused, or read otherwise."""
    header, data = take_apart(PACKED)
    change(header, data)
    path = put_together(tmp_path / "later.safetensors", header, data)
    with gpt2fast.load(path, mmap=mmap, verify=True) as later, gpt2fast.load(PACKED) as model:
        assert np.array_equal(later.logits([1, 2, 3]), model.logits([1, 2, 3]))
        assert later.tokenizer.encode("abc") == model.tokenizer.encode("abc")
    data[-1] ^= 1
    put_together(path, header, data, forged=False)
    with pytest.raises(CheckpointError):
        open_packed(path, verify=True)


@pytest.mark.parametrize("change", [extra("more.x"), extra("h.1.ln_1.weight"), extra_in_front])
def test_what_a_minor_version_may_not_add(change: Any, tmp_path: Path) -> None:
    """Catches a tensor that is skipped although nothing allows it."""
    header, data = take_apart(PACKED)
    change(header, data)
    path = put_together(tmp_path / "odd.safetensors", header, data)
    with pytest.raises(CheckpointError, match=r"unknown tensor|must be U8 .* at 0"):
        open_packed(path)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_any_content_is_harmless(dtype: str, tmp_path: Path) -> None:
    """Catches a weight, scale or table whose value leads outside a buffer, or ends the process."""
    header, sound = take_apart(FIXTURES / f"v1-{dtype}.safetensors")
    rng = np.random.default_rng(1)
    for i in range(60):
        data = np.frombuffer(sound, np.uint8).copy()
        if i < 4:
            data[:] = [0, 255, 128, 127][i]
        elif i < 30:
            at = rng.integers(0, len(data), 1 << (i // 2))
            data[at] = rng.integers(0, 256, len(at), np.uint8)
        else:  # only the tokenizer, so that the rest gives numbers
            begin = min(
                (header[n]["data_offsets"][0] for n in header if n.startswith("tokenizer.t")),
                default=0,
            )
            at = rng.integers(begin, len(data), 1 + i // 10)
            data[at] = rng.integers(0, 256, len(at), np.uint8)
        path = put_together(tmp_path / "noise.safetensors", header, bytearray(data.tobytes()))
        with gpt2fast.load(path, threads=2) as model:
            with suppress(FloatingPointError):
                assert np.isfinite(model.logits([0, 1, 2, 3, 4, 5, 6])).all()
            with suppress(ValueError, FloatingPointError):  # a bad table, or none
                assert isinstance(model.generate("Old files", max_new_tokens=3, seed=i).text, str)


def test_any_header_is_refused_or_right(tmp_path: Path) -> None:
    """Catches an exception of another kind, from a header with bytes changed at random."""
    content = (FIXTURES / "v1-float16.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(2)
    interesting = np.frombuffer(b'"{}[]:,0123456789.-eE\\ntrufals\x00\xff', np.uint8)
    path = tmp_path / "mutant.safetensors"
    opened = 0
    for _ in range(1000):
        mutant = np.frombuffer(content, np.uint8).copy()
        at = rng.integers(0, start, rng.integers(1, 4))
        mutant[at] = rng.choice(interesting, len(at))
        path.write_bytes(mutant.tobytes())
        try:
            model = open_packed(path)
        except CheckpointError:
            continue
        opened += 1
        assert (
            model.tensors.keys() == open_packed(FIXTURES / "v1-float16.safetensors").tensors.keys()
        )
    assert 20 < opened < 500  # in a name, a padding space or a receipt


def test_truncated_when_it_was_read(tmp_path: Path) -> None:
    """Catches load(mmap=False) that still depends on the file: the way around a bus error."""
    path = tmp_path / "copy.safetensors"
    path.write_bytes(PACKED.read_bytes())
    with gpt2fast.load(path, mmap=False) as model, gpt2fast.load(PACKED) as other:
        os.truncate(path, 100)
        assert np.array_equal(model.logits([1, 2, 3]), other.logits([1, 2, 3]))
        assert model.tokenizer.encode("abc") == other.tokenizer.encode("abc")


@pytest.mark.parametrize(
    ("dtype", "name", "bits"),
    [
        ("float32", "wpe.weight", b"\0\0\xc0\x7f"),
        ("float32", "wte.weight", b"\0\0\x80\x7f"),
        ("float16", "h.1.mlp.c_proj.weight", b"\0\x7e"),
        ("int8", "ln_f.bias", b"\0\0\x80\xff"),
    ],
)
def test_weights_that_are_not_numbers(dtype: str, name: str, bits: bytes, tmp_path: Path) -> None:
    """Catches NaN or infinity in a packed file that ends in text instead of an error."""
    header, data = take_apart(FIXTURES / f"v1-{dtype}.safetensors")
    tensor(header, data, name)[: len(bits)] = np.frombuffer(bits, np.uint8)
    path = put_together(tmp_path / "nan.safetensors", header, data)
    with gpt2fast.load(path) as model:
        with pytest.raises(FloatingPointError):
            model.logits([0, 1])
        with pytest.raises(FloatingPointError):
            model.generate([0, 1], max_new_tokens=2)
    with pytest.raises(CheckpointError, match=f"tensor {name}: .* NaN or infinite"):
        gpt2fast.load(path, verify=True)
