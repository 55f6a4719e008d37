"""Conversion: catches a bad weight let through, a loss misreported, a file half-written."""

from __future__ import annotations

import json
import os
import shutil
import sys
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

from gpt2fast import _core, quantization
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.packed import DTYPES, is_conv1d, is_matrix, open_packed
from gpt2fast.config import CheckpointError, Config
from gpt2fast.convert import convert
from gpt2fast.loading import load_packed
from gpt2fast.packing import pack

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


@pytest.mark.parametrize("kind", ["same", "symlink", "hard link", "config.json"])
def test_own_source_is_not_overwritten(kind: str, source: Path, tmp_path: Path) -> None:
    """Catches a conversion that destroys what it reads."""
    weights = source / "model.safetensors"
    destination = {"same": weights, "config.json": source / "config.json"}.get(kind, tmp_path / "x")
    if kind == "symlink":
        destination.symlink_to(weights)
    elif kind == "hard link":
        os.link(weights, destination)
    before = weights.read_bytes()
    with pytest.raises(CheckpointError, match="belongs to the source: name another destination"):
        convert(source, destination)
    assert weights.read_bytes() == before


class Stop(BaseException):
    """Stands for anything that may interrupt a conversion."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop, MemoryError, OSError])
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_interrupted(
    at: float, existing: bool, error: type[BaseException], source: Path, tmp_path: Path
) -> None:
    """Catches anything left behind by a conversion that was stopped at any point."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "packed.safetensors"
    if existing:
        path.write_bytes(b"old")

    def stop(done: int, total: int) -> None:
        if done >= at * total:
            raise error

    with pytest.raises(error):
        convert(source, path, progress=stop)
    assert list(folder.iterdir()) == ([path] if existing else [])
    assert not existing or path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
def test_full_disk(source: Path, tmp_path: Path) -> None:
    """Catches a partial file left by a disk that fills up (here: a limit on file sizes)."""
    import resource

    folder = tmp_path / "out"
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            convert(source, folder / "packed.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []


def test_order_of_writing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rename before the content is on the disk, or a directory never flushed."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        calls.append("fsync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))[:9])
        fsync(descriptor)

    def traced_replace(old: Path, new: Path) -> None:
        calls.append("replace " + Path(new).name)
        replace(old, new)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("reads the names of open files from /proc")
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out" / "p.safetensors")
    assert calls == ["fsync .gpt2fast", "replace p.safetensors", "fsync out"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_permissions(source: Path, tmp_path: Path) -> None:
    """Catches a converted file that only its owner may read, or one that lost its bits."""
    path = tmp_path / "packed.safetensors"
    (tmp_path / "plain").touch()
    convert(source, path)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    convert(source, path)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_directory_as_destination(dtype: str, tmp_path: Path) -> None:
    """Catches a directory that is refused, and a name that the source's could lead elsewhere."""
    source = write_checkpoint(tmp_path / "two words", CONFIG, TENSORS)
    (tmp_path / "out").mkdir()
    for destination in (tmp_path / "out", source):
        convert(source, destination, dtype=dtype)
        assert load_packed(destination / f"two_words-{dtype}.safetensors").name == "two words"
    assert len(list((tmp_path / "out").iterdir())) == 1
    (tmp_path / "out" / "two_words-float32.safetensors").mkdir()
    with pytest.raises(FileExistsError, match=r"two_words-float32\.safetensors exists"):
        convert(source, tmp_path / "out", dtype="float32")


@pytest.mark.parametrize("kind", ["no directory", "device"])
def test_bad_destination(kind: str, source: Path, tmp_path: Path) -> None:
    """Catches a destination that is not a file's name."""
    paths = {
        "no directory": tmp_path / "no" / "x",
        "device": Path(os.devnull),
    }
    with pytest.raises(OSError, match=r"not a regular file|does not exist"):
        convert(source, paths[kind])


def test_source_changed_while_read(source: Path, tmp_path: Path) -> None:
    """Catches a file of mixed versions when the source is rewritten during the conversion."""
    weights = source / "model.safetensors"
    copy = tmp_path / "copy"
    shutil.copy(weights, copy)

    def replace(done: int, total: int) -> None:
        if copy.exists() and done > total / 2:
            os.replace(copy, weights)

    with pytest.raises(CheckpointError, match=r"model\.safetensors changed while it was read"):
        convert(source, tmp_path / "p.safetensors", progress=replace)
    assert not (tmp_path / "p.safetensors").exists()


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
