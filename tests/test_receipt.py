"""Receipts: catches a digest of something else, one lost in the file, one that nobody can read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, stored, write_checkpoint, write_tokenizer
from numpy.typing import NDArray

import gpt2fast
from gpt2fast import cli
from gpt2fast.checkpoints import SourceFile, open_checkpoint
from gpt2fast.checkpoints.huggingface import HuggingFaceCheckpoint
from gpt2fast.checkpoints.packed import DTYPES, open_packed
from gpt2fast.checkpoints.receipt import Fidelity, Receipt
from gpt2fast.checkpoints.safetensors import read_header
from gpt2fast.config import CheckpointError, Config
from gpt2fast.conversion.convert import convert

CONFIG = hf_config()
TENSORS = random_tensors(Config.from_huggingface(CONFIG).tensor_shapes())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small checkpoint with tokenizer."""
    directory = write_checkpoint(tmp_path / "little", CONFIG, TENSORS)
    write_tokenizer(directory)
    return directory


def test_each_tensor_is_read_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a second pass over the source, which takes as long as all the rest."""
    names: list[str] = []
    read = HuggingFaceCheckpoint.read

    def traced(self: HuggingFaceCheckpoint, name: str) -> NDArray[np.float32]:
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(HuggingFaceCheckpoint, "read", traced)
    convert(source, tmp_path / "p.safetensors")
    assert sorted(names) == sorted(TENSORS)


def digest_of_tensors(path: Path, leave_out: str = "attn.masked_bias") -> str:
    """Return what the docstring of SourceFile says, of a safetensors file."""
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    lines = [hashlib.sha256(content[:length]).hexdigest()]
    header = json.loads(content[8:length])
    for name in sorted(header.keys() - {"__metadata__"}):
        begin, end = (length + offset for offset in header[name]["data_offsets"])
        if leave_out not in name:
            lines.append(f"{name} {hashlib.sha256(content[begin:end]).hexdigest()}")
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_digests(tmp_path: Path) -> None:
    """Catches a digest of other bytes than those documented, and one named as what it is not."""
    mask = {"transformer.h.0.attn.masked_bias": stored(np.zeros(2, np.float32))}
    source = write_checkpoint(tmp_path / "m", CONFIG, TENSORS, extra=mask)
    write_tokenizer(source)
    receipt = convert(source, tmp_path / "p.safetensors")
    assert open_packed(tmp_path / "p.safetensors").receipt.files == receipt.files
    files = {file.name: file for file in receipt.files}
    assert set(files) == {"config.json", "vocab.json", "merges.txt", "model.safetensors"}
    for name, file in files.items():
        content = (source / name).read_bytes()
        assert file.size == len(content)
        if name == "model.safetensors":
            assert file.sha256 is None
            assert file.tensors_sha256 == digest_of_tensors(source / name)
        else:
            assert file.tensors_sha256 is None
            assert file.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("place", ["first tensor", "last tensor", "header"])
def test_every_bit_of_the_source_counts(place: str, tmp_path: Path) -> None:
    """Catches a change of the weights that the receipt does not show."""
    source = write_checkpoint(tmp_path / "m", CONFIG, TENSORS)
    weights = source / "model.safetensors"
    before = convert(source, tmp_path / "p.safetensors").files
    content = bytearray(weights.read_bytes())
    with open(weights, "rb") as file:
        start = read_header(file, weights).data_start
    if place == "header":
        content[8:start] = bytes(content[8:start]).replace(b'"pt"', b'"np"')
    else:
        content[start if place == "first tensor" else -4] ^= 1
    weights.write_bytes(content)
    after = convert(source, tmp_path / "p.safetensors").files
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False]


def test_shard_of_which_nothing_is_read(tmp_path: Path) -> None:
    """Catches a shard of masks whose digest says tensors, though none was read."""
    source = write_checkpoint(tmp_path / "m", CONFIG, TENSORS)
    (source / "model.safetensors").rename(source / "a.safetensors")
    mask = {"h.0.attn.bias": stored(np.ones((1, 1, 13, 13), np.float32))}
    write_checkpoint(tmp_path / "masks", CONFIG, {}, extra=mask)
    (tmp_path / "masks" / "model.safetensors").rename(source / "b.safetensors")
    places = {f"transformer.{name}": "a.safetensors" for name in TENSORS}
    index = {"weight_map": {**places, "h.0.attn.bias": "b.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    files = {file.name: file for file in convert(source, tmp_path / "p.safetensors").files}
    assert files["a.safetensors"].tensors_sha256 == digest_of_tensors(source / "a.safetensors")
    digest = hashlib.sha256((source / "b.safetensors").read_bytes()).hexdigest()
    assert files["b.safetensors"] == SourceFile(
        "b.safetensors", (source / "b.safetensors").stat().st_size, sha256=digest
    )


def test_tensor_of_a_strange_file(source: Path) -> None:
    """Catches a reader that notes a file under another path: it would be read again, whole."""
    with (
        open_checkpoint(source) as checkpoint,
        pytest.raises(ValueError, match="none of the checkpoint's files"),
    ):
        checkpoint.note_read(Path("elsewhere"), "wte.weight", b"")


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e3, 3e4])
def test_header_keeps_its_place(scale: float, tmp_path: Path) -> None:
    """Catches numbers that take more characters than the header reserved before the data."""
    tensors = {**TENSORS, "ln_f.weight": TENSORS["ln_f.weight"] * np.float32(scale)}
    source = write_checkpoint(tmp_path / "m", CONFIG, tensors)
    convert(source, tmp_path / "p.safetensors")
    assert open_packed(tmp_path / "p.safetensors", verify=True).name == "m"
    assert len(repr(float(f"{1.23456789e15:.6g}"))) <= 18  # the longest that rounding leaves


RECEIPT = Receipt(
    "little",
    (SourceFile("config.json", 1234, sha256="ab"), SourceFile("x.bin", 5, tensors_sha256="cd")),
    "int8",
    {"wte.weight": 0.0061, "h.0.attn.c_attn.weight": 0.006, "h.0.mlp.c_fc.weight": 0.00012},
    12.345,
    Fidelity(256, "an English text", 0.000889, 0.9766, 59.9785, 60.0466),
)


def test_for_people() -> None:
    """Catches a receipt that people cannot read."""
    assert str(RECEIPT).splitlines() == [
        "source       little",
        "             config.json, 1,234 bytes, sha256 ab",
        "             x.bin, 5 bytes, sha256 of its tensors cd",
        "weight error relative, as int8",
        "             wte       0.0061",
        "             h.0      attn.c_attn 0.0060  mlp.c_fc 0.00012",
        "fidelity     to float32, on 256 tokens of an English text",
        "             KL divergence 0.000889 nats per token",
        "             top-1 agreement 97.7%",
        "             perplexity 59.978 as float32, 60.047 as int8",
        "seconds      12.3",
    ]


def test_commands_print_it(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a receipt that `convert` and `info` do not show, or not on stdout."""
    path = tmp_path / "p.safetensors"
    assert cli.main(["convert", str(source), str(path)]) == 0
    *lines, seconds = capfd.readouterr().out.splitlines()
    assert seconds.startswith("seconds ")
    assert lines == str(open_packed(path).receipt).splitlines()
    assert cli.main(["info", str(path)]) == 0
    assert capfd.readouterr().out.splitlines()[-len(lines) :] == lines
    assert cli.main(["convert", "--quiet", str(source), str(path)]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[:-1] == lines and err == ""


def test_receipt_of_a_loaded_model(source: Path, tmp_path: Path) -> None:
    """Catches a model that does not know how it was made; one packed in memory was not compared."""
    receipt = convert(source, tmp_path / "p.safetensors")
    with gpt2fast.load(tmp_path / "p.safetensors") as model:
        assert model.receipt.to_json() == receipt.to_json()
    with gpt2fast.load(source) as model:
        assert model.receipt.fidelity is None
        assert model.receipt.files == receipt.files
        assert model.receipt.weight_error == receipt.weight_error


def test_terminal_is_safe() -> None:
    """Catches a file that steers the terminal of whoever looks at its receipt."""
    receipt = Receipt("\x1b[2J\n", (), "int8\r", {"h.0.\x07.weight": 0.1})
    assert str(receipt).replace("\n", "").isprintable()
    assert "source       \\x1b[2J\\n" in str(receipt)


def test_receipts_survive_the_file() -> None:
    """Catches a field lost between `to_json` and `from_json`, all but the time."""
    again = Receipt.from_json(RECEIPT.to_json(), "x")
    assert again.seconds is None
    assert again.to_json() == RECEIPT.to_json() and again.fidelity == RECEIPT.fidelity
    assert again.files == RECEIPT.files


@pytest.mark.parametrize("dtype", DTYPES)
def test_receipts_of_earlier_versions(dtype: str) -> None:
    """Catches a file of version 1 from before `fidelity` that no longer opens."""
    path = Path(__file__).parent / "data" / "packed" / f"v1-{dtype}.safetensors"
    receipt = open_packed(path).receipt
    assert receipt.fidelity is None and receipt.weight_error
    assert all(len(file.sha256 or "") == 64 for file in receipt.files)
    assert "fidelity" not in str(receipt)


def content(**changes: Any) -> dict[str, Any]:
    return {**json.loads(RECEIPT.to_json()), **changes}


FIDELITY = content()["fidelity"]
NO_RECEIPTS: dict[str, Any] = {
    "fidelity a list": content(fidelity=[1]),
    "fidelity a number": content(fidelity=0.5),
    "fidelity empty": content(fidelity={}),
    "fidelity of words": content(fidelity={**FIDELITY, "perplexity": "high"}),
    "tokens infinite": content(fidelity={**FIDELITY, "tokens": float("inf")}),
    "no files": content(files=None),
    "file without digest": content(files=[{"name": "x", "size": 1}]),
    "file with two": content(files=[{"name": "x", "size": 1, "sha256": "", "tensors_sha256": ""}]),
    "file a string": content(files=["x"]),
    "errors a list": content(weight_error=[0.1]),
    "error a list": content(weight_error={"x": [0.1]}),
    "a list": [],
    "null": None,
}


@pytest.mark.parametrize("case", NO_RECEIPTS)
def test_what_is_no_receipt(case: str) -> None:
    """Catches a damaged receipt that raises anything but CheckpointError, or is believed."""
    with pytest.raises(CheckpointError, match=r"^the file is not a receipt: "):
        Receipt.from_json(json.dumps(NO_RECEIPTS[case]), "the file")
