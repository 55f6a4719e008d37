"""Fidelity: catches a stream that is not the model, a wrong formula, a sum that follows threads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer
from numpy.typing import NDArray
from oracle import oracle_model
from random_checkpoints import (
    VARIANTS,
    config_from_huggingface,
    huggingface_config,
    read_safetensors,
)
from random_checkpoints import random_tensors as tensors_of

import gpt2fast
from gpt2fast.checkpoints.packed import DTYPES, open_packed
from gpt2fast.checkpoints.receipt import Fidelity
from gpt2fast.config import Config
from gpt2fast.conversion import comparison, passage, quantization
from gpt2fast.conversion.convert import convert

CONFIG = hf_config()
TENSORS = random_tensors(Config.from_huggingface(CONFIG).tensor_shapes())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small checkpoint with tokenizer."""
    directory = write_checkpoint(tmp_path / "little", CONFIG, TENSORS)
    write_tokenizer(directory)
    return directory


def fidelity_of(path: Path) -> Fidelity:
    fidelity = open_packed(path).receipt.fidelity
    assert fidelity is not None
    return fidelity


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_streams_are_the_models(
    variant: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a stream that is not, bit for bit, what a model of that dtype computes."""
    config = VARIANTS[variant]
    source = write_checkpoint(tmp_path / "m", huggingface_config(config), tensors_of(config))
    seen: dict[str, list[NDArray[np.float32]]] = {"float32": [], dtype: []}
    logits = comparison.Activations.logits

    def record(self: comparison.Activations, rows: slice) -> NDArray[np.float32]:
        seen[self._dtype].append(logits(self, rows))
        return seen[self._dtype][-1]

    monkeypatch.setattr(comparison.Activations, "logits", record)
    convert(source, tmp_path / "packed.safetensors", dtype=dtype)
    ids, _ = passage.passage(open_packed(tmp_path / "packed.safetensors").config, None)
    for kind, path in (("float32", source), (dtype, tmp_path / "packed.safetensors")):
        with gpt2fast.load(path, dtype=kind, threads=1) as model:
            assert np.array_equal(np.concatenate(seen[kind]), model.logits(ids))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    logs: NDArray[np.float64] = np.log(shifted / shifted.sum(axis=1, keepdims=True))
    return logs


@pytest.mark.parametrize("dtype", DTYPES)
def test_fidelity(
    dtype: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a wrong formula, a position left out at the end of a slab."""
    path = tmp_path / "packed.safetensors"
    monkeypatch.setattr(comparison, "_SLAB", 1500)  # 5 of the 13 positions
    receipt = convert(source, path, dtype=dtype)
    found = fidelity_of(path)
    assert found == receipt.fidelity
    exact, packed = gpt2fast.load(source, dtype="float32"), gpt2fast.load(path)
    ids = exact.tokenizer.encode(passage._TEXT)[:13]
    p, q = log_softmax(exact.logits(ids)), log_softmax(packed.logits(ids))
    divergence = (np.exp(p) * (p - q)).sum(axis=1)
    assert found.kl_divergence == pytest.approx(divergence.mean(), rel=1e-3, abs=1e-12)
    assert found.top1_agreement == round(float((p.argmax(1) == q.argmax(1)).mean()), 4)
    for name, log in (("perplexity_float32", p), ("perplexity", q)):
        expected = np.prod([np.exp(-log[i, ids[i + 1]] / 12) for i in range(12)])
        assert getattr(found, name) == pytest.approx(expected, rel=1e-5)
    assert (found.tokens, found.text) == (13, passage.ENGLISH)
    assert (divergence.mean() == 0.0) == (dtype == "float32")


def test_divergence_has_a_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches p and q exchanged, which models that are close to each other do not tell."""
    rng = np.random.default_rng(0)
    logits = {name: rng.normal(0, 3, (4, 300)).astype(np.float32) for name in ("float32", "int8")}
    monkeypatch.setattr(
        comparison.Activations, "logits", lambda self, rows: logits[self._dtype][rows]
    )
    config = Config.from_huggingface(CONFIG)
    both = comparison.Comparison(config, "int8", np.arange(4, dtype=np.int32), "digits", 1)
    p, q = log_softmax(logits["float32"]), log_softmax(logits["int8"])
    expected = (np.exp(p) * (p - q)).sum() / 4
    assert abs(expected - (np.exp(q) * (q - p)).sum() / 4) > 0.1
    assert both.result().kl_divergence == pytest.approx(expected, rel=1e-3)


def test_perplexity_is_that_of_transformers(test_data: Path, tmp_path: Path) -> None:
    """Catches a perplexity over other predictions than everybody's."""
    source = test_data / "models" / "tales"
    found = convert(source, tmp_path / "p.safetensors").fidelity
    assert found is not None and found.tokens == 256
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    model = oracle_model(
        config_from_huggingface(config), read_safetensors(source / "model.safetensors"), double=True
    )
    import torch

    ids = torch.tensor([gpt2fast.load().tokenizer.encode(passage._TEXT)[:256]])
    with torch.inference_mode():
        expected = float(torch.exp(model(ids, labels=ids).loss))
    assert found.perplexity_float32 == pytest.approx(expected, rel=1e-5)
    assert found.perplexity == pytest.approx(expected, rel=5e-3)
    assert 1e-4 < (found.kl_divergence or 0) < 5e-3
    assert 0.95 < (found.top1_agreement or 0) < 1


def test_text_fills_the_tokens() -> None:
    """Catches a text too short for 256 tokens, or one that an edit changed, and every receipt."""
    tokenizer = gpt2fast.load().tokenizer
    assert len(tokenizer.encode(passage._TEXT)) >= 256
    assert len(passage._TEXT) > 4.7 * 256  # GPT-2 has 4.3 letters a token here
    digest = hashlib.sha256(passage._TEXT.encode()).hexdigest()
    assert digest == "3f55a633ba520d0d229d0924ce18a2faa25442f78be19716f032d155812a588b"


@pytest.mark.parametrize(("n_ctx", "n"), [(1, 1), (2, 2), (13, 13), (256, 256), (300, 256)])
def test_tokens_without_a_tokenizer(n_ctx: int, n: int, tmp_path: Path) -> None:
    """Catches ids that change with NumPy, leave the vocabulary, or are more than the context."""
    config = hf_config(n_positions=n_ctx)
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(tmp_path / "m", config, tensors)
    found = convert(source, tmp_path / "p.safetensors").fidelity
    assert found is not None
    assert (found.tokens, found.text) == (n, passage.RANDOM_IDS)
    assert (found.perplexity is None) == (found.perplexity_float32 is None) == (n == 1)
    assert found.kl_divergence is not None and 0 < found.kl_divergence < 0.1
    ids, _ = passage.passage(Config.from_huggingface(config), None)
    first = [int.from_bytes(hashlib.sha256(b"%d" % i).digest()[:8], "little") for i in (0, 1)]
    assert ids[:2].tolist() == [draw % 300 for draw in first][:n]


def test_fewer_tokens_than_the_context() -> None:
    """Catches a text that a vocabulary packs into fewer than 256 tokens."""
    config = Config.from_huggingface(hf_config(n_positions=300))

    class Words:
        def encode(self, text: str) -> list[int]:
            return list(range(len(text.split()) // 2))

    ids, text = passage.passage(config, Words())  # type: ignore[arg-type]
    assert text == passage.ENGLISH and 100 < len(ids) < 200


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_one_file(
    dtype: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a sum, or an order of slabs, that follows the threads."""
    monkeypatch.setattr(quantization, "_SLAB", 1)
    files = set()
    for threads in ("1", "2", "7"):
        monkeypatch.setenv("GPT2FAST_THREADS", threads)
        convert(source, tmp_path / "p.safetensors", dtype=dtype)
        files.add((tmp_path / "p.safetensors").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_logits_that_are_not_finite(dtype: str, tmp_path: Path) -> None:
    """Catches NaN in a receipt, a warning, or a refusal to convert what can be stored."""
    names = ("wpe.weight", "h.0.attn.c_proj.bias")  # whose sum is infinite
    tensors = {**TENSORS, **{name: TENSORS[name].copy() for name in names}}
    for name in names:
        tensors[name][..., 0] = 3e38
    source = write_checkpoint(tmp_path / "m", CONFIG, tensors)
    receipt = convert(source, tmp_path / "p.safetensors", dtype=dtype)
    assert receipt.fidelity == Fidelity(13, passage.RANDOM_IDS, None, None, None, None)
    assert fidelity_of(tmp_path / "p.safetensors") == receipt.fidelity
    assert "KL divergence not finite" in str(receipt)


def test_perplexity_beyond_all_numbers(tmp_path: Path) -> None:
    """Catches an overflow: a model certain of the wrong token."""
    tensors = {**TENSORS, "ln_f.weight": TENSORS["ln_f.weight"] * np.float32(1e6)}
    source = write_checkpoint(tmp_path / "m", CONFIG, tensors)
    found = convert(source, tmp_path / "p.safetensors").fidelity
    assert found is not None and found.kl_divergence is not None
    assert found.perplexity is None and found.perplexity_float32 is None
