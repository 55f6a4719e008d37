"""Write a checkpoint of a published size with random weights: speed does not depend on the values.

    python benchmarks/random_checkpoints.py gpt2-xl FOLDER [--seed 1] [--tokenizer FOLDER]

The result has Hugging Face's layout: config.json and model.safetensors (float32), written tensor by
tensor, with the tokenizer's files copied in if a folder of them is given.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SIZES = {  # n_layer, n_head, n_embd
    "distilgpt2": (6, 12, 768),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}
N_VOCAB, N_CTX = 50257, 1024


def shapes(n_layer: int, n_embd: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a GPT-2 of these dimensions, in Conv1D's (inputs, outputs)."""
    yield "wte.weight", (N_VOCAB, n_embd)
    yield "wpe.weight", (N_CTX, n_embd)
    for i in range(n_layer):
        for norm in ("ln_1", "ln_2"):
            yield f"h.{i}.{norm}.weight", (n_embd,)
            yield f"h.{i}.{norm}.bias", (n_embd,)
        for name, n_in, n_out in (
            ("attn.c_attn", n_embd, 3 * n_embd),
            ("attn.c_proj", n_embd, n_embd),
            ("mlp.c_fc", n_embd, 4 * n_embd),
            ("mlp.c_proj", 4 * n_embd, n_embd),
        ):
            yield f"h.{i}.{name}.weight", (n_in, n_out)
            yield f"h.{i}.{name}.bias", (n_out,)
    yield "ln_f.weight", (n_embd,)
    yield "ln_f.bias", (n_embd,)


def parameters(size: str) -> int:
    """Return how many numbers a published size has."""
    n_layer, _, n_embd = SIZES[size]
    return sum(math.prod(shape) for _, shape in shapes(n_layer, n_embd))


def values(name: str, shape: tuple[int, ...], seed: np.random.Generator) -> np.ndarray:
    """Normal with GPT-2's own standard deviations; norms near one and zero."""
    noise = seed.standard_normal(shape, np.float32)
    if "ln_" in name:
        return noise * np.float32(0.1) + np.float32(name.endswith("weight"))
    return noise * np.float32(0.02)


def write(size: str, folder: Path, seed: int = 1, tokenizer: Path | None = None) -> None:
    """Write the checkpoint; one tensor is in memory at a time."""
    n_layer, n_head, n_embd = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": n_layer,
        "n_head": n_head,
        "n_embd": n_embd,
        "n_positions": N_CTX,
        "n_ctx": N_CTX,
        "vocab_size": N_VOCAB,
        "bos_token_id": N_VOCAB - 1,
        "eos_token_id": N_VOCAB - 1,
        "layer_norm_epsilon": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    header, end = {}, 0
    for name, shape in shapes(n_layer, n_embd):
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    generator = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes(n_layer, n_embd):
            values(name, shape, generator).tofile(file)
    for source in tokenizer.iterdir() if tokenizer else ():
        if source.name in ("vocab.json", "merges.txt"):
            shutil.copyfile(source, folder / source.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path)
    options = parser.parse_args()
    write(options.size, options.folder, options.seed, options.tokenizer)


if __name__ == "__main__":
    main()
