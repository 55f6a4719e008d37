"""Our packed file: catches a layout that other readers refuse, and a damaged file let through."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    header_bytes,
    hf_config,
    random_tensors,
    write_checkpoint,
    write_tokenizer,
)

from gpt2fast import _core
from gpt2fast.checkpoints.packed import (
    DTYPES,
    PackedModel,
    encode_packed_header,
    is_conv1d,
    is_matrix,
    layout,
    open_packed,
)
from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.config import CheckpointError, Config
from gpt2fast.conversion.convert import convert

SIZES = {"n_embd": 75, "n_inner": 130, "vocab_size": 301, "n_positions": 13}


def make(
    directory: Path, dtype: str, *, tied: bool = True, tokenizer: bool = True
) -> tuple[Path, dict[str, Any]]:
    """Pack a random model of odd sizes; return the file and the weights."""
    config = hf_config(**SIZES, tie_word_embeddings=tied)
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(directory / "source", config, tensors)
    if tokenizer:
        write_tokenizer(source)
    path = directory / f"source-{dtype}.safetensors"
    convert(source, path, dtype=dtype)
    return path, tensors


def raw_bytes(model: PackedModel, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the stored bytes of a tensor."""
    return model.tensors[name].reshape(-1).view(np.uint8)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_contents(dtype: str, tied: bool, tmp_path: Path) -> None:
    """Catches a weight transposed, misplaced or packed otherwise than the core packs it."""
    path, tensors = make(tmp_path, dtype, tied=tied)
    model = open_packed(path)
    assert list(model.tensors) == list(tensors)
    assert (model.dtype, model.name, model.path) == (dtype, "source", path)
    for name, values in tensors.items():
        if is_matrix(name):
            weight = np.ascontiguousarray(values.T) if is_conv1d(name) else values
            assert np.array_equal(raw_bytes(model, name), _core.pack(weight, dtype))
            assert model.tensors[name].shape == tuple(_core.packed_shape(dtype, *weight.shape))
            assert model.tensors[name].nbytes == _core.packed_nbytes(dtype, *weight.shape)
        else:
            assert model.tensors[name].dtype == np.float32
            assert np.array_equal(model.tensors[name], values)


