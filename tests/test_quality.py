"""What int8 costs: perplexity on a trained model, error on real GPT-2 matrices, divergence on a
124M with outliers.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from core_models import all_logits, build
from random_checkpoints import config_of, random_tensors, read_safetensors
from reference import Array, Config, Twin, kl_divergence, log_softmax
from reference_formats import Q80Twin, q8_0

from gpt2fast import _core
from gpt2fast.tokenizer import Tokenizer

CHARACTERS = 25_000  # of each book: about 20,000 tokens in all
WINDOW = 512


def negative_log_likelihood(model: _core.Model, tokens: Array) -> tuple[float, int]:
    """Sum over windows of the loss of every token but a window's first, and their number."""
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, WINDOW):
        window = tokens[start : start + WINDOW]
        scores = log_softmax(all_logits(model, window, threads=2, prompt_threads=2)[:-1])
        total -= float(np.take_along_axis(scores, window[1:, None], axis=1).sum())
        count += len(window) - 1
    return total, count


def test_perplexity_of_int8(
    tales: tuple[dict[str, object], dict[str, Array]], test_data: Path
) -> None:
    """Catches an int8 path that costs more than 0.5% perplexity on text and trained weights."""
    folder = test_data / "models" / "tales"
    files = {name: (folder / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    tokenizer = Tokenizer.from_files(files)
    models = {dtype: build(*tales, dtype) for dtype in ("float32", "int8")}
    loss = dict.fromkeys(models, 0.0)
    count = 0
    for book in sorted((test_data / "data" / "stories-valid").glob("*.txt")):
        text = book.read_text(encoding="utf-8")[:CHARACTERS]
        tokens = np.array(tokenizer.encode(text), np.int32)
        for dtype, model in models.items():
            total, n = negative_log_likelihood(model, tokens)
            loss[dtype] += total
        count += n
    assert count > 15_000
    perplexity = {dtype: np.exp(total / count) for dtype, total in loss.items()}
    assert 30 < perplexity["float32"] < 45  # the model card says 36 at this context
    assert perplexity["int8"] <= 1.005 * perplexity["float32"]


def test_weight_error(test_data: Path) -> None:
    """Catches a packer that is worse on real outliers than 64-blocks must be: at most 1.15 of
    Q8_0's error.
    """
    path = test_data / "data" / "gpt2-124m-attention" / "layers-0-5-11.safetensors"
    ours = theirs = 0.0
    for name, value in read_safetensors(path).items():
        if name.endswith(("c_attn.weight", "c_proj.weight")):
            weight = np.ascontiguousarray(value.T)
            back = _core.unpack(_core.pack(weight, "int8"), "int8", *weight.shape)
            ours += float(np.square(back - weight, dtype=np.float64).sum())
            theirs += float(np.square(q8_0(weight) - weight, dtype=np.float64).sum())
    assert ours > 0
    assert (ours / theirs) ** 0.5 <= 1.15


def planted(shape: tuple[int, ...], like: dict[str, float], rng: np.random.Generator) -> Array:
    """A normal matrix of this mean and deviation, with its smallest and its largest number planted
    in it.
    """
    x = rng.standard_normal(shape, np.float32) * np.float32(like["std"]) + np.float32(like["mean"])
    x.flat[rng.choice(x.size, 2, replace=False)] = [like["min"], like["max"]]
    return x


def statistics(folder: Path) -> dict[str, dict[str, float]]:
    """min, max, mean and std of the real matrices that are not at hand."""
    with (folder / "gpt2-124m-tensor-stats.csv").open() as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        keys = ("min", "max", "mean", "std")
        return {row["tensor"]: {key: float(row[key]) for key in keys} for row in rows}


def stand_in_124m(folder: Path) -> tuple[Config, dict[str, Array]]:
    """A random 124M: each matrix has the real one's statistics and extremes (attention: those of
    the nearest layer at hand); vectors and positions are the real ones, of the nearest layer.

    Harsher than this is the real attention in place of the random: its inputs have outliers in a
    few dimensions, which blocks of 64 pay for more dearly than blocks of 32 (1.6 times Q8_0's
    divergence).
    """
    config = config_of(n_layer=12, n_head=12, n_embd=768, n_ctx=1024, n_vocab=50257)
    real = read_safetensors(folder / "layers-0-5-11.safetensors")
    known = statistics(folder)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, value in random_tensors({**config, "n_vocab": 1}).items():
        shape = (50257, 768) if name == "wte.weight" else value.shape
        layer = int(name.split(".")[1]) if name.startswith("h.") else 0
        nearest = 0 if layer < 3 else 5 if layer < 8 else 11
        twin = real.get(name.replace(f"h.{layer}.", f"h.{nearest}."))
        if name in known:
            tensors[name] = planted(shape, known[name], rng)
        elif twin is not None and name.endswith((".c_attn.weight", ".c_proj.weight")):
            like = {"min": twin.min(), "max": twin.max(), "mean": twin.mean(), "std": twin.std()}
            tensors[name] = planted(shape, like, rng)
        else:
            assert twin is not None, name
            tensors[name] = twin
    return config, tensors


@pytest.mark.large
def test_divergence_on_124m(test_data: Path) -> None:
    """Catches an int8 forward pass that loses more than 1.3 times what llama.cpp's Q8_0 does."""
    config, tensors = stand_in_124m(test_data / "data" / "gpt2-124m-attention")
    twin, q8_0_twin = Twin(config, tensors, np.float32), Q80Twin(config, tensors)
    model = build(config, tensors, "int8")
    ours = theirs = 0.0
    for seed in range(1, 6):  # one sequence of 128 says little: its ratio lies between 1.1 and 1.45
        tokens = np.random.default_rng(seed).integers(0, 50257, 128).astype(np.int32)
        truth = twin.logits(tokens)
        theirs += kl_divergence(truth, q8_0_twin.logits(tokens))
        ours += kl_divergence(truth, all_logits(model, tokens, threads=2, prompt_threads=2))
    assert 0 < ours <= 1.3 * theirs
