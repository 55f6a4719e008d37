"""nanoGPT's checkpoints: catches one that is refused, misread, or read with its optimizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits import assert_within
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer
from nanogpt_files import ARGUMENTS, TorchGPT, nanogpt_file, state_dict
from numpy.typing import NDArray
from torch_refusals import ONE, as_zip
from torch_save_files import bfloat16, glob, pickled, plain, storage, tensor

import gpt2fast
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.config import CheckpointError, Config

CONFIG = hf_config(activation_function="gelu")
SHAPES = Config.from_huggingface(CONFIG).tensor_shapes()
TENSORS = random_tensors(SHAPES)
TOKENS = [1, 5, 299, 0, 77, 5]


def write(directory: Path, content: bytes, name: str = "ckpt.pt") -> Path:
    """Write the file and return its path."""
    (directory / name).write_bytes(content)
    return directory / name


def bits(source: Path) -> NDArray[np.uint32]:
    """Return the bits of the float32 logits."""
    with gpt2fast.load(source, dtype="float32") as model:
        return model.logits(TOKENS).view(np.uint32)


def check_equal(source: Path, expected: dict[str, NDArray[np.float32]]) -> None:
    """Compare names, shapes and values."""
    with open_checkpoint(source) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(expected)
        for name, values in expected.items():
            got = checkpoint.read(name)
            assert checkpoint.shape(name) == got.shape and got.flags.c_contiguous
            assert np.array_equal(got, values)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."], ids=["plain", "compiled"])
def test_file_and_directory(prefix: str, tmp_path: Path) -> None:
    """Catches a matrix that is not transposed, a prefix or a head that is not understood."""
    content = nanogpt_file(
        state_dict(TENSORS, prefix + "transformer."), head=prefix + "lm_head.weight"
    )
    expected = bits(write_checkpoint(tmp_path / "hf", CONFIG, TENSORS))
    for source in (write(tmp_path, content), tmp_path, write(tmp_path / "hf", content, "my.pth")):
        check_equal(source, TENSORS)
        assert np.array_equal(bits(source), expected)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.name == tmp_path.name
        assert checkpoint.nbytes == sum(values.nbytes for values in TENSORS.values())
        assert [file.name for file in checkpoint.files] == ["ckpt.pt"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str, tmp_path: Path) -> None:
    """Catches a dtype that is read wrongly under nanoGPT's names."""
    half = {n: v.astype(np.float16) if dtype == "float16" else bfloat16(v)
            for n, v in state_dict(TENSORS).items()}  # fmt: skip
    content = nanogpt_file(half)
    expected = {
        name: values.astype(np.float16).astype(np.float32)
        if dtype == "float16"
        else (bfloat16(values).astype("<u4") << 16).view("<f4")
        for name, values in TENSORS.items()
    }
    check_equal(write(tmp_path, content), expected)