def test_matrices() -> None:
    """Catches a matrix of the model that would be kept in float32, or a vector packed."""
    names = Config.from_huggingface(hf_config(tie_word_embeddings=False)).tensor_shapes()
    matrices = {name for name, shape in names.items() if len(shape) == 2} - {"wpe.weight"}
    assert {name for name in names if is_matrix(name)} == matrices


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_on_disk(dtype: str, tmp_path: Path) -> None:
    """Catches misaligned tensors, padding that is not zero, and a wrong fingerprint or shape."""
    path, tensors = make(tmp_path, dtype)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    data = content[8 + length :]
    assert (8 + length) % 64 == 0 and content[8:9] == b"{"
    assert (metadata["format"], metadata["format_version"]) == ("gpt2fast", "1")
    assert metadata["fingerprint"] == hashlib.sha256(data).hexdigest()
    shapes = json.loads(metadata["shapes"])
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert begin % 64 == 0 and end % 64 == 0
        if name not in tensors or not is_matrix(name):
            size = int(np.prod(shapes[name])) * (4 if entry["dtype"] == "F32" else 1)
            assert end - begin - size in range(64) and not any(data[begin + size : end])
    assert shapes["h.0.mlp.c_fc.weight"] == [130, 75]
    assert list(header)[-3:] == [
        "tokenizer.table",
        "tokenizer.file.vocab.json",
        "tokenizer.file.merges.txt",
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_opened_by_safetensors(dtype: str, tmp_path: Path) -> None:
    """Catches a file that the safetensors package refuses or reads with other bytes."""
    safetensors = pytest.importorskip("safetensors", reason="the oracle needs safetensors")
    path, tensors = make(tmp_path, dtype)
    model = open_packed(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        names = set(file.keys())
        assert {name for name in names if not name.startswith("tokenizer.")} == set(tensors)
        for name in tensors:
            raw = np.ascontiguousarray(file.get_tensor(name)).reshape(-1).view(np.uint8)
            assert np.array_equal(raw[: model.tensors[name].nbytes], raw_bytes(model, name))
        for name, content in model.tokenizer_files.items():
            stored = file.get_tensor("tokenizer.file." + name).tobytes()
            assert stored[: len(content)] == content


@pytest.mark.parametrize("mmap", [True, False])
def test_views(mmap: bool, tmp_path: Path) -> None:
    """Catches views that are writable, misaligned, or die with the model."""
    path, tensors = make(tmp_path, "int8")
    model = open_packed(path, mmap=mmap)
    views = model.tensors
    for values in views.values():
        assert not values.flags.writeable and values.ctypes.data % 64 == 0
    assert model.nbytes == path.stat().st_size - open_header(path)[1]
    model.close()
    assert model.tensors == {} and model.tokenizer_files == {} and model.tokenizer_table is None
    assert np.array_equal(views["ln_f.bias"], tensors["ln_f.bias"])


@pytest.mark.parametrize("tokenizer", [True, False])
def test_tokenizer(tokenizer: bool, tmp_path: Path) -> None:
    """Catches a tokenizer lost, cut or invented."""
    path, _ = make(tmp_path, "int8", tokenizer=tokenizer)
    model = open_packed(path)
    source = tmp_path / "source"
    names = ["vocab.json", "merges.txt"] if tokenizer else []
    assert model.tokenizer_files == {name: (source / name).read_bytes() for name in names}
    assert (model.tokenizer_table is not None) == tokenizer


def test_replaced_while_mapped(tmp_path: Path) -> None:
    """Catches a conversion that writes into the file that another process has mapped."""
    path, _ = make(tmp_path, "float32")
    model = open_packed(path)
    before = model.tensors["wpe.weight"].copy()
    convert(tmp_path / "source", path, dtype="int8")
    assert np.array_equal(model.tensors["wpe.weight"], before)
    assert open_packed(path).dtype == "int8"


def test_opening_reads_no_weight(tmp_path: Path) -> None:
    """Catches an opening that reads the data: a sparse 1.5B opens at once."""
    config = Config(48, 25, 1600, 1024, 50257, 6400)
    entries = layout(config, "float32", {})
    receipt = Receipt("none", (), "float32", {})
    header = encode_packed_header(config, "float32", "xl", entries, "0" * 64, receipt)
    path = tmp_path / "sparse.safetensors"
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + max(entry.stored.end for entry in entries.values()))
    start = time.perf_counter()
    model = open_packed(path)
    assert time.perf_counter() - start < 0.5
    assert model.nbytes > 6_000_000_000
    assert model.receipt == receipt


def open_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the parsed header of a file and where its data begins."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), 8 + length


Change = Callable[[dict[str, Any]], object]


def meta(key: str, value: str | None) -> Change:
    """Return a change that sets or removes a metadata entry."""

    def change(header: dict[str, Any]) -> None:
        header["__metadata__"].pop(key, None)
        if value is not None:
            header["__metadata__"][key] = value

    return change


def inner(key: str, **values: Any) -> Change:
    """Return a change inside one of the JSON objects of the metadata."""

    def change(header: dict[str, Any]) -> None:
        content = {**json.loads(header["__metadata__"][key]), **values}
        header["__metadata__"][key] = json.dumps(content)

    return change


def renamed(old: str, new: str) -> Change:
    """Return a change that renames a tensor."""
    return lambda header: header.update({new: header.pop(old)})


def swapped(first: str, second: str) -> Change:
    """Return a change that exchanges the entries of two tensors."""
    return lambda header: header.update({first: header[second], second: header[first]})


def entry(name: str, **values: Any) -> Change:
    """Return a change inside a tensor's entry."""
    return lambda header: header[name].update(values)


HOSTILE: dict[str, tuple[Change, str]] = {
    "no metadata": (lambda h: h.pop("__metadata__"), "not one that gpt2fast packed"),
    "no format": (meta("format", None), "not one that gpt2fast packed"),
    "format pt": (meta("format", "pt"), "give the directory that holds its config.json"),
    "no version": (meta("format_version", None), "format version None"),
    "version 2": (meta("format_version", "2"), "format version '2', this gpt2fast reads '1'"),
    "version 1.x": (meta("format_version", "1.x"), "format version '1.x'"),
    "version 1.": (meta("format_version", "1."), "format version '1.'"),
    "version 10": (meta("format_version", "10"), "format version '10'"),
    "version empty": (meta("format_version", ""), "format version ''"),
    "no dtype": (meta("dtype", None), "dtype must be one of"),
    "dtype int4": (meta("dtype", "int4"), "dtype must be one of float32, float16, int8, got 'int4"),
    "other dtype": (meta("dtype", "float32"), "tensor wte.weight is U8"),
    "no config": (meta("config", None), "config is not valid JSON"),
    "config a list": (meta("config", "[]"), "config must be a JSON object"),
    "config with a surrogate": (meta("config", "\ud800"), "config is not"),
    "config deep": (meta("config", "[" * 10_000), "config is not valid JSON"),
    "config key missing": (meta("config", "{}"), "config: missing keys"),
    "config key unknown": (inner("config", rope=1), r"config: missing keys \[\], unknown keys"),
    "config negative": (inner("config", n_layer=-1), "n_layer must be an integer from 1"),
    "config more layers": (inner("config", n_layer=3), "tensors are too few for n_layer 3"),
    "config most layers": (inner("config", n_layer=4096), "are too few for n_layer 4096"),
    "config fewer layers": (inner("config", n_layer=1), "unknown tensor 'h.1"),
    "config wider": (inner("config", n_embd=76, n_head=2), "tensor wpe.weight is F32"),
    "config largest": (
        inner("config", n_embd=1 << 20, n_head=1, n_vocab=1 << 24, n_inner=1 << 22),
        "tensor wte.weight is U8",
    ),
    "config longer context": (inner("config", n_ctx=14), "tensor wpe.weight is F32"),
    "config more tokens": (inner("config", n_vocab=321), "tensor wte.weight is U8"),
    "config tokens in padding": (inner("config", n_vocab=302), "shapes do not agree"),
    "config untied": (inner("config", tie_word_embeddings=False), "lm_head.weight is missing"),
    "config eot": (inner("config", eot=301), "eot must be an id below"),
    "no shapes": (meta("shapes", None), "shapes is not valid JSON"),
    "shape wrong": (inner("shapes", **{"wpe.weight": [75, 13]}), "shapes do not agree"),
    "shape of a stranger": (inner("shapes", x=[1]), "shapes do not agree"),
    "no fingerprint": (meta("fingerprint", None), "fingerprint is not a sha256"),
    "short fingerprint": (meta("fingerprint", "ab"), "fingerprint is not a sha256"),
    "no receipt": (meta("receipt", None), "receipt is not valid JSON"),
    "receipt a number": (meta("receipt", "1"), "receipt is not a receipt"),
    "receipt empty": (meta("receipt", "{}"), "receipt is not a receipt: KeyError"),
    "tensor renamed": (renamed("h.0.ln_1.bias", "h.0.ln_3.bias"), "h.0.ln_1.bias is missing"),
    "tensors exchanged": (swapped("h.0.ln_1.bias", "h.0.ln_1.weight"), "tensor h.0.ln_1.weight"),
    "vector F16": (entry("ln_f.bias", dtype="F16", shape=[160]), "tensor ln_f.bias is F16"),
    "vector reshaped": (entry("ln_f.bias", shape=[2, 40]), "tensor ln_f.bias is F32"),
    "tokenizer.file unknown": (
        renamed("tokenizer.file.vocab.json", "tokenizer.file.../vocab.json"),
        "unknown tensor 'tokenizer.file.../vocab.json'",
    ),
    "table larger than stored": (
        inner("shapes", **{"tokenizer.table": [1 << 40]}),
        "tensor tokenizer.table has",
    ),
    "table negative": (inner("shapes", **{"tokenizer.table": [-1]}), "tensor tokenizer.table has"),
    "table size true": (inner("shapes", **{"tokenizer.table": [True]}), "tokenizer.table has"),
    "table without shape": (inner("shapes", **{"tokenizer.table": None}), "tokenizer.table has"),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack one int8 model for the hostile cases."""
    return make(tmp_path_factory.mktemp("packed"), "int8")[0]


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_metadata(case: str, packed: Path, tmp_path: Path) -> None:
    """Catches a file whose header disagrees with itself, or an error that is no CheckpointError."""
    change, message = HOSTILE[case]
    header, start = open_header(packed)
    change(header)
    text = json.dumps(header).encode()
    path = tmp_path / "hostile.safetensors"
    padded = text.ljust(len(text) + -(8 + len(text)) % 64)
    path.write_bytes(header_bytes(padded, packed.read_bytes()[start:]))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_packed(path)
    assert str(path) in str(caught.value)


def test_misaligned_data(packed: Path, tmp_path: Path) -> None:
    """Catches data that the kernels would read from an odd address."""
    content = packed.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path = tmp_path / "odd.safetensors"
    path.write_bytes(header_bytes(content[8 : 8 + length] + b" ", content[8 + length :]))
    with pytest.raises(CheckpointError, match="not a multiple of 64"):
        open_packed(path)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("place", range(8))
def test_truncated(place: int, mmap: bool, packed: Path, tmp_path: Path) -> None:
    """Catches a file cut at any of eight places: an error at opening, not a fault at use."""
    content = packed.read_bytes()
    start = open_header(packed)[1]
    ends = [0, 5, 8, start // 2, start, start + 1, (start + len(content)) // 2, len(content) - 1]
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: ends[place]])
    with pytest.raises(CheckpointError, match=r"truncated|not a safetensors file"):
        open_packed(path, mmap=mmap)


def test_any_content_opens(packed: Path, tmp_path: Path) -> None:
    """Catches an opening that depends on what the weights are: content is for `verify`."""
    start = open_header(packed)[1]
    content = packed.read_bytes()
    path = tmp_path / "noise.safetensors"
    path.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    assert open_packed(path).tensors.keys() == open_packed(packed).tensors.keys()
