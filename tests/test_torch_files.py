"""Files of torch.save: catches a sound one that is refused, and a weight read wrongly."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, stored, write_safetensors
from numpy.typing import NDArray
from torch_save_files import (
    ORDERED_DICT,
    REBUILD,
    TorchObject,
    ZipRecord,
    bfloat16,
    call,
    glob,
    pickled,
    storage,
    tensor,
    torch_file,
    zip_file,
    zip_records,
)

import gpt2fast
from gpt2fast.checkpoints import Checkpoint, open_checkpoint
from gpt2fast.checkpoints.torch_files import TorchFile
from gpt2fast.config import CheckpointError, Config

CONFIG = hf_config()
TENSORS = random_tensors(Config.from_huggingface(CONFIG).tensor_shapes())
STORED = {"transformer." + name: values for name, values in TENSORS.items()}
INDEX = "pytorch_model.bin.index.json"
NUMBERS = np.arange(12, dtype=np.float32)


def write_directory(directory: Path, content: bytes, **changes: Any) -> Path:
    """Write config.json and pytorch_model.bin."""
    (directory / "config.json").write_text(json.dumps(hf_config(**changes)), encoding="utf-8")
    (directory / "pytorch_model.bin").write_bytes(content)
    return directory


def check_equal(checkpoint: Checkpoint, expected: dict[str, NDArray[Any]]) -> None:
    """Compare names, shapes and values."""
    assert sorted(checkpoint.names()) == sorted(expected)
    for name, values in expected.items():
        got = checkpoint.read(name)
        assert checkpoint.shape(name) == values.shape == got.shape
        assert got.dtype == np.float32 and got.flags.c_contiguous
        assert np.array_equal(got, values)


def opened(path: Path, content: bytes) -> TorchFile:
    """Write a file and open it."""
    path /= "weights.bin"
    path.write_bytes(content)
    return TorchFile(path)


def read_only_tensor(path: Path, content: bytes) -> NDArray[np.float32]:
    """Return the tensor `x` of a file."""
    file = opened(path, content)
    assert file.names() == ["x"]
    values = file.read("x")
    file.close()
    assert values.shape == file.shape("x") and values.flags.c_contiguous
    return values


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_directory(dtype: str, legacy: bool, tmp_path: Path) -> None:
    """Catches a container or dtype that is read wrongly; NaN payloads and the like included."""
    kinds: dict[str, Any] = {
        "float32": lambda values: values,
        "float16": lambda values: values.astype(np.float16),
        "bfloat16": bfloat16,
    }
    given = {name: kinds[dtype](values) for name, values in STORED.items()}
    expected = {
        name: given["transformer." + name].astype(np.float32)
        if dtype != "bfloat16"
        else (given["transformer." + name].astype("<u4") << 16).view("<f4")
        for name in TENSORS
    }
    write_directory(tmp_path, torch_file(given, legacy=legacy))
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with open_checkpoint(path) as checkpoint:
            check_equal(checkpoint, expected)
            assert checkpoint.name == tmp_path.name
            assert checkpoint.nbytes == sum(values.nbytes for values in given.values())
            assert [file.name for file in checkpoint.files] == ["config.json", "pytorch_model.bin"]


def write_shards(directory: Path, names: list[str], legacy: bool = False) -> dict[str, str]:
    """Write two shards of STORED, and return their weight map."""
    shards = {"a.bin": names[::2], "b.bin": names[1::2]}
    for shard, part in shards.items():
        content = torch_file({name: STORED[name] for name in part}, legacy=legacy)
        (directory / shard).write_bytes(content)
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return {name: shard for shard, part in shards.items() for name in part}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_shards(legacy: bool, tmp_path: Path) -> None:
    """Catches a shard that is not read."""
    places = write_shards(tmp_path, list(STORED), legacy)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    with open_checkpoint(tmp_path) as checkpoint:
        check_equal(checkpoint, TENSORS)
        assert len(checkpoint.files) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "model.safetensors"}, r"not a \.bin file of this directory"),
        ({"x": "../a.bin"}, r"not a \.bin file of this directory"),
        ({"x": "c.bin"}, r"c\.bin is missing"),
        ({"x": "a.bin"}, "'x' is in none of the files"),
        ({"transformer.wte.weight": "b.bin"}, r"does not say that a\.bin holds"),
    ],
)
def test_bad_index(change: dict[str, str], message: str, tmp_path: Path) -> None:
    """Catches an index that leads out of the directory or contradicts its shards."""
    places = write_shards(tmp_path, list(STORED)) | change
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("sharded", [False, True])
def test_safetensors_first(sharded: bool, tmp_path: Path) -> None:
    """Catches pytorch_model.bin taken where a directory has safetensors too."""
    write_directory(tmp_path, b"neither opened nor read")
    shard = "part.safetensors" if sharded else "model.safetensors"
    write_safetensors(tmp_path / shard, {name: stored(v) for name, v in STORED.items()})
    if sharded:
        index = {"weight_map": dict.fromkeys(STORED, shard)}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with open_checkpoint(tmp_path) as checkpoint:
        check_equal(checkpoint, TENSORS)


def test_masks_and_other_dtypes(tmp_path: Path) -> None:
    """Catches causal masks taken for weights, and doubles taken for float32."""
    masks = {
        "h.0.attn.bias": np.tri(13, dtype=bool)[None, None],
        "h.1.attn.bias": np.tri(13, dtype=np.float64)[None, None],
        "h.0.attn.masked_bias": np.array(-1e4, np.float32),
    }
    tensors: dict[str, NDArray[Any]] = {**TENSORS, **masks}
    write_directory(tmp_path, torch_file(tensors))
    with open_checkpoint(tmp_path) as checkpoint:
        check_equal(checkpoint, TENSORS)
    double: dict[str, NDArray[Any]] = {
        **TENSORS,
        "ln_f.bias": TENSORS["ln_f.bias"].astype(np.float64),
    }
    write_directory(tmp_path, torch_file(double))
    with (
        open_checkpoint(tmp_path) as checkpoint,
        pytest.raises(CheckpointError, match=r"'ln_f\.bias' has dtype F64: weights must be F32"),
    ):
        checkpoint.read("ln_f.bias")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("tied", [False, True])
def test_shared_head(tied: bool, legacy: bool, tmp_path: Path) -> None:
    """Catches a head that shares the token table's storage: read twice, or lost if not tied."""
    made = TorchObject(legacy)
    entries = {name: made.add(values) for name, values in STORED.items()}
    entries["lm_head.weight"] = entries["transformer.wte.weight"]
    write_directory(tmp_path, made.file(entries), tie_word_embeddings=tied)
    head = {} if tied else {"lm_head.weight": TENSORS["wte.weight"]}
    with open_checkpoint(tmp_path) as checkpoint:
        check_equal(checkpoint, {**TENSORS, **head})
        total = sum(values.nbytes for values in {**TENSORS, **head}.values())
        assert checkpoint.nbytes == total