def test_without_biases(tmp_path: Path) -> None:
    """Catches bias=False refused, or biases that are anything but zeros."""
    weights = {name: values for name, values in TENSORS.items() if not name.endswith(".bias")}
    path = write(tmp_path, nanogpt_file(state_dict(weights), {**ARGUMENTS, "bias": False}))
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    check_equal(path, {**zeros, **weights})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.nbytes == sum(values.nbytes for values in weights.values())
    hugging_face = write_checkpoint(tmp_path / "hf", CONFIG, {**zeros, **weights})
    assert np.array_equal(bits(path), bits(hugging_face))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"activation": "gelu", "eot": None, "n_ctx": 13, "n_vocab": 300, "n_inner": 96}),
        ({"bias": ...}, {"activation": "gelu_new"}),
        ({"dropout": ...}, {"activation": "gelu"}),
        ({"vocab_size": 50257}, {"eot": 50256}),
        ({"vocab_size": 50304}, {"eot": 50256, "n_vocab": 50304}),
        ({"vocab_size": 65}, {"eot": None}),
        ({"block_size": 7}, {"n_ctx": 7}),
    ],
)
def test_config(changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    """Catches an argument that means another configuration."""
    arguments = {k: v for k, v in {**ARGUMENTS, **changes}.items() if v is not ...}
    rows = {"wte.weight": arguments["vocab_size"], "wpe.weight": arguments["block_size"]}
    tensors = {**TENSORS, **{name: np.zeros((n, 24), np.float32) for name, n in rows.items()}}
    path = write(tmp_path, nanogpt_file(state_dict(tensors), arguments))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config.tie_word_embeddings
        assert {name: getattr(checkpoint.config, name) for name in expected} == expected


@pytest.mark.parametrize("head", [None, "copy", "other"])
def test_output_head(head: str | None, tmp_path: Path) -> None:
    """Catches a head of its own that is dropped, or a missing one that is missed."""
    table = TENSORS["wte.weight"]
    own = {} if head is None else {"lm_head.weight": table + np.float32(head == "other")}
    path = write(tmp_path, nanogpt_file({**state_dict(TENSORS), **own}, head=None))
    check_equal(path, {**TENSORS, **own})
    config = hf_config(activation_function="gelu", tie_word_embeddings=not own)
    hugging_face = write_checkpoint(tmp_path / "hf", config, {**TENSORS, **own})
    assert np.array_equal(bits(path), bits(hugging_face))


def test_masks_are_ignored(tmp_path: Path) -> None:
    """Catches the causal masks of nanoGPT without flash attention taken for weights."""
    masks = {f"transformer.h.{i}.attn.bias": np.tri(13)[None, None] for i in range(2)}
    path = write(tmp_path, nanogpt_file({**state_dict(TENSORS), **masks}))
    check_equal(path, TENSORS)


def test_optimizer_is_not_read(tmp_path: Path) -> None:
    """Catches an optimizer's tensors read, or needed: here they are not even in the file."""
    absent = tensor(storage("7777", 5), 0, (50,), (1,))
    content = nanogpt_file(state_dict(TENSORS), optimizer={"state": [absent], "lr": 1.0})
    check_equal(write(tmp_path, content), TENSORS)


def test_tokenizer(tmp_path: Path) -> None:
    """Catches a tokenizer beside the file that is not taken."""
    path = write(tmp_path, nanogpt_file(state_dict(TENSORS)))
    with gpt2fast.load(path) as model, pytest.raises(ValueError, match="tokenizer"):
        model.tokenizer.encode("a")
    write_tokenizer(tmp_path)
    with gpt2fast.load(path) as model:
        assert len(model.tokenizer.encode("abc")) == 3


MODEL = state_dict(TENSORS)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "plain state dict": (as_zip(pickled(ONE)), "has no state dict under 'model'"),
    "model a list": (nanogpt_file(MODEL, model=[1]), "has no state dict under 'model'"),
    "no arguments": (nanogpt_file(MODEL, ...), "has no dict model_args"),
    "arguments a list": (nanogpt_file(MODEL, [1]), "has no dict model_args"),
    "arguments of a class": (
        nanogpt_file(MODEL, plain(glob("__main__", "GPTConfig")) + b")R"),
        r"names '__main__\.GPTConfig'",
    ),
    "whole model": (
        nanogpt_file(MODEL, model=glob("model", "GPT") + b")R"), r"names 'model\.GPT'"
    ),
    "size missing": (
        nanogpt_file(MODEL, {k: v for k, v in ARGUMENTS.items() if k != "n_head"}),
        "model_args lacks n_head",
    ),
    "another model": (
        nanogpt_file(MODEL, {**ARGUMENTS, "use_rmsnorm": True}), "model_args has 'use_rmsnorm'"
    ),
    "number for a name": (nanogpt_file(MODEL, {1: 2}), "model_args has 1, which"),
    "sizes of text": (nanogpt_file(MODEL, {**ARGUMENTS, "n_embd": "24"}), "n_embd must be an"),
    "sizes true": (nanogpt_file(MODEL, {**ARGUMENTS, "n_embd": True}), "n_embd must be an"),
    "sizes beyond all": (nanogpt_file(MODEL, {**ARGUMENTS, "n_layer": 1 << 99}), "n_layer must be"),
    "vocabulary None": (nanogpt_file(MODEL, {**ARGUMENTS, "vocab_size": None}), "n_vocab must be"),
    "vocabulary a list": (nanogpt_file(MODEL, {**ARGUMENTS, "vocab_size": []}), "n_vocab must be"),
    "bias a number": (nanogpt_file(MODEL, {**ARGUMENTS, "bias": 0}), "bias is 0, not True"),
    "vocabulary of another size": (
        nanogpt_file(MODEL, {**ARGUMENTS, "vocab_size": 299}), r"wte\.weight has shape \[300, 24\]"
    ),
    "biases missing": (
        nanogpt_file({n: v for n, v in MODEL.items() if not n.endswith(".bias")}),
        "13 missing tensors",
    ),
    "biases that should not be": (
        nanogpt_file(
            {n: v for n, v in MODEL.items() if not n.endswith(".bias") or "ln_f" in n},
            {**ARGUMENTS, "bias": False},
        ),
        r"tensor ln_f\.bias is there, but model_args says that bias is False",
    ),
    "matrix not transposed": (
        nanogpt_file({"transformer." + n: v for n, v in TENSORS.items()}),
        r"h\.0\.attn\.c_attn\.weight has shape \[72, 24\]",
    ),
    "tensor twice": (
        nanogpt_file({**MODEL, "_orig_mod.transformer.wpe.weight": TENSORS["wpe.weight"]}),
        r"'wpe\.weight' is stored twice",
    ),
    "unknown tensor": (nanogpt_file({**MODEL, "x": TENSORS["ln_f.bias"]}), "1 unknown tensor: 'x'"),
    "layer too many": (
        nanogpt_file({**MODEL, "transformer.h.2.ln_1.weight": TENSORS["ln_f.bias"]}),
        "1 unknown tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case: str, tmp_path: Path) -> None:
    """Catches a file that is no GPT-2 of nanoGPT and is read as one, or fails otherwise."""
    content, message = HOSTILE[case]
    path = write(tmp_path, content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 1000


def test_several_checkpoints(tmp_path: Path) -> None:
    """Catches a directory with two checkpoints of which one is taken in silence."""
    path = write(tmp_path, nanogpt_file(state_dict(TENSORS)))
    write_checkpoint(tmp_path, CONFIG, {**TENSORS, "ln_f.bias": TENSORS["ln_f.bias"] + 1})
    with pytest.raises(CheckpointError, match=r"holds several checkpoints: .*ckpt\.pt.* Give the"):
        open_checkpoint(tmp_path)
    check_equal(path, TENSORS)


def test_config_without_weights(tmp_path: Path) -> None:
    """Catches ckpt.pt overlooked beside a config.json."""
    write(tmp_path, nanogpt_file(state_dict(TENSORS)))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    check_equal(tmp_path, TENSORS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("changes", "compiled"),
    [({}, False), ({}, True), ({"bias": False}, False), ({"vocab_size": 50304}, False)],
    ids=["plain", "compiled", "without biases", "padded"],
)
def test_trained_by_torch(
    changes: dict[str, Any], compiled: bool, dtype: str, tmp_path: Path
) -> None:
    """Catches logits that are not those of the model that torch trained and saved."""
    torch: Any = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(2)
    trained = TorchGPT(torch, {**ARGUMENTS, **changes})
    trained.save(tmp_path / "ckpt.pt", compiled=compiled, dtype=dtype)
    trained.module.to(torch.float32)
    with torch.no_grad():
        want = trained.logits(TOKENS).double().numpy()
    got = bits(tmp_path).view(np.float32)
    assert_within(got, want, 2e-5 * float(want.std()) * 2**0.5)
