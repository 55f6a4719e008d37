"""gpt2fast as an engine: its public interface, as everybody uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gpt2fast
from benchmarks.peers.protocol import Generated, serve
from benchmarks.peers.weights import finished

FILE = "model.safetensors"


class Gpt2fast:
    """A packed file; the format is its own."""

    def __init__(self, model: Path, _format: str, threads: int) -> None:
        self._model = gpt2fast.load(model / FILE, threads=threads, prefix_cache=0)
        self.version = f"{gpt2fast.__version__} {self._model.target}"

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        completions = self._model.generate(
            prompts, max_new_tokens=new, temperature=0, ignore_eot=True
        )
        timings = completions[0].timings
        tokens = [completion.tokens for completion in completions]
        return Generated(tokens, timings.prompt_seconds, timings.decode_seconds)

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        return self._model.logits(tokens)


def convert(checkpoint: Path, model: Path, dtype: str) -> None:
    """Write `model`, a folder with the packed file."""
    with finished(model) as folder:
        gpt2fast.convert(checkpoint, folder / FILE, dtype=dtype)


if __name__ == "__main__":
    serve(Gpt2fast)
