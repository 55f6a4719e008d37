"""OpenAI's TensorFlow checkpoints: those that TensorFlow wrote (tests/data/tensorflow, made by
make_tensorflow_checkpoints.py), and layouts as users have them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_files
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer

import gpt2fast
from gpt2fast.checkpoints import Checkpoint, open_checkpoint
from gpt2fast.checkpoints.crc32c import crc32c
from gpt2fast.checkpoints.tensor_bundle import TensorBundle
from gpt2fast.config import CheckpointError, Config

DATA = Path(__file__).parent / "data" / "tensorflow"
LAYOUTS = ("released", "run1", "optimizer", "sharded")
HPARAMS = {"n_vocab": 300, "n_ctx": 13, "n_embd": 24, "n_head": 3, "n_layer": 2}
SHAPES = Config.from_huggingface(hf_config()).tensor_shapes()
TENSORS = random_tensors(SHAPES)
OPENAI = tensorflow_files.openai_names(TENSORS)


def expected(name: str) -> Any:
    """Return what TensorFlow said of a checkpoint that it wrote."""
    return json.loads((DATA / name / "expected.json").read_text(encoding="utf-8"))


def tensors_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read all tensors."""
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def copy(name: str, directory: Path) -> Path:
    """Copy a checkpoint of TensorFlow's, to change it."""
    return Path(shutil.copytree(DATA / name, directory / name))


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_are_those_of_the_session(name: str) -> None:
    """Catches a tensor that is read wrongly, from another place, under another name or dtype."""
    with open_checkpoint(DATA / name) as checkpoint:
        renamed = tensorflow_files.openai_names(tensors_of(checkpoint))
    hashes = {key: hashlib.sha256(values.tobytes()).hexdigest() for key, values in renamed.items()}
    assert hashes == expected(name)["sha256"]


def test_logits_are_those_of_tensorflow() -> None:
    """Catches hparams.json understood wrongly: heads, epsilon, activation, positions."""
    content = expected("released")
    with gpt2fast.load(DATA / "released", dtype="float32") as model:
        logits = model.logits(content["tokens"], last_only=True)
        assert model.tokenizer.encode("A") == [32]
        assert model.tokenizer.eot == model.config.eot == 257
    assert np.abs(logits - content["last_logits"]).max() < 1e-6 * np.abs(logits).max()


def test_the_writer_of_the_tests_writes_what_tensorflow_writes() -> None:
    """Catches a test writer whose hostile variants begin from files that TensorFlow has not."""
    path = DATA / "released"
    with open_checkpoint(path) as checkpoint:
        renamed = tensorflow_files.openai_names(tensors_of(checkpoint))
    entries, data = tensorflow_files.lay_out(renamed)
    assert tensorflow_files.index(entries) == (path / "model.ckpt.index").read_bytes()
    assert data[0] == (path / "model.ckpt.data-00000-of-00001").read_bytes()


@pytest.mark.parametrize("shards", [1, 3])
def test_same_bits_as_safetensors(shards: int, tmp_path: Path) -> None:
    """Catches any difference between a TensorFlow and a Hugging Face directory of one model."""
    config = hf_config(eos_token_id=256)
    ours = write_checkpoint(tmp_path / "hf" / "model", config, TENSORS)
    theirs = tensorflow_files.write(tmp_path / "tf" / "model", HPARAMS, OPENAI, shards=shards)
    for directory in (ours, theirs):
        write_tokenizer(directory)
    (theirs / "vocab.json").rename(theirs / "encoder.json")
    (theirs / "merges.txt").rename(theirs / "vocab.bpe")
    with (
        gpt2fast.load(ours, dtype="float32") as one,
        gpt2fast.load(theirs, dtype="float32") as other,
    ):
        assert one.config == other.config
        assert np.array_equal(one.logits([1, 2, 3]), other.logits([1, 2, 3]))
        assert one.fingerprint == other.fingerprint


def test_path_of_an_index_means_that_one() -> None:
    """Catches the latest checkpoint opened instead of the one that was named."""
    run = DATA / "run1"
    with open_checkpoint(run) as latest, open_checkpoint(run / "model-1.index") as first:
        assert [file.name for file in latest.files[-3:]] == [
            "checkpoint",
            "model-2.index",
            "model-2.data-00000-of-00001",
        ]
        assert not np.array_equal(latest.read("wte.weight"), first.read("wte.weight"))
        assert first.name == latest.name == "run1"
    with open_checkpoint(run / "checkpoint") as same:
        assert same.files == latest.files
    with gpt2fast.load(run / "model-1.index") as model:
        assert model.generate([1], max_new_tokens=2).prompt_tokens


