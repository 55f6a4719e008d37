"""Hugging Face directories: catches a damaged one let through, and a weight read wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    Stored,
    hf_config,
    random_tensors,
    stored,
    write_checkpoint,
    write_safetensors,
)

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.config import CheckpointError, Config

CONFIG = hf_config()
SHAPES = Config.from_huggingface(CONFIG).tensor_shapes()
TENSORS = random_tensors(SHAPES)


def check_equal(directory: Path, dtype: str = "F32") -> None:
    """Compare every tensor of a directory with TENSORS as `dtype` holds them."""
    with open_checkpoint(directory) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(SHAPES)
        for name, values in TENSORS.items():
            kind, _, raw = stored(values, dtype)
            if kind == "BF16":
                expected = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
            else:
                expected = np.frombuffer(raw, "<f4" if kind == "F32" else "<f2").astype("<f4")
            assert checkpoint.shape(name) == values.shape
            assert np.array_equal(checkpoint.read(name), expected.reshape(values.shape))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_directory(dtype: str, prefix: str, tmp_path: Path) -> None:
    """Catches a prefix or dtype of Hugging Face directories that is not understood."""
    write_checkpoint(tmp_path, CONFIG, TENSORS, dtype=dtype, prefix=prefix)
    check_equal(tmp_path, dtype)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("dtype", ["F32", "BOOL"])
def test_mask_buffers_are_ignored(dtype: str, prefix: str, tmp_path: Path) -> None:
    """Catches the causal masks of old checkpoints taken for unknown tensors."""
    mask = stored(np.tri(13)[None, None], dtype)
    names = [f"{prefix}h.{i}.attn.{kind}" for i in range(2) for kind in ("bias", "masked_bias")]
    write_checkpoint(tmp_path, CONFIG, TENSORS, prefix=prefix, extra=dict.fromkeys(names, mask))
    check_equal(tmp_path)


def write_shards(directory: Path, weight_map: dict[str, str]) -> None:
    """Write TENSORS into the files of `weight_map`, with an index."""
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    for shard in set(weight_map.values()):
        names = [name for name in TENSORS if weight_map["transformer." + name] == shard]
        content = {"transformer." + name: stored(TENSORS[name]) for name in names}
        write_safetensors(directory / shard, content)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    write_index(directory, index)


def write_index(directory: Path, index: object) -> None:
    """Write model.safetensors.index.json."""
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")


WEIGHT_MAP = {
    "transformer." + name: f"model-{1 + i % 3:05}-of-00003.safetensors"
    for i, name in enumerate(SHAPES)
}


def test_shards(tmp_path: Path) -> None:
    """Catches a shard that is not read, or not counted among the source files."""
    write_shards(tmp_path, WEIGHT_MAP)
    check_equal(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.files) == 5
        assert checkpoint.nbytes == sum(values.nbytes for values in TENSORS.values())


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "must hold an object weight_map"),
        ({"weight_map": {}}, "must hold an object weight_map"),
        ({"weight_map": {"a": 1}}, "not a .safetensors file of this directory"),
        ({"weight_map": {"a": "../x.safetensors"}}, "not a .safetensors file of this directory"),
        ({"weight_map": {"a": "/etc/x.safetensors"}}, "not a .safetensors file"),
        ({"weight_map": {"a": "C:x.safetensors"}}, "not a .safetensors file"),
        ({"weight_map": {"a": "model.bin"}}, "not a .safetensors file"),
        ({"weight_map": {**WEIGHT_MAP, "b": "no.safetensors"}}, r"no\.safetensors is missing"),
        (
            {"weight_map": {**WEIGHT_MAP, "b": "model-00001-of-00003.safetensors"}},
            "tensor 'b' is in none of the files",
        ),
        (
            {
                "weight_map": {
                    **WEIGHT_MAP,
                    "transformer.wte.weight": "model-00002-of-00003.safetensors",
                }
            },
            "does not say that model-00001-of-00003.safetensors holds",
        ),
    ],
)
def test_bad_index(index: object, message: str, tmp_path: Path) -> None:
    """Catches an index that leads out of the directory or contradicts its shards."""
    write_shards(tmp_path, WEIGHT_MAP)
    write_index(tmp_path, index)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path)


def test_missing_shard(tmp_path: Path) -> None:
    """Catches a shard that was not downloaded."""
    write_shards(tmp_path, WEIGHT_MAP)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors is missing"):
        open_checkpoint(tmp_path)


def without(*names: str) -> dict[str, Any]:
    """Return TENSORS without some."""
    return {name: values for name, values in TENSORS.items() if name not in names}


EXTRA: dict[str, Stored] = {"transformer.h.0.attn.rotary": stored(np.ones(3))}
LATER = {"transformer.h.2.ln_1.weight": stored(np.ones(24))}
TWICE = {"wte.weight": stored(TENSORS["wte.weight"])}


@pytest.mark.parametrize(
    ("config", "tensors", "extra", "message"),
    [
        (CONFIG, without("ln_f.bias"), {}, "1 missing tensor: 'ln_f.bias'"),
        (CONFIG, without("wte.weight", "h.1.mlp.c_fc.bias"), {}, "2 missing tensors: 'wte"),
        (CONFIG, TENSORS, EXTRA, "1 unknown tensor: 'h.0.attn.rotary'; a GPT-2 of 2 layers"),
        (CONFIG, TENSORS, LATER, "1 unknown tensor: 'h.2.ln_1.weight'"),
        (CONFIG, TENSORS, TWICE, "'wte.weight' is stored twice"),
        (hf_config(n_layer=3), TENSORS, {}, "12 missing tensors: 'h.2.ln_1.weight'"),
        (hf_config(n_inner=95), TENSORS, {}, r"c_fc.weight has shape \[24, 96\], .* \[24, 95\]"),
        (hf_config(vocab_size=299), TENSORS, {}, r"wte.weight has shape \[300, 24\]"),
        (hf_config(tie_word_embeddings=False), TENSORS, {}, "missing tensor: 'lm_head.weight'"),
        (
            CONFIG,
            {**TENSORS, "h.0.attn.c_proj.bias": np.ones((1, 24))},
            {},
            r"h.0.attn.c_proj.bias has shape \[1, 24\]",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    config: dict[str, Any],
    tensors: dict[str, Any],
    extra: dict[str, Stored],
    message: str,
    tmp_path: Path,
) -> None:
    """Catches missing, unknown or misshapen tensors before a weight is read."""
    write_checkpoint(tmp_path, config, tensors, extra=extra)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[]", "must hold a JSON object"),
        (b'{"model_type": "gptj"}', "is a GPT-J model"),
        (b'{"n_layer": 1, "n_layer": 2}', "appears twice"),
    ],
)
def test_bad_config(content: bytes, message: str, tmp_path: Path) -> None:
    """Catches a damaged config.json, or an error that does not name the file."""
    write_checkpoint(tmp_path, CONFIG, TENSORS)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_file(missing: str, tmp_path: Path) -> None:
    """Catches an incomplete directory, and an error that does not say what is missing."""
    write_checkpoint(tmp_path, CONFIG, TENSORS)
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{missing} is missing"):
        open_checkpoint(tmp_path)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    """Catches an unknown directory, file or path that is tried as something else."""
    for path in (tmp_path, Path(__file__)):
        with pytest.raises(CheckpointError, match=r"It reads: .*a directory with config\.json"):
            open_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such file or directory"):
        open_checkpoint(tmp_path / "nothing")


def test_tokenizer_files(tmp_path: Path) -> None:
    """Catches a tokenizer file that is lost, or a stranger taken along."""
    write_checkpoint(tmp_path, CONFIG, TENSORS)
    (tmp_path / "vocab.json").write_bytes(b"{}")
    (tmp_path / "special_tokens_map.json").write_bytes(b"\xff")
    (tmp_path / "README.md").write_bytes(b"#")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tokenizer_files == {
            "vocab.json": b"{}",
            "special_tokens_map.json": b"\xff",
        }


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("head", ["tied", "untied", "body"])
def test_written_by_transformers(sharded: bool, dtype: str, head: str, tmp_path: Path) -> None:
    """Catches a directory of save_pretrained that is refused, or a weight read wrongly."""
    torch = pytest.importorskip("torch", reason="the oracle needs torch")
    transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
    config = transformers.GPT2Config(**hf_config(tie_word_embeddings=head != "untied"))
    kind = transformers.GPT2Model if head == "body" else transformers.GPT2LMHeadModel
    model = kind(config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size="20KB" if sharded else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    expected = {
        name.removeprefix("transformer."): values.float().numpy()
        for name, values in model.state_dict().items()
        if head == "untied" or name != "lm_head.weight"
    }
    with open_checkpoint(tmp_path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(expected)
        for name, values in expected.items():
            assert np.array_equal(checkpoint.read(name), values)
