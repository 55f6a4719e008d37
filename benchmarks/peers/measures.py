"""What is measured: prompts, how many tokens follow, and what of it counts."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from benchmarks.random_checkpoints import N_VOCAB, SIZES, shapes
from gpt2fast.bench.roofline import Work

_NEW = {"distilgpt2": 64, "gpt2": 64, "gpt2-medium": 48, "gpt2-large": 32, "gpt2-xl": 24}


@dataclass(frozen=True)
class Measure:
    """`prompts` of `length` tokens each; the prompt itself counts, or else the steps after it.

    `scaling` ones are for curves, not for the tables.
    """

    name: str
    label: str
    prompts: int
    length: int
    counts_prompt: bool = False
    scaling: bool = False

    def new(self, size: str) -> int:
        """Return how many tokens are to be generated for each prompt."""
        return 1 if self.counts_prompt else _NEW[size]

    def ids(self, round_: int, repeat: int) -> list[list[int]]:
        """Return prompts: the same for every engine, others in every round and repetition."""
        seed = np.random.default_rng([zlib.crc32(self.name.encode()), round_, repeat])
        ids: list[list[int]] = seed.integers(0, N_VOCAB - 1, (self.prompts, self.length)).tolist()
        return ids

    def rate(self, size: str, first: float, rest: float) -> float:
        """Return tokens per second, of the seconds to the first new token and those after it."""
        if self.counts_prompt:
            return self.prompts * self.length / first
        return self.prompts * (self.new(size) - 1) / rest

    def work(self, size: str, bits: int) -> tuple[Work, int]:
        """Return what a step moves and computes at least, and the tokens it yields.

        Every weight is read once and has `bits`, without scales; operations are those of the linear
        layers. A prompt is one step; its head is needed for the last token only.
        """
        n_embd = SIZES[size][2]
        head = N_VOCAB * n_embd
        blocks = sum(
            int(np.prod(shape))
            for name, shape in shapes(SIZES[size][0], n_embd)
            if name.startswith("h.") and len(shape) == 2
        )
        tokens = self.prompts * (self.length if self.counts_prompt else 1)
        operations = 2 * (tokens * blocks + self.prompts * head)
        dtype = "int8" if bits <= 8 else "float32"
        return Work((blocks + head) * bits // 8, operations, dtype), tokens


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("decode32", "decode after 32", 1, 32),
        Measure("prompt512", "prompt of 512", 1, 512, counts_prompt=True),
        Measure("decode900", "decode after 900", 1, 900),
        Measure("batch8", "8 texts after 32", 8, 32),
        Measure("decode300", "decode after 300", 1, 300, scaling=True),
        Measure("decode600", "decode after 600", 1, 600, scaling=True),
        Measure("batch2", "2 texts after 32", 2, 32, scaling=True),
        Measure("batch4", "4 texts after 32", 4, 32, scaling=True),
    )
}
WARM_UP = Measure("warm-up", "warm-up", 1, 32)