LATEST = 'model_checkpoint_path: "{}"\nall_model_checkpoint_paths: "model-1"\n'


@pytest.mark.parametrize(
    "content",
    [
        LATEST.format("model-1"),
        LATEST.format("/content/checkpoint/run1/model-1"),
        LATEST.format("../elsewhere/model-1"),
        LATEST.format(r"C:\\Users\\me\\checkpoint\\run1\\model-1"),
        LATEST.format(r"/home/\346\227\245\346\234\254/model\0551"),
        "all_model_checkpoint_paths: 'model-2'\n  model_checkpoint_path : 'model-1'",
    ],
)
def test_latest_by_its_last_component(content: str, tmp_path: Path) -> None:
    """Catches a run that does not load any more after it was moved to another directory."""
    run = copy("run1", tmp_path)
    (run / "checkpoint").write_text(content, encoding="utf-8")
    with open_checkpoint(run) as checkpoint:
        assert checkpoint.files[-2] == run / "model-1.index"


def test_only_index_without_checkpoint(tmp_path: Path) -> None:
    """Catches a single checkpoint that needs the file `checkpoint`."""
    directory = copy("released", tmp_path)
    (directory / "checkpoint").unlink()
    with open_checkpoint(directory) as checkpoint:
        assert "checkpoint" not in checkpoint.digests


@pytest.mark.parametrize(
    ("latest", "message"),
    [
        (None, r"checkpoint is missing, which says the latest; .*'model-1.index', 'model-2.index'"),
        ("model-3", r"names 'model-3', but 'model-3.index' is not beside it; give the path .*'mo"),
        ("", "names b'', which is no name of a checkpoint"),
        ("run1/", "which is no name of a checkpoint"),
        (r"model-1\000", "which is no name of a checkpoint"),
        ("..", r"names '\.\.', but '\.\.\.index' is not beside it"),
        ('"\nx: "', "names b'', which"),
    ],
)
def test_several_candidates(latest: str | None, message: str, tmp_path: Path) -> None:
    """Catches a guess where a directory has several checkpoints."""
    run = copy("run1", tmp_path)
    if latest is None:
        (run / "checkpoint").unlink()
    else:
        (run / "checkpoint").write_text(LATEST.format(latest), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(run)


def test_beside_safetensors(tmp_path: Path) -> None:
    """Catches a directory with both formats that opens as one of them, perhaps the wrong one."""
    directory = write_checkpoint(tmp_path, hf_config(), TENSORS)
    tensorflow_files.write(directory, HPARAMS, OPENAI)
    with pytest.raises(CheckpointError, match=r"holds several checkpoints: .* Give the path of"):
        open_checkpoint(directory)
    for name in ("model.safetensors", "model.ckpt.index"):
        with open_checkpoint(directory / name) as checkpoint:
            assert directory / name in checkpoint.files


def test_without_tokenizer(tmp_path: Path) -> None:
    """Catches a checkpoint refused for want of a tokenizer; ids work without."""
    directory = tensorflow_files.write(tmp_path, HPARAMS, OPENAI)
    with gpt2fast.load(directory) as model:
        assert model.logits([1, 2]).shape == (2, 300)
        assert model.config.eot is None


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("n_layer", "120 missing tensors: 'h.2.ln_1.weight'"),
        ("n_ctx", r"tensor wpe.weight has shape \[13, 24\], the configuration says \[1024, 24\]"),
        ("n_embd", r"tensor wte.weight has shape \[300, 24\], the configuration says \[300, 768\]"),
        ("n_vocab", r"hparams\.json: n_vocab is missing"),
    ],
)
def test_hparams_have_openais_defaults(absent: str, message: str, tmp_path: Path) -> None:
    """Catches other sizes than OpenAI's code takes where hparams.json is silent."""
    hparams = {key: value for key, value in HPARAMS.items() if key != absent}
    tensorflow_files.write(tmp_path, hparams, OPENAI)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_hparams_have_openais_default_of_heads(tmp_path: Path) -> None:
    """Catches another number of heads than OpenAI's code takes: no tensor's shape would tell."""
    tensorflow_files.write(tmp_path, {k: v for k, v in HPARAMS.items() if k != "n_head"}, OPENAI)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.config.n_head == 12


