"""Rules and filters against transformers' logits processors, one by one, on random rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast import _generate
from gpt2fast.generation.rules import native_rules
from gpt2fast.sampling import Options

torch = pytest.importorskip("torch", reason="torch is not installed")
theirs = pytest.importorskip(
    "transformers.generation.logits_process", reason="transformers is not installed"
)

Row = NDArray[np.float32]
N_VOCAB, STOPS = 40, [3, 8]
RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "repetition_penalty": (
        {"repetition_penalty": 1.3},
        lambda _: theirs.RepetitionPenaltyLogitsProcessor(1.3),
    ),
    "no_repeat_ngram 1": ({"no_repeat_ngram": 1}, lambda _: theirs.NoRepeatNGramLogitsProcessor(1)),
    "no_repeat_ngram 3": ({"no_repeat_ngram": 3}, lambda _: theirs.NoRepeatNGramLogitsProcessor(3)),
    "bad_tokens": (
        {"bad_tokens": [5, [1, 2], [0, 0, 1]]},
        lambda _: theirs.NoBadWordsLogitsProcessor([[5], [1, 2], [0, 0, 1]]),
    ),
    "logit_bias": (
        {"logit_bias": {4: -2.5, 7: 10.0, 9: -np.inf}},
        lambda _: theirs.SequenceBiasLogitsProcessor({(4,): -2.5, (7,): 10.0, (9,): -np.inf}),
    ),
    "min_new_tokens": (
        {"min_new_tokens": 2},
        lambda n_prompt: theirs.MinNewTokensLengthLogitsProcessor(n_prompt, 2, STOPS),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_are_theirs(name: str) -> None:
    """Catches a definition that differs from the one users know: equal bits in 300 texts."""
    options, make = RULES[name]
    rng = np.random.default_rng(1)
    engine: Any = SimpleNamespace(config=SimpleNamespace(n_vocab=N_VOCAB))
    rules = native_rules(engine, Options(**options))
    assert rules is not None
    for _ in range(300):
        row = rng.normal(0, 5, N_VOCAB).astype(np.float32)
        tokens = rng.integers(0, 4, rng.integers(4, 60)).astype(np.int32)
        n_new = int(rng.integers(0, 4))
        processor = make(tokens.size - n_new)
        ids = torch.tensor(tokens[None].astype(np.int64))
        expected = processor(ids, torch.tensor(row[None].copy()))[0].numpy()
        got = _generate.adjusted(row, rules, tokens, n_new, np.array(STOPS, np.int32))
        np.testing.assert_array_equal(np.array(got, np.float32), expected)


FILTERS: dict[str, Any] = {
    "top_k": (5, lambda k: theirs.TopKLogitsWarper(k)),
    "top_p": (0.8, lambda p: theirs.TopPLogitsWarper(p)),
    "min_p": (0.05, lambda p: theirs.MinPLogitsWarper(p)),
    "typical_p": (0.7, lambda p: theirs.TypicalLogitsWarper(p)),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_what_theirs_keep(name: str) -> None:
    """Catches another set of tokens in 300 rows without ties."""
    value, make = FILTERS[name]
    rng = np.random.default_rng(2)
    differing = 0
    for _ in range(300):
        row = rng.normal(0, 2, int(rng.integers(6, 400))).astype(np.float32)
        scores = make(value)(None, torch.tensor(row[None].copy()))[0].numpy()
        kept = set(_generate.filtered(row, **{name: value}))
        differing += kept != set(np.flatnonzero(scores > -np.inf).tolist())
    assert differing <= 1  # a boundary within rounding of the other's sums
