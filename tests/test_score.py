"""`Model.score`: against NumPy in float64, transformers, itself in other batches, and bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array
from reference import score as expected

import gpt2fast
from gpt2fast.model import Model

TEXT = "Once upon a time there was a king who had three sons. The café was closed 🐈, they said."
CONTEXT = "An old woman told this to her children. "
EOT = 4095  # of tales


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with gpt2fast.load("tales", threads=2) as loaded:
        yield loaded


def assert_is(score: gpt2fast.Score, want: dict[str, Array], first: int = 0) -> None:
    for name in ("ranks", "likeliest"):
        np.testing.assert_array_equal(getattr(score, name)[first:], want[name])
    for name in ("logprobs", "entropies"):
        np.testing.assert_allclose(getattr(score, name)[first:], want[name], rtol=1e-5, atol=1e-5)


def same(a: gpt2fast.Score, b: gpt2fast.Score) -> bool:
    """Whether two scores have the same bits."""
    return a.tokens == b.tokens and all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes()
        for name in ("logprobs", "ranks", "entropies", "likeliest")
    )


def test_score_of_a_text(model: Model) -> None:
    """Catches a row that belongs to another token, and what is made of logits in another way."""
    score = model.score(TEXT)
    tokens = np.array(score.tokens)
    assert_is(score, expected(model.logits(tokens)[:-1], tokens[1:]), first=1)
    assert score.tokens == model.tokenizer.encode(TEXT)
    assert "".join(score.pieces) == TEXT and len(score.pieces) == len(tokens)
    assert np.isnan(score.logprobs[0]) and np.isnan(score.entropies[0])
    assert (score.ranks[0], score.likeliest[0]) == (-1, -1)
    assert score.logprob == pytest.approx(score.logprobs[1:].sum(), rel=1e-5)
    assert score.perplexity == pytest.approx(np.exp(-score.logprobs[1:].mean()), rel=1e-5)
    dtypes = [a.dtype for a in (score.logprobs, score.entropies, score.ranks, score.likeliest)]
    assert dtypes == [np.float32, np.float32, np.int32, np.int32]


@pytest.mark.parametrize("bos", [False, True])
def test_score_after_a_context(model: Model, bos: bool) -> None:
    """Catches a context that is scored, forgotten, or put in the wrong place beside bos."""
    score = model.score(TEXT, context=CONTEXT, bos=bos)
    before = [*[EOT] * bos, *model.tokenizer.encode(CONTEXT)]
    assert score.tokens == model.tokenizer.encode(TEXT)
    rows = model.logits([*before, *score.tokens])[len(before) - 1 : -1]
    assert_is(score, expected(rows, np.array(score.tokens)))


def test_bos_scores_the_first_token(model: Model) -> None:
    """Catches a first token that stays without a score, and bos among the tokens."""
    score = model.score(TEXT, bos=True)
    assert score.tokens == model.tokenizer.encode(TEXT)
    rows = model.logits([EOT, *score.tokens])[:-1]
    assert_is(score, expected(rows, np.array(score.tokens)))
    assert same(score, model.score(TEXT, context=[EOT]))


def test_logprobs_are_those_of_generate(model: Model) -> None:
    """Catches a log-probability that differs by a bit from the one that generation reports."""
    done = model.generate(CONTEXT, max_new_tokens=40, seed=5, logprobs=0, ignore_eot=True)
    assert done.logprobs is not None
    score = model.score(done.tokens, context=CONTEXT)
    assert score.logprobs.tolist() == [entry.logprob for entry in done.logprobs]


def test_greedy_text_has_rank_0(model: Model) -> None:
    """Catches a greedy continuation that is not told as one, and others that are."""
    done = model.generate(CONTEXT, max_new_tokens=30, temperature=0, ignore_eot=True)
    score = model.score(done.tokens, context=CONTEXT)
    assert score.is_greedy and not score.ranks.any()
    assert score.likeliest.tolist() == done.tokens
    assert not model.score([done.tokens[0], 7], context=CONTEXT).is_greedy


def test_second_likeliest_is_not_greedy(model: Model) -> None:
    """Catches a text that is told as greedy though one token has rank 1."""
    score = model.score([1, 2, 3])
    for ranks, greedy in (([-1, 0, 0], True), ([-1, 0, 1], False), ([1, 0, 0], False)):
        changed = dataclasses.replace(score, ranks=np.array(ranks, np.int32))
        assert changed.is_greedy == greedy


def test_one_token(model: Model) -> None:
    """Catches a failure where there is nothing to predict."""
    score = model.score([5])
    assert (score.tokens, len(score.logprobs), score.logprob) == ([5], 1, 0.0)
    assert np.isnan(score.perplexity) and score.is_greedy


def test_whole_context_and_one_more(model: Model) -> None:
    """Catches a limit that is off by one: the last token is not read."""
    n = model.config.n_ctx
    tokens = (model.tokenizer.encode(TEXT) * 40)[: n + 1]
    score = model.score(tokens)
    assert len(score.logprobs) == n + 1
    assert_is(score, expected(model.logits(tokens[:n]), np.array(tokens[1:])), first=1)
    after = model.score(tokens[9:], context=tokens[:9])
    assert after.logprobs.tobytes() == score.logprobs[9:].tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), 'the text to score is "".*a token at least'),
        (([],), "the list of token ids is empty"),
        (([4096],), "token 0 is 4096; allowed: 0 to 4095"),
        (([-1],), "token 0 is -1"),
        (([1.5],), "flat sequence of integers"),
        ((None,), "flat sequence of integers"),
        ((5,), "flat sequence of integers"),
        (([["a"]],), "flat sequence of integers"),
        ((["a", 5],), "a list of prompts holds 5"),
        (([3] * 514,), "514 tokens to score, but at most 513.*perplexity"),
    ],
)
def test_bad_texts(model: Model, arguments: tuple[Any], message: str) -> None:
    """Catches a bad text that is scored, or refused without saying what is allowed."""
    with pytest.raises(ValueError, match=message):
        model.score(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": []}, "the list of token ids is empty"),
        ({"context": [-1]}, "token 0 is -1"),
        ({"context": 5}, "flat sequence of integers"),
        ({"context": ["a", "b"]}, "context is a list of 2; allowed: one, or a list of 1"),
        ({"context": [3] * 513}, "1 tokens to score after 513, but at most 513 together"),
        ({"context": [3] * 512, "bos": True}, "1 tokens to score after 513"),
        ({"bos": 1}, "bos is 1; allowed: True or False"),
        ({"bos": None}, "bos is None"),
    ],
)
def test_bad_options(model: Model, options: dict[str, Any], message: str) -> None:
    """Catches an option out of range that is taken, or an error that does not name it."""
    with pytest.raises(ValueError, match=message):
        model.score([5], **options)


def test_closed_model() -> None:
    """Catches work with weights that are gone."""
    with gpt2fast.load("tales", threads=1) as loaded:
        pass
    with pytest.raises(ValueError, match="closed"):
        loaded.score(TEXT)
    with pytest.raises(ValueError, match="closed"):
        loaded.perplexity(TEXT)


def test_transformers_agrees(test_data: Path) -> None:
    """Catches scores that are not those of the published model code."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    source = str(test_data / "models" / "tales")
    oracle = transformers.GPT2LMHeadModel.from_pretrained(source).eval()
    with gpt2fast.load(source, dtype="float32", threads=2) as exact:
        score = exact.score(TEXT, context=CONTEXT)
        tokens = [*exact.tokenizer.encode(CONTEXT), *score.tokens]
    with torch.inference_mode():
        logits = oracle(torch.tensor([tokens])).logits[0].numpy()
    want = expected(logits[-len(score.tokens) - 1 : -1], np.array(score.tokens))
    np.testing.assert_array_equal(score.ranks, want["ranks"])
    np.testing.assert_array_equal(score.likeliest, want["likeliest"])
    np.testing.assert_allclose(score.logprobs, want["logprobs"], atol=2e-4)
    np.testing.assert_allclose(score.entropies, want["entropies"], atol=2e-4)
