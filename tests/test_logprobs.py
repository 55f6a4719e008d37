"""Log-probabilities of what was drawn, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt2fast
from gpt2fast._generate import likeliest

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = row.astype(np.float64) - row.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 3.0, "top_p": 1.0},
        {"top_k": 5, "repetition_penalty": 2.0, "bad_tokens": [5]},
        {"mirostat_tau": 2.0},
        {"forced_tokens": [9, 4095, 0]},
        {"logits_processor": lambda _, logits: np.roll(logits, 1)},
    ],
    ids=lambda options: "-".join(options),
)
def test_they_are_the_models_own(model: gpt2fast.Model, options: dict[str, Any]) -> None:
    """Catches a log-probability after filters, of another row, or of another token.

    The bound: float32 sums over 4,096 tokens, and the rounding of the result.
    """
    done = model.generate(PROMPT, seed=2, max_new_tokens=12, logprobs=7, **options)
    assert done.logprobs is not None
    assert [entry.token for entry in done.logprobs] == done.tokens
    logits = model.logits(done.prompt_tokens + done.tokens)[len(done.prompt_tokens) - 1 :]
    for row, (token, logprob, top) in zip(logits, done.logprobs, strict=False):
        expected = log_softmax(row)
        bound = 1e-6 * (1 + abs(expected[token]))
        assert abs(logprob - expected[token]) < bound
        best = np.lexsort((np.arange(row.size), -row))[:7].tolist()
        assert [other for other, _ in top] == best
        np.testing.assert_allclose([p for _, p in top], expected[best], atol=1e-6, rtol=1e-6)
        if token in best:
            assert top[best.index(token)] == (token, logprob)
    plain = model.generate(PROMPT, seed=2, max_new_tokens=12, **options)
    assert plain.logprobs is None
    assert plain.tokens == done.tokens


def test_alternatives_are_ordered_and_ties_go_by_id() -> None:
    """Catches a heap that loses or misplaces a token, or that prefers the later of two equal."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        row = rng.normal(0, 3, int(rng.integers(1, 200))).astype(np.float32)
        if rng.random() < 0.7:
            row = np.round(row)
        k = int(rng.integers(0, row.size + 1))
        best = np.lexsort((np.arange(row.size), -row))[:k]
        assert likeliest(row, k) == best.tolist()
    for k in (-1, 4):
        with pytest.raises(ValueError, match="allowed: 0 to 3"):
            likeliest(np.zeros(3, np.float32), k)


def test_streams_batches_and_sessions_tell_the_same(model: gpt2fast.Model) -> None:
    """Catches a row of the report that belongs to another text or token."""
    options: dict[str, Any] = {"seed": 4, "max_new_tokens": 20, "logprobs": 2}
    prompts = [PROMPT, "The king", "a"]
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert model.generate(prompts, **options) == alone
    stream = model.stream(PROMPT, **options)
    chunks = list(stream)
    assert alone[0].logprobs is not None
    assert [(c.token, c.logprob, c.top) for c in chunks] == [tuple(e) for e in alone[0].logprobs]
    assert stream.completion == alone[0]
    session = model.session()
    session.append(PROMPT)
    assert session.generate(**options) == alone[0]
    assert next(model.stream(PROMPT, seed=4)).logprob is None


def test_what_was_cut_short_is_complete(model: gpt2fast.Model) -> None:
    """Catches log-probabilities of tokens that were not drawn or not handed out."""
    flag = gpt2fast.CancelFlag()
    stream = model.stream(PROMPT, logprobs=1, cancel=flag, max_new_tokens=200)
    next(stream)  # the first token comes alone, later ones many at a time
    flag.set()
    last = list(stream)[-1]
    assert (last.token, last.logprob, last.top) == (None, None, None)
    done = stream.completion
    assert done.logprobs is not None
    assert [entry.token for entry in done.logprobs] == done.tokens
    closed = model.stream(PROMPT, logprobs=0)
    next(closed)
    closed.close()
    assert closed.completion.logprobs is not None
    assert len(closed.completion.logprobs) == len(closed.completion.tokens) == 1


def test_more_than_the_vocabulary_is_refused(model: gpt2fast.Model) -> None:
    """Catches alternatives read beyond the row, at the limit of a small vocabulary."""
    with pytest.raises(ValueError, match="logprobs is 1001; allowed: an integer from 0 to 1000"):
        model.generate([5], logprobs=1001)