def test_what_optimizers_store_is_left_out(tmp_path: Path) -> None:
    """Catches an optimizer's slot taken for a weight, or read, in files of any trainer."""
    more: dict[str, Any] = {
        **{f"{name}/Adam_1": values for name, values in OPENAI.items()},
        "model/wte/ExponentialMovingAverage": OPENAI["model/wte"],
        "Variable_3": np.zeros((2, 2), np.float32),
        "global_step": np.int64(7),
        "beta1_power": np.float64(0.5),
    }
    tensorflow_files.write(tmp_path, HPARAMS, {**OPENAI, **more})
    with open_checkpoint(tmp_path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(SHAPES)
        assert checkpoint.nbytes == sum(values.nbytes for values in TENSORS.values())
        for name, values in tensors_of(checkpoint).items():
            assert np.array_equal(values, TENSORS[name])


def test_convert_leaves_the_source_and_one_file(tmp_path: Path) -> None:
    """Catches a conversion that is not whole, or that touches what it reads."""
    source = copy("run1", tmp_path)
    before = {path: path.read_bytes() for path in source.iterdir()}
    receipt = gpt2fast.convert(source, tmp_path / "out.safetensors", dtype="float32")
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    assert "model-2.data-00000-of-00001" in [file.name for file in receipt.files]
    with (
        gpt2fast.load(tmp_path / "out.safetensors") as packed,
        gpt2fast.load(source, dtype="float32") as direct,
    ):
        assert packed.fingerprint == direct.fingerprint


def test_receipt_hashes_the_tensors_that_were_read(tmp_path: Path) -> None:
    """Catches a receipt whose digest is not that of the weights as stored."""
    receipt = gpt2fast.convert(DATA / "optimizer", tmp_path / "out.safetensors")
    lines = [
        f"{name} {sha256}\n" for name, sha256 in sorted(expected("optimizer")["sha256"].items())
    ]
    digest = hashlib.sha256("".join(["\n", *lines]).encode()).hexdigest()
    assert receipt.files[-1].tensors_sha256 == digest


@pytest.mark.parametrize("name", ["checkpoint", "model-2.index"])
def test_a_change_is_noticed(name: str, tmp_path: Path) -> None:
    """Catches a cached model that stays after training went on, whatever size and time say."""
    run = copy("run1", tmp_path)
    with open_checkpoint(run) as checkpoint:
        before = checkpoint.identity()
    stat = (run / name).stat()
    latest = (run / "checkpoint").read_text(encoding="utf-8").replace('"model-2"', '"model-1"', 1)
    changed = {"checkpoint": latest.encode(), "model-2.index": (run / "model-1.index").read_bytes()}
    (run / name).write_bytes(changed[name])
    os.utime(run / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (run / name).stat().st_size == stat.st_size
    with open_checkpoint(run) as checkpoint:
        assert checkpoint.identity() != before


def test_a_change_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the configuration of one checkpoint with the weights of another."""
    directory = copy("released", tmp_path)
    select = TensorBundle.select

    def slow_select(bundle: TensorBundle, names: Iterable[str]) -> None:
        os.utime(directory / "hparams.json", (1, 1))
        select(bundle, names)

    monkeypatch.setattr(TensorBundle, "select", slow_select)
    with pytest.raises(CheckpointError, match=r"hparams\.json changed while it was read"):
        open_checkpoint(directory)


def test_crc32c_of_published_vectors() -> None:
    """Catches another polynomial or bit order; RFC 3720, appendix B.4."""
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        b"123456789": 0xE3069283,
        b"": 0,
    }
    assert {data: crc32c(data) for data in vectors} == vectors


@pytest.mark.parametrize(
    "size", [1, 3, 5684, 5685, 5686, 11371, 45479, 45480, 45481, 45487, 45488, 54137, 400_007]
)
@pytest.mark.parametrize("start", [0, 1])
def test_crc32c_of_every_path(size: int, start: int) -> None:
    """Catches a wrong fold at the ends of slabs, and at data that is not aligned."""
    data = np.random.default_rng(size).bytes(start + size)
    assert crc32c(memoryview(data)[start:]) == tensorflow_files.crc(data[start:])
