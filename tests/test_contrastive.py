"""Contrastive search against its paper, by hidden states computed anew for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import oracle_model, oracle_outputs
from reference import Array

import gpt2fast
from gpt2fast._generate import Workspace, contrast, forward, normalise_rows

PROMPTS = ("Once upon a time", "The king said that he", "It was", "a")
Outputs = Callable[[list[int]], tuple[Array, Array]]  # last hidden states and logits of the tokens


def by_hand(
    outputs: Outputs, prompt: list[int], n_new: int, k: int, alpha: float
) -> tuple[list[int], list[float]]:
    """New tokens and the margin by which each was chosen; float64 from outputs of whole texts."""
    tokens, margins = list(prompt), []
    for _ in range(n_new):
        logits = outputs(tokens)[1][-1].astype(np.float64)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        scores = []
        candidates = np.argsort(-logits, kind="stable")[:k]
        for token in candidates:
            states = outputs([*tokens, int(token)])[0].astype(np.float64)
            states /= np.linalg.norm(states, axis=1, keepdims=True)
            similarity = (states[:-1] @ states[-1]).max()
            scores.append((1 - alpha) * probabilities[token] - alpha * similarity)
        second, best = np.sort(scores)[-2:]
        margins.append(float(best - second))
        tokens.append(int(candidates[int(np.argmax(scores))]))
    return tokens[len(prompt) :], margins


def assert_same(found: list[int], expected: list[int], margins: list[float]) -> None:
    if found != expected:
        step = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        assert margins[step] < 1e-5, (step, margins[step])


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize(("k", "alpha"), [(4, 0.6), (2, 0.3), (9, 1.0)])
def test_texts_are_those_of_the_paper(model: gpt2fast.Model, k: int, alpha: float) -> None:
    """Catches a wrong state, norm, maximum or score at any step of texts written together."""

    def outputs(tokens: list[int]) -> tuple[Array, Array]:
        return model.hidden_states(tokens)[-1], model.logits(tokens)

    texts = model.generate(list(PROMPTS), top_k=k, penalty_alpha=alpha, max_new_tokens=12)
    plain = model.generate(list(PROMPTS), temperature=0, max_new_tokens=12)
    assert [text.tokens for text in texts] != [text.tokens for text in plain]
    for prompt, text in zip(PROMPTS, texts, strict=True):
        expected = by_hand(outputs, model.tokenizer.encode(prompt), 12, k, alpha)
        assert_same(text.tokens, *expected)
        assert text == model.generate(
            prompt, top_k=k, penalty_alpha=alpha, max_new_tokens=12, seed=text.seed
        )


def test_texts_are_those_of_torch(
    test_data: Path, tales: tuple[dict[str, object], dict[str, Array]]
) -> None:
    """Catches states that are not those of the paper's code: the last layer's, after its norm."""
    theirs = oracle_model(*tales)

    def outputs(tokens: list[int]) -> tuple[Array, Array]:
        states, logits = oracle_outputs(theirs, np.array(tokens, np.int32))
        return states[-1], logits

    with gpt2fast.load(test_data / "models" / "tales", dtype="float32", threads=1) as model:
        for prompt in PROMPTS[:2]:
            ids = model.tokenizer.encode(prompt)
            found = model.generate(ids, top_k=5, penalty_alpha=0.6, max_new_tokens=10)
            assert_same(found.tokens, *by_hand(outputs, ids, 10, 5, 0.6))


def test_rules_and_ends(model: gpt2fast.Model) -> None:
    """Catches a token that was ruled out, taken for its novelty, and ends that are passed by."""
    options: dict[str, Any] = {"top_k": 6, "penalty_alpha": 0.9, "max_new_tokens": 20}
    plain = model.generate(PROMPTS[0], **options)
    other = model.generate(PROMPTS[0], bad_tokens=plain.tokens[:5], **options)
    assert not set(other.tokens) & set(plain.tokens[:5])
    left = plain.tokens[0]
    only = [token for token in range(model.config.n_vocab) if token != left]
    assert model.generate(PROMPTS[0], bad_tokens=only, **options).tokens == [left] * 20
    stopped = model.generate(PROMPTS[0], stop_tokens=plain.tokens[3:4], **options)
    assert stopped.tokens == plain.tokens[: plain.tokens.index(plain.tokens[3]) + 1]
    assert stopped.finish_reason == "stop"
    word = model.tokenizer.decode(plain.tokens[4:6])
    cut = model.generate(PROMPTS[0], stop=word, **options)
    assert cut.finish_reason == "stop"
    assert word not in cut.text
    assert plain.text.startswith(cut.text)
    forced = model.generate(PROMPTS[0], forced_tokens=[50, 60], logprobs=1, **options)
    assert forced.tokens[:2] == [50, 60]
    logits = model.logits([*forced.prompt_tokens, *forced.tokens])[len(forced.prompt_tokens) - 1 :]
    for row, entry in zip(logits, forced.logprobs or [], strict=False):
        assert entry.logprob == pytest.approx(
            float(row[entry.token] - row.max() - np.log(np.exp(row - row.max()).sum())), abs=1e-4
        )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunk", [0, 3])
def test_hidden_states_of_a_pass(threads: int, chunk: int) -> None:
    """Catches rows of one text in another's place, and logits that the copies disturb.

    A step, a prompt and a text without copies go together; the copies are those of
    `hidden_states`, the logits those of a pass without.
    """
    rng = np.random.default_rng(1)
    with gpt2fast.load("tales", threads=threads) as model:
        engine, width = model._engine, model.config.n_embd
        texts = [rng.integers(0, 4095, n).astype(np.int32) for n in (5, 8, 13, 4)]
        for new in (1, 4):  # tokens of a text that are left for the pass in question
            hidden: list[Array | None] = []
            caches = [engine.new_cache() for _ in texts]
            logits = [np.empty(model.config.n_vocab, np.float32) for _ in texts]
            options: dict[str, Any] = {
                "threads": threads,
                "prompt_threads": threads,
                "chunk": chunk,
            }
            begins = [0 if i == 1 else len(text) - new for i, text in enumerate(texts)]
            for cache, text, begin in zip(caches, texts, begins, strict=True):
                if begin:
                    free = [np.empty(model.config.n_vocab, np.float32)]
                    forward(engine.core, [cache], [text[:begin]], free, [None], **options)
            left = [text[begin:] for text, begin in zip(texts, begins, strict=True)]
            hidden = [np.zeros((len(part), width), np.float32) for part in left]
            hidden[2] = None
            assert forward(engine.core, caches, left, logits, hidden, **options) is None
            for text, begin, row, copy in zip(texts, begins, logits, hidden, strict=True):
                assert np.array_equal(row, model.logits(text, last_only=True))
                if copy is not None:
                    assert np.array_equal(copy, model.hidden_states(text)[-1][begin:])


def test_arguments_that_do_not_fit(model: gpt2fast.Model) -> None:
    """Catches arrays that the native code would read or write beyond."""
    engine, n, width = model._engine, model.config.n_vocab, model.config.n_embd
    row, ids = np.empty(n, np.float32), np.zeros(3, np.int32)
    cases: list[tuple[Any, ...]] = [
        ([ids], [row[:-1]], [None]),
        ([ids[:0]], [row], [None]),
        ([ids], [row], [np.empty((2, width), np.float32)]),
        ([ids], [row], [np.empty((3, width - 1), np.float32)]),
        ([ids], [row], []),
        ([ids, ids], [row], [None]),
        ([np.array([n], np.int32)], [row], [None]),
    ]
    for arguments in cases:
        with pytest.raises(ValueError):  # noqa: PT011
            forward(engine.core, [engine.new_cache()], *arguments, threads=1, prompt_threads=1)
    with pytest.raises(ValueError, match="do not fit"):
        contrast(np.ones((2, 4), np.float32), row[:2], np.ones((3, 5), np.float32), 3, 0.5)
    with pytest.raises(ValueError, match="do not fit"):
        contrast(np.ones((2, 4), np.float32), row[:2], np.ones((3, 4), np.float32), 4, 0.5)
    zeros = np.zeros((2, 4), np.float32)
    normalise_rows(zeros)
    assert not zeros.any()
    assert Workspace(1)
