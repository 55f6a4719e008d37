"""What `verify` checks: catches damaged content that is let through, or a sound file refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer
from numpy.typing import NDArray
from packed_files import FIXTURES, put_together, take_apart, tensor

import gpt2fast
from gpt2fast import cli, loading
from gpt2fast.checkpoints import content, packed
from gpt2fast.checkpoints.content import check_content, slabs_of_memory
from gpt2fast.checkpoints.layout import layout
from gpt2fast.checkpoints.packed import open_packed
from gpt2fast.config import CheckpointError, Config

Bytes = NDArray[np.uint8]
WPE, BIAS, HEAD = "wpe.weight", "h.0.attn.c_attn.bias", "wte.weight"
FC, PROJ, VOCAB = "h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight", "tokenizer.file.vocab.json"


def put(at: int, *values: int) -> Callable[[Bytes], None]:
    """Return a change of bytes from `at` on."""

    def change(raw: Bytes) -> None:
        for i, value in enumerate(values):
            raw[at + i] = value

    return change


def scale(block: int, output: int, bits: int) -> Callable[[Bytes], None]:
    """Return a change of an int8 matrix's scale."""
    return put(block * 4224 + 4096 + 2 * output, bits & 255, bits >> 8)


def weight(block: int, output: int, given: int, byte: int) -> Callable[[Bytes], None]:
    """Return a change of an int8 matrix's weight."""
    return put(block * 4224 + given // 4 * 256 + output * 4 + given % 4, byte)


# The int8 fixture has n_embd 18, n_inner 66: c_fc is [66, 18], c_proj [18, 66]; wte has 261 rows.
DAMAGE: dict[str, tuple[str, str, Callable[[Bytes], None], str]] = {
    "byte 0": ("int8", FC, weight(1, 1, 3, 0), r"of block \[1, 0\] is the byte 0, which stands"),
    "byte 0, far": ("int8", HEAD, weight(4, 4, 17, 0), r"of block \[4, 0\] is the byte 0"),
    "byte 0, across": ("int8", PROJ, weight(1, 2, 1, 0), r"of block \[0, 1\] is the byte 0"),
    "scale NaN": (
        "int8",
        FC,
        scale(1, 1, 0x7E00),
        "of output 65, inputs from 0, is nan, not a fin",
    ),
    "scale infinite": ("int8", PROJ, scale(1, 17, 0x7C00), "output 17, inputs from 64, is inf"),
    "scale negative": (
        "int8",
        HEAD,
        scale(0, 0, 0x9400),
        "output 0, inputs from 0, is -0.0009765625, not a",
    ),
    "scale -0": ("int8", HEAD, scale(3, 63, 0x8000), "output 255, inputs from 0, is -0.0"),
    "scale 0": ("int8", FC, scale(0, 5, 0), "not the byte 128 where its scale is 0"),
    "scale after the outputs": ("int8", FC, scale(1, 2, 1), "of an output after the last, 65, is"),
    "scale after the tokens": ("int8", HEAD, scale(4, 63, 1), "after the last, 260, is not 0"),
    "weight after the outputs": ("int8", FC, weight(1, 2, 0, 129), "not the byte 128 where"),
    "weight after the inputs": ("int8", FC, weight(0, 9, 18, 129), "an input after the last, 17,"),
    "weight after all inputs": ("int8", PROJ, weight(1, 17, 63, 127), "after the last, 65, is not"),
    "float32 NaN": ("float32", FC, put(0, 0, 0, 0xC0, 0x7F), "output 0, input 0, is NaN or inf"),
    "float32 infinite": (
        "float32",
        HEAD,
        put((3 * 16 * 64 + 5 * 64 + 6) * 4, 0, 0, 0x80, 0xFF),
        "the weight of output 198, input 5, is NaN or infinite",
    ),
    "float32 after the outputs": ("float32", FC, put(63 * 4, 1), "after the last, 19, is not 0"),
    "float16 NaN": ("float16", "lm_head.weight", put(1, 0x7E), "output 0, input 0, is NaN"),
    "float16 infinite": (
        "float16",
        HEAD,
        put((21 * 64 + 20 * 64 + 6) * 2, 0, 0xFC),
        "the weight of output 70, input 20, is NaN or infinite",
    ),
    "float16 after the outputs": (
        "float16",
        HEAD,
        put((21 * 64 + 7) * 2, 0, 0x80),  # -0
        "after the last, 70, is not 0",
    ),
    "vector NaN": ("int8", BIAS, put(8, 1, 0, 0x80, 0x7F), "element 2 is NaN or infinite"),
    "vector infinite": ("float32", "ln_f.weight", put(60, 0, 0, 0x80, 0x7F), "element 15 is NaN"),
    "vector padding": ("int8", BIAS, put(54 * 4, 1), "its padding is not zero"),
    "positions NaN": ("float16", WPE, put(-4 * 12, 0, 0, 0xC0, 0xFF), "element 356 is NaN"),
    "positions padding": ("float16", WPE, put(-1, 0x80), "its padding is not zero"),
    "table version": ("int8", "tokenizer.table", put(8, 2), "tokenizer table: version 2"),
    "table ids": ("int8", "tokenizer.table", put(12, 0, 0xFF), "tokenizer table: "),
    "file padding": ("int8", VOCAB, put(-1, 1), "tensor tokenizer.file.vocab.json: its padding"),
    "file not JSON": ("int8", VOCAB, put(0, 0), "vocab.json"),
}


@pytest.mark.parametrize("slab", [1 << 20, 1])
@pytest.mark.parametrize("case", DAMAGE)
def test_damage(case: str, slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches damage under a fingerprint that fits, or an error that does not name its place."""
    monkeypatch.setattr(content, "_SLAB", slab)
    dtype, name, change, message = DAMAGE[case]
    header, data = take_apart(FIXTURES / f"v1-{dtype}.safetensors")
    change(tensor(header, data, name))
    path = put_together(tmp_path / "damaged.safetensors", header, data)
    open_packed(path)
    for mmap in (True, False):
        with pytest.raises(CheckpointError, match=message) as caught:
            open_packed(path, mmap=mmap, verify=True)
        assert str(path) in str(caught.value)
        assert name.removeprefix("tokenizer.file.").replace(".table", " table") in str(caught.value)


def other_vocabulary(header: dict[str, Any], data: bytearray) -> None:
    raw = tensor(header, data, VOCAB)
    text = raw.tobytes().replace(b'"!": 0, "\\"": 1', b'"!": 1, "\\"": 0')
    assert text != raw.tobytes()
    raw[:] = np.frombuffer(text, np.uint8)


def no_table(header: dict[str, Any], data: bytearray) -> None:
    """Leave the table out, and move what follows it."""
    begin, end = header.pop("tokenizer.table")["data_offsets"]
    del data[begin:end]
    for name in (VOCAB, "tokenizer.file.merges.txt"):
        header[name]["data_offsets"] = [i - (end - begin) for i in header[name]["data_offsets"]]
    shapes = json.loads(header["__metadata__"]["shapes"])
    del shapes["tokenizer.table"]
    header["__metadata__"]["shapes"] = json.dumps(shapes)


def longer_vocabulary(header: dict[str, Any], _: bytearray) -> None:
    """Say that the embedding has fewer rows than the tokenizer has ids, within the same blocks."""
    config = json.loads(header["__metadata__"]["config"])
    shapes = json.loads(header["__metadata__"]["shapes"])
    config["n_vocab"] = shapes[HEAD][0] = 260
    header["__metadata__"].update(config=json.dumps(config), shapes=json.dumps(shapes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_vocabulary, r"tensor tokenizer.table is not what the tokenizer's files beside it"),
        (no_table, r"tensor tokenizer.table is missing beside the tokenizer's files"),
        (longer_vocabulary, r"tensor wte.weight: the scale of an output after the last, 259"),
    ],
)
def test_damage_of_several_parts(
    change: Callable[[dict[str, Any], bytearray], None], message: str, tmp_path: Path
) -> None:
    """Catches parts that are sound alone and contradict one another."""
    header, data = take_apart(FIXTURES / "v1-int8.safetensors")
    change(header, data)
    path = put_together(tmp_path / "damaged.safetensors", header, data)
    open_packed(path)
    with pytest.raises(CheckpointError, match=message):
        open_packed(path, verify=True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_one_bit(dtype: str, tmp_path: Path) -> None:
    """Catches a fingerprint that is not compared: a bit that leaves every weight possible."""
    header, data = take_apart(FIXTURES / f"v1-{dtype}.safetensors")
    tensor(header, data, FC)[1] ^= 1
    path = put_together(tmp_path / "damaged.safetensors", header, data, forged=False)
    with pytest.raises(CheckpointError, match="the data is not what was written: its sha256 is"):
        open_packed(path, verify=True)
    open_packed(put_together(path, header, data), verify=True)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", ["tales", *sorted(path.name for path in FIXTURES.glob("*.sa*"))])
def test_sound_files(name: str, mmap: bool) -> None:
    """Catches a sound file that is refused, and progress that does not end at the whole."""
    path = FIXTURES / name
    if name == "tales":
        path = Path(loading.__file__).parent / "models" / "tales-int8.safetensors"
    seen: list[tuple[int, int]] = []
    model = open_packed(path, mmap=mmap, verify=True, progress=lambda *done: seen.append(done))
    assert seen == sorted(seen) and seen[-1] == (model.nbytes, model.nbytes)


def test_memory_is_bounded() -> None:
    """Catches a check that reads a tensor, or the file, as a whole."""
    model = open_packed(FIXTURES / "v1-int8.safetensors")
    entries = layout(model.config, "int8", {})
    data = take_apart(FIXTURES / "v1-int8.safetensors")[1]
    inner = slabs_of_memory(np.frombuffer(data, np.uint8))
    sizes: list[int] = []

    def read(n_bytes: int) -> Bytes:
        sizes.append(n_bytes)
        return inner(n_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content, "_SLAB", 5000)
        check_content(model.config, entries, model.fingerprint, read, len(data), Path("x"))
    assert max(sizes) <= 5000 and sum(sizes) == len(data)


def test_truncated_while_it_is_verified(tmp_path: Path) -> None:
    """Catches a bus error when a file gets shorter: verify reads, it does not touch the mapping."""
    path = tmp_path / "cut.safetensors"
    path.write_bytes((FIXTURES / "v1-int8.safetensors").read_bytes() + bytes(1 << 20))
    header, data = take_apart(path)
    header["extra.room"] = {"dtype": "U8", "shape": [1 << 20], "data_offsets": [0, 0]}
    begin = len(data) - (1 << 20)
    header["extra.room"]["data_offsets"] = [begin, len(data)]
    put_together(path, header, data)
    open_packed(path, verify=True)

    def cut(done: int, _: int) -> None:
        os.truncate(path, path.stat().st_size - len(data) + done)

    with pytest.raises(CheckpointError, match="was truncated while it was read"):
        open_packed(path, verify=True, progress=cut)


def test_memory_is_what_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches load(mmap=False) that verifies the file and then uses other bytes."""
    read = packed._data

    def misread(*arguments: Any) -> Bytes:
        data = read(*arguments)
        data[5000] ^= 1
        return data

    monkeypatch.setattr(packed, "_data", misread)
    with pytest.raises(CheckpointError, match="the data is not what was written"):
        open_packed(FIXTURES / "v1-int8.safetensors", mmap=False, verify=True)


@pytest.mark.parametrize("verify", [1, "yes", None])
def test_bad_option(verify: Any) -> None:
    """Catches a value of `verify` that is guessed at."""
    with pytest.raises(ValueError, match=f"verify is {verify!r}; allowed: True or False"):
        gpt2fast.load(verify=verify)


def test_load_verifies(tmp_path: Path) -> None:
    """Catches load(verify=True) that does not look, and load() that does."""
    header, data = take_apart(FIXTURES / "v1-int8.safetensors")
    tensor(header, data, FC)[1] ^= 1
    path = put_together(tmp_path / "damaged.safetensors", header, data, forged=False)
    gpt2fast.load(path).close()
    with pytest.raises(CheckpointError, match="the data is not what was written"):
        gpt2fast.load(path, verify=True)
    gpt2fast.load(FIXTURES / "v1-int8.safetensors", verify=True).close()


def test_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a cached conversion that stays damaged although load(verify=True) saw it."""
    monkeypatch.setattr(loading, "IN_MEMORY_BELOW", 0)
    config = hf_config()
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(tmp_path / "little", config, tensors)
    write_tokenizer(source)
    cache = tmp_path / "cache"
    gpt2fast.load(source, cache_dir=cache).close()
    [path] = cache.glob("*.safetensors")
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[-70_000] ^= 1
    path.write_bytes(damaged)
    gpt2fast.load(source, cache_dir=cache).close()
    assert path.read_bytes() == damaged
    gpt2fast.load(source, cache_dir=cache, verify=True).close()
    assert path.read_bytes() == sound


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a damaged file that leaves exit status 0, or stops the check of the next."""
    sound = FIXTURES / "v1-int8.safetensors"
    header, data = take_apart(sound)
    tensor(header, data, FC)[1] ^= 1
    damaged = put_together(tmp_path / "damaged.safetensors", header, data, forged=False)
    assert cli.main(["verify", "tales", str(sound)]) == 0
    lines = capsys.readouterr().out.splitlines()
    fingerprint = open_packed(sound).fingerprint
    assert lines[0].startswith("tales: sound: int8, 5.1 MB, fingerprint ")
    assert lines[1] == f"{sound}: sound: int8, 0.1 MB, fingerprint {fingerprint}"
    others = [str(tmp_path), str(tmp_path / "none")]
    assert cli.main(["verify", str(damaged), *others, str(sound)]) == 1
    out, err = capsys.readouterr()
    assert out == lines[1] + "\n"
    errors = err.splitlines()
    assert all(line.startswith("gpt2fast: error: ") for line in errors)
    for line, part in zip(errors, ("data is not what", "is a directory", "no such"), strict=True):
        assert part in line
    assert cli.main(["verify", str(damaged)]) == 1
    assert cli.main(["verify", str(sound), "--dtype", "int8"]) == 2
    assert "--dtype is for --golden" in capsys.readouterr().err