@pytest.mark.parametrize("equal", [False, True])
def test_copied_head(equal: bool, tmp_path: Path) -> None:
    """Catches a tied head that contradicts the token table and is dropped unread."""
    head = TENSORS["wte.weight"] + np.float32(0 if equal else 1)
    write_directory(tmp_path, torch_file({**STORED, "lm_head.weight": head}))
    if equal:
        assert gpt2fast.load(tmp_path, dtype="float32").config.tie_word_embeddings
    else:
        with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from wte\.weight"):
            gpt2fast.load(tmp_path, dtype="float32")


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "expected"),
    [
        (0, (3, 4), (4, 1), NUMBERS.reshape(3, 4)),
        (0, (4, 3), (1, 4), NUMBERS.reshape(3, 4).T),
        (5, (3,), (1,), NUMBERS[5:8]),
        (11, (), (), NUMBERS[11]),
        (1, (2, 2), (6, 2), NUMBERS[[[1, 3], [7, 9]]]),
        (8, (1, 4), (1 << 61, 1), NUMBERS[None, 8:]),
        (2, (2, 3, 1), (3, 1, 77), NUMBERS[2:8].reshape(2, 3, 1)),
        (0, (3, 3), (1, 1), np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4]], np.float32)),
    ],
    ids=["whole", "transposed", "slice", "scalar", "steps", "row", "column", "windows"],
)
@pytest.mark.parametrize("order", ["little", "big"])
def test_views(
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    expected: NDArray[np.float32],
    order: str,
    tmp_path: Path,
) -> None:
    """Catches an offset, a stride or a byte order that is not followed."""
    content = pickled({"x": tensor(storage("0", 12), offset, shape, stride)})
    data = NUMBERS.astype("<f4" if order == "little" else ">f4").tobytes()
    records = zip_records(content, {"0": data}, order=order)
    assert np.array_equal(read_only_tensor(tmp_path, zip_file(records)), expected)


