"""Conversion: catches a bad weight let through, a loss misreported, memory for the whole model."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    hf_config,
    random_tensors,
    stored,
    write_checkpoint,
    write_tokenizer,
)

from gpt2fast import _core
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.packed import DTYPES, is_conv1d, is_matrix, open_packed
from gpt2fast.config import CheckpointError, Config
from gpt2fast.conversion import quantization
from gpt2fast.conversion.convert import convert
from gpt2fast.conversion.packing import pack
from gpt2fast.loading import load_packed

CONFIG = hf_config()
TENSORS = random_tensors(Config.from_huggingface(CONFIG).tensor_shapes())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small checkpoint with tokenizer."""
    directory = write_checkpoint(tmp_path / "little", CONFIG, TENSORS)
    write_tokenizer(directory)
    return directory


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_and_file_agree(dtype: str, source: Path, tmp_path: Path) -> None:
    """Catches a model packed in memory that differs from the file of the same checkpoint."""
    path = tmp_path / "packed.safetensors"
    convert(source, path, dtype=dtype)
    with open_checkpoint(source) as checkpoint:
        memory = pack(checkpoint, dtype)
    for file in (load_packed(path), load_packed(path, mmap=False, dtype=dtype)):
        assert (file.config, file.dtype, file.nbytes) == (memory.config, dtype, memory.nbytes)
        assert file.fingerprint == memory.fingerprint
        assert file.tokenizer_files == memory.tokenizer_files
        assert file.tokenizer_table == memory.tokenizer_table
        assert file.tensors.keys() == memory.tensors.keys()
        for name, values in file.tensors.items():
            assert values.tobytes() == memory.tensors[name].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_slabs_are_the_whole(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a matrix that is packed otherwise in slabs of rows than at once."""
    config = hf_config(n_inner=200)
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(tmp_path / "wide", config, tensors)
    monkeypatch.setattr(quantization, "_SLAB", 1)
    model = load_packed(source, dtype=dtype)
    for name in filter(is_matrix, tensors):
        weight = tensors[name].T if is_conv1d(name) else tensors[name]
        whole = _core.pack(np.ascontiguousarray(weight), dtype)
        assert model.tensors[name].tobytes() == whole.tobytes()


def test_same_source_same_bytes(source: Path, tmp_path: Path) -> None:
    """Catches times, temporary names or paths that leak into the file."""
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        convert(source, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("form", ["F16", "sharded", "plain names", "head repeated"])
def test_forms_of_one_checkpoint_agree(form: str, tmp_path: Path) -> None:
    """Catches a fingerprint that depends on how the same weights were stored."""
    tensors = {name: values.astype(np.float16) for name, values in TENSORS.items()}
    expected = load_packed(write_checkpoint(tmp_path / "f32", CONFIG, tensors)).fingerprint
    other = tmp_path / "other"
    if form == "sharded":
        write_checkpoint(other, CONFIG, tensors)
        (other / "model.safetensors").rename(other / "part.safetensors")
        weight_map = {f"transformer.{name}": "part.safetensors" for name in tensors}
        index = json.dumps({"weight_map": weight_map})
        (other / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    elif form == "head repeated":
        head = {"lm_head.weight": stored(tensors["wte.weight"])}
        write_checkpoint(other, CONFIG, tensors, extra=head)
    else:
        prefix = "" if form == "plain names" else "transformer."
        write_checkpoint(
            other, CONFIG, tensors, dtype="F16" if form == "F16" else "F32", prefix=prefix
        )
    assert load_packed(other).fingerprint == expected


def test_receipt(source: Path, tmp_path: Path) -> None:
    """Catches a receipt that is wrong, incomplete, or not the one in the file."""
    path = tmp_path / "packed.safetensors"
    receipt = convert(source, path)
    assert receipt.source == "little" and receipt.dtype == "int8"
    assert set(receipt.weight_error) == set(filter(is_matrix, TENSORS))
    for name, error in receipt.weight_error.items():
        weight = np.ascontiguousarray(TENSORS[name].T if is_conv1d(name) else TENSORS[name])
        packed = _core.pack(weight, "int8")
        difference = weight - _core.unpack(packed, "int8", *weight.shape).astype(np.float64)
        expected = np.linalg.norm(difference) / np.linalg.norm(weight.astype(np.float64))
        assert error == pytest.approx(expected, rel=1e-3) and 0.001 < error < 0.02
    assert receipt.seconds is not None and receipt.seconds > 0
    stored_receipt = open_packed(path).receipt
    assert stored_receipt.seconds is None
    assert stored_receipt.to_json() == receipt.to_json()


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 0.0), ("float16", 3e-4)])
def test_weight_error_of_floats(dtype: str, limit: float, source: Path, tmp_path: Path) -> None:
    """Catches a loss in float32, or more than rounding in float16."""
    receipt = convert(source, tmp_path / "packed.safetensors", dtype=dtype)
    assert 0 <= max(receipt.weight_error.values()) <= limit


def test_progress(source: Path, tmp_path: Path) -> None:
    """Catches progress that goes back, stays short of the whole, or overshoots."""
    seen: list[tuple[int, int]] = []
    convert(source, tmp_path / "p.safetensors", progress=lambda *done: seen.append(done))
    done = [item[0] for item in seen]
    assert done == sorted(done) and len({item[1] for item in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("name", ["wte.weight", "h.1.mlp.c_proj.weight", "wpe.weight", "ln_f.bias"])
@pytest.mark.parametrize(("bad", "counts"), [(np.nan, "2 NaN and 0 inf"), (-np.inf, "0 NaN and 2")])
def test_weights_that_are_not_numbers(name: str, bad: float, counts: str, tmp_path: Path) -> None:
    """Catches NaN or infinity in a checkpoint, and an error that does not name the tensor."""
    values = TENSORS[name].copy()
    values.reshape(-1)[[3, -1]] = bad
    source = write_checkpoint(tmp_path / "bad", CONFIG, {**TENSORS, name: values})
    with pytest.raises(CheckpointError, match=f"tensor {name}: {counts}"):
        convert(source, tmp_path / "packed.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float16", 65520.0, "weight of size 65520, float16 ends at 65504"),
        ("float16", -1e30, "float16 ends at 65504"),
        ("int8", 1e7, "tensor h.0.mlp.c_fc.weight: "),
        ("float16", 65519.0, None),
        ("int8", 8e6, None),
        ("float32", 3e38, None),
    ],
)
def test_weights_too_large(dtype: str, value: float, message: str | None, tmp_path: Path) -> None:
    """Catches a weight that would become infinite, and one refused that fits."""
    values = TENSORS["h.0.mlp.c_fc.weight"].copy()
    values[0, 0] = value
    source = write_checkpoint(tmp_path / "l", CONFIG, {**TENSORS, "h.0.mlp.c_fc.weight": values})
    if message is None:
        load_packed(source, dtype=dtype)
        return
    with pytest.raises(CheckpointError, match=message):
        load_packed(source, dtype=dtype)


def test_contradicting_head(tmp_path: Path) -> None:
    """Catches a separate output head that tie_word_embeddings would drop."""
    head = {"lm_head.weight": stored(TENSORS["wte.weight"] + 1)}
    source = write_checkpoint(tmp_path / "head", CONFIG, TENSORS, extra=head)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from wte\.weight"):
        load_packed(source)


@pytest.mark.parametrize("dtype", ["F64", "I32"])
def test_weights_of_another_type(dtype: str, tmp_path: Path) -> None:
    """Catches doubles or integers converted silently."""
    source = write_checkpoint(tmp_path / "typed", CONFIG, TENSORS, dtype=dtype)
    with pytest.raises(CheckpointError, match=f"'transformer.wte.weight' has dtype {dtype}"):
        load_packed(source)


@pytest.mark.parametrize("dtype", ["int4", "", "F32", None, []])
def test_unknown_dtype(dtype: Any, source: Path, tmp_path: Path) -> None:
    """Catches a dtype error that does not say what is allowed."""
    with pytest.raises(ValueError, match="dtype must be one of float32, float16, int8; got"):
        convert(source, tmp_path / "packed.safetensors", dtype=dtype)


def test_tokenizer_larger_than_the_table(source: Path) -> None:
    """Catches a vocabulary whose ids would index past the token table."""
    write_tokenizer(source, 301)
    with pytest.raises(
        CheckpointError, match=r"tokenizer has 301 tokens, wte\.weight only 300 rows"
    ):
        load_packed(source)
    write_tokenizer(source, 300)
    load_packed(source)


def test_damaged_tokenizer(source: Path) -> None:
    """Catches a tokenizer error that does not name the directory."""
    (source / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"little: tokenizer: .*merges\.txt"):
        load_packed(source)


def test_packed_file_is_no_source(source: Path, tmp_path: Path) -> None:
    """Catches a second quantization of an already packed file."""
    path = tmp_path / "p.safetensors"
    convert(source, path)
    for packed in (path, "tales"):
        with pytest.raises(CheckpointError, match="is a packed file, not a checkpoint"):
            convert(packed, tmp_path / "q.safetensors")


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_memory_of_conversion(dtype: str, tmp_path: Path) -> None:
    """Catches a conversion that holds more than the largest tensor, as given and as float32."""
    config = hf_config(n_embd=64, n_head=1, n_layer=1, vocab_size=150_000)
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(tmp_path / "tall", config, tensors)
    largest = tensors["wte.weight"].nbytes
    del tensors
    tracemalloc.start()
    try:
        convert(source, tmp_path / "p.safetensors", dtype=dtype)
        assert tracemalloc.get_traced_memory()[1] < 2.1 * largest + 30_000_000
    finally:
        tracemalloc.stop()


def test_memory_of_a_deep_model(tmp_path: Path) -> None:
    """Catches a comparison that keeps the layers it has passed."""
    config = hf_config(n_embd=256, n_head=4, n_layer=12)
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(tmp_path / "deep", config, tensors)
    layer = sum(values.nbytes for name, values in tensors.items() if name.startswith("h.0."))
    del tensors
    tracemalloc.start()
    try:
        convert(source, tmp_path / "p.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 4 * layer
    finally:
        tracemalloc.stop()
