"""Mirostat: each token against its definition, and the surprise that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_sampling import exact

import gpt2fast
from gpt2fast import _core, _generate
from gpt2fast.generation import Writing
from gpt2fast.generation.plan import Plan
from gpt2fast.sampling import Options

LOG_2 = 0.6931471805599453


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def log(value: int) -> float:
    return float(_core.log(np.array([value], np.float32))[0])


@pytest.mark.parametrize(("tau", "eta"), [(2.0, 0.1), (4.0, 1.0), (0.5, 0.3), (3.0, 0.0)])
def test_tokens_are_those_drawn_by_hand(model: gpt2fast.Model, tau: float, eta: float) -> None:
    """Catches a mu that is not moved, is moved by another surprise, or cuts at another place."""
    prompt = model.tokenizer.encode("Once upon a time")
    options = Options(
        mirostat_tau=tau, mirostat_eta=eta, temperature=0.9, seed=3, max_new_tokens=40,
        ignore_eot=True,
    )  # fmt: skip
    tokens, mu = list(prompt), 2 * tau
    for _ in range(40):
        row = model.logits(tokens, last_only=True)
        kept = exact(row, temperature=0.9, mirostat_tau=max(mu, 1e-30) / 2)
        goal = _generate.random(3, 0, len(tokens)) * sum(kept.values()) >> 64
        for token in sorted(kept):
            goal -= kept[token]
            if goal < 0:
                break
        tokens.append(token)
        mu -= eta * ((log(sum(kept.values())) - log(kept[token])) / LOG_2 - tau)
    writing = Writing(Plan(model._engine, options), prompt)
    sequence = writing.start(model._engine.core)
    workspace = _generate.Workspace(model.config.n_vocab)
    while sequence.finish_reason is None:
        _generate.run(
            model._engine.core, [sequence], workspace, threads=1, prompt_threads=1, seconds=0.0
        )
    assert writing.drawn == tokens[len(prompt) :]
    assert sequence.mu == mu


@pytest.mark.parametrize("tau", [1.0, 2.0, 3.0])
def test_surprise_is_held(model: gpt2fast.Model, tau: float) -> None:
    """Catches a control with the wrong sign or unit: the mean over 1,500 tokens is near tau bits.

    The surprise is told anew, from the log-probabilities of what mirostat kept.
    """
    options: dict[str, Any] = {"mirostat_tau": tau, "temperature": 1.0, "ignore_eot": True}
    surprises = []
    for seed in range(4):
        done = model.generate("The", seed=seed, max_new_tokens=400, logprobs=1000, **options)
        assert done.logprobs is not None
        mu = 2 * tau
        for _, logprob, top in done.logprobs:
            bits = -logprob / LOG_2
            assert bits <= mu + 1e-4 or logprob == top[0][1]
            kept = sum(np.exp(p) for _, p in top if -p / LOG_2 <= mu) or np.exp(top[0][1])
            surprises.append(bits + float(np.log2(kept)))
            mu -= 0.1 * (surprises[-1] - tau)
    assert abs(np.mean(surprises) - tau) < 0.15


def test_each_text_has_its_own(model: gpt2fast.Model) -> None:
    """Catches a mu that the texts of a batch share, or that a cut call loses."""
    options: dict[str, Any] = {"mirostat_tau": 2.5, "seed": 8, "max_new_tokens": 40}
    prompts = ["Once upon a time", "The king", "a b c"]
    together = model.generate(prompts, **options)
    assert together == [model.generate(prompt, **options) for prompt in prompts]
    stream = model.stream(prompts[1], **options)
    assert [chunk.token for chunk in stream] == together[1].tokens
