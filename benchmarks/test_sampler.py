"""Drawing one of GPT-2's 50,257 tokens. Logits are read once, from a cache: above 100% is right."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from benchmarks.measure import Measure
from benchmarks.random_checkpoints import N_VOCAB
from gpt2fast import _generate
from gpt2fast.bench.roofline import Work

pytestmark = pytest.mark.usefixtures("target")

OPTIONS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 0.8},
    "top_k": {"temperature": 0.8, "top_k": 40},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "min_p": {"temperature": 0.8, "min_p": 0.05},
    "typical_p": {"temperature": 0.8, "typical_p": 0.9},
    "mirostat": {"temperature": 0.8, "mirostat_tau": 3.0},
}


@pytest.mark.parametrize("shape", ["flat", "peaked"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_sample(measure: Measure, options: dict[str, float], shape: str) -> None:
    """Logits of a random model (flat) or of a trained one's spread (peaked)."""
    spread = 0.5 if shape == "flat" else 4.0
    logits = np.random.default_rng(0).standard_normal(N_VOCAB, np.float32) * np.float32(spread)
    workspace = _generate.Workspace(N_VOCAB)
    positions = count()

    def sample() -> int:
        random = _generate.random(1, 0, next(positions))
        return _generate.sample(logits, random, workspace, **options)

    drawn = {sample() for _ in range(20)}
    if options["temperature"] == 0:
        assert drawn == {int(logits.argmax())}
    else:
        assert drawn <= _generate.filtered(logits, **options).keys()
    measure(sample, Work(logits.nbytes))