ONE = {"x": tensor(storage("0", 12), 0, (12,), (1,))}
RECORDS = zip_records(pickled(ONE), {"0": NUMBERS.tobytes()})
WIDE = struct.pack("<2HQQQ", 1, 24, 48, 48, 128)
CLASSIC = pickled(ONE).replace(b"X\x01\x00\x00\x00x", b"U\x01x")
PYTHON_2 = call(ORDERED_DICT, b"](](U\x01x" + ONE["x"] + b"ee")
ATTRIBUTES = b"}" + b"(X\x09\0\0\0_metadata" + call(ORDERED_DICT) + b"ub"
SOUND = {
    "as torch writes it": zip_file(RECORDS),
    "no CRC computed": zip_file([ZipRecord(r.name, r.data, crc=0) for r in RECORDS]),
    "no byte order": zip_file([RECORDS[0], RECORDS[2]]),
    "another folder": zip_file(zip_records(pickled(ONE), {"0": NUMBERS.tobytes()}, "pytorch_é")),
    "other records": zip_file([*RECORDS, ZipRecord("archive/.data/id", b"1"), ZipRecord(
        "archive/version", b"3\n"), ZipRecord("archive/", b"")]),
    "64-bit end record": zip_file(RECORDS, zip64=True),
    "a parameter": zip_file(zip_records(pickled({"x": call(
        glob("torch._utils", "_rebuild_parameter"), ONE["x"], b"\x88", call(ORDERED_DICT))}),
        {"0": NUMBERS.tobytes()})),
    "string of Python 2": zip_file(zip_records(CLASSIC, {"0": NUMBERS.tobytes()})),
    "dict of Python 2": zip_file(zip_records(pickled(PYTHON_2), {"0": NUMBERS.tobytes()})),
    "attributes of the dict": zip_file(zip_records(pickled(
        call(ORDERED_DICT) + b"X\x01\0\0\0x" + ONE["x"] + b"s" + ATTRIBUTES),
        {"0": NUMBERS.tobytes()})),
    "metadata of the tensor": zip_file(zip_records(pickled({"x": call(
        REBUILD, storage("0", 12), b"K\0", b"K\x0c\x85", b"K\1\x85", b"\x89", call(ORDERED_DICT),
        b"}")}), {"0": NUMBERS.tobytes()})),
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_unusual_but_sound(case: str, tmp_path: Path) -> None:
    """Catches a sound file that is refused."""
    assert np.array_equal(read_only_tensor(tmp_path, SOUND[case]), NUMBERS)


def test_64_bit_record(tmp_path: Path) -> None:
    """Catches sizes and offsets beyond 4 GB, which are in an extra field, read from elsewhere."""
    plain = zip_file(RECORDS)
    header = plain.index(b"PK\3\4", 1 + plain.index(b"archive/byteorder"))
    wide = struct.pack("<2H3Q", 1, 24, 48, 48, header)
    other = struct.pack("<2H24x", 0x4246, 24)  # a field of another kind before it
    last = ZipRecord(
        "archive/data/0", NUMBERS.tobytes(), size=0xFFFFFFFF, header=0xFFFFFFFF, extra=other + wide
    )
    content = zip_file([*RECORDS[:2], last], zip64=True)
    assert np.array_equal(read_only_tensor(tmp_path, content), NUMBERS)


def test_crc_of_a_shared_storage(tmp_path: Path) -> None:
    """Catches damage outside the first of two tensors that share a storage."""
    numbers = np.arange(1_000_000, dtype=np.float32)
    halves = {"a": (0, 10), "b": (10, 999_990)}
    content = pickled(
        {n: tensor(storage("0", 1_000_000), at, (size,), (1,)) for n, (at, size) in halves.items()}
    )
    records = zip_records(content, {"0": numbers.tobytes()})
    file = opened(tmp_path, zip_file(records))
    assert np.array_equal(file.read("a"), numbers[:10])
    assert np.array_equal(file.read("b"), numbers[10:])
    file.close()
    records[-1].crc = 7
    file = opened(tmp_path, zip_file(records))
    for name in ("a", "b"):
        with pytest.raises(CheckpointError, match=f"'{name}' is damaged: the CRC-32 of its"):
            file.read(name)
    file.close()


def test_crc_of_each_storage(tmp_path: Path) -> None:
    """Catches a check that stops after the first storage."""
    made = {name: tensor(storage(name, 12), 0, (12,), (1,)) for name in "01"}
    records = zip_records(pickled(made), dict.fromkeys("01", NUMBERS.tobytes()))
    records[-1].crc = 7
    file = opened(tmp_path, zip_file(records))
    assert np.array_equal(file.read("0"), NUMBERS)
    with pytest.raises(CheckpointError, match="'1' is damaged: the CRC-32 of its"):
        file.read("1")
    file.close()


def test_truncated_while_open(tmp_path: Path) -> None:
    """Catches a file cut after it was opened: an error, not garbage."""
    file = opened(tmp_path, torch_file({"x": np.ones(1 << 16, np.float32)}))
    with open(tmp_path / "weights.bin", "r+b") as cut:
        cut.truncate(1000)
    with pytest.raises(CheckpointError, match="'x': the file was truncated while it was read"):
        file.read("x")
    file.close()
