"""The rules that change logits, against their definitions in Python, and in generated texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt2fast
from gpt2fast._generate import adjusted
from gpt2fast.generation.rules import native_rules
from gpt2fast.sampling import Options

Row = NDArray[np.float32]
STOPS = [3, 8]
RULES: dict[str, dict[str, Sequence[Any]]] = {
    "repetition": {"repetition_penalty": (0.5, 1.1, 3.0)},
    "presence": {"presence_penalty": (-2.0, 0.3, 100.0)},
    "frequency": {"frequency_penalty": (-2.0, 0.3, 1.7)},
    "no_repeat_ngram": {"no_repeat_ngram": (1, 2, 3, 4, 5)},
    "dry": {
        "dry_multiplier": (0.8, 5.0),
        "dry_base": (1.0, 1.75, 10.0),
        "dry_allowed_length": (1, 2, 4),
        "dry_breakers": ((), (0,), (1, 2)),
    },
    "logit_bias": {"logit_bias": ({}, {4: -1000.0, 9: 1000.0}, {1: -np.inf, 0: 0.25})},
    "bad_tokens": {"bad_tokens": ((5,), ([1], [0, 2], [1, 0, 2], [0, 0, 0, 0]), ([2, 2],) * 3)},
    "min_new_tokens": {"min_new_tokens": (1, 2, 3)},
}
RULES["all"] = {name: values for rule in RULES.values() for name, values in rule.items()}


def by_definition(row: Row, tokens: list[int], n_new: int, o: Options) -> Row:
    """The rules one after the other in float32, as `Options` says."""
    row = row.copy()
    recent = tokens[-o.penalty_window :] if o.penalty_window else tokens
    for token, bias in o.logit_bias.items():
        row[token] += np.float32(bias)
    for token, count in Counter(recent).items():
        penalty = np.float32(o.repetition_penalty)
        row[token] = row[token] * penalty if row[token] < 0 else row[token] / penalty
        row[token] -= np.float32(count) * np.float32(o.frequency_penalty) + np.float32(
            o.presence_penalty
        )
    for token, length in repetitions(recent, set(o.dry_breakers)).items():
        if o.dry_multiplier and length >= o.dry_allowed_length:
            lost = o.dry_multiplier
            for _ in range(length - o.dry_allowed_length):
                lost = min(lost * o.dry_base, 1e30)
            row[token] -= np.float32(lost)
    if size := o.no_repeat_ngram:
        grams = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
        end = tuple(tokens[len(tokens) - size + 1 :])
        row[[gram[-1] for gram in grams if gram[:-1] == end]] = -np.inf
    bad: Any = o.bad_tokens
    for *before, token in bad:
        if not before or tokens[-len(before) :] == before:
            row[token] = -np.inf
    if n_new < o.min_new_tokens:
        row[STOPS] = -np.inf
    return row


def repetitions(tokens: list[int], breakers: set[Any]) -> dict[int, int]:
    """{token: length of the longest end of the text that it follows elsewhere}, 50 at most."""
    found: dict[int, int] = {}
    for length in range(1, min(len(tokens), 50) + 1):
        end = tokens[-length:]
        if breakers & set(end):
            break
        for i in range(len(tokens) - length):
            if tokens[i : i + length] == end and tokens[i + length] not in breakers:
                found[tokens[i + length]] = length
    return found


@pytest.mark.parametrize("name", RULES)
def test_rules_are_what_they_are_defined_as(name: str) -> None:
    """Catches a wrong logit in 1,000 texts per rule, of few letters and so full of repetitions."""
    rng = np.random.default_rng(3)
    n_vocab, changed = 12, 0
    engine: Any = SimpleNamespace(config=SimpleNamespace(n_vocab=n_vocab))
    for _ in range(1000):
        given = {
            option: values[int(rng.integers(len(values)))] for option, values in RULES[name].items()
        }
        options = Options(penalty_window=int(rng.choice([0, 1, 2, 7, 100])), **given)
        row = (rng.normal(0, 5, n_vocab)).astype(np.float32)
        if rng.random() < 0.2:
            row[rng.integers(n_vocab)] = -np.inf
        tokens = rng.integers(0, rng.integers(1, 6), rng.integers(1, 120)).astype(np.int32)
        rules = native_rules(engine, options)
        if rules is None:
            continue
        n_new = int(rng.integers(0, 4))
        got = adjusted(row, rules, tokens, n_new, np.array(STOPS, np.int32))
        expected = by_definition(row, tokens.tolist(), n_new, options)
        np.testing.assert_array_equal(np.array(got, np.float32), expected)
        changed += not np.array_equal(row, expected)
    assert changed > 200


def test_extreme_logits_stay_finite() -> None:
    """Catches an overflow that the next filter takes for damaged weights."""
    engine: Any = SimpleNamespace(config=SimpleNamespace(n_vocab=4))
    options = Options(repetition_penalty=0.01, frequency_penalty=-100, logit_bias={0: 1000})
    rules = native_rules(engine, options)
    assert rules is not None
    largest = np.finfo(np.float32).max
    row = np.array([largest, -largest, -np.inf, 0], np.float32)
    got = adjusted(row, rules, np.array([0, 1, 2, 2], np.int32), 0, np.array([], np.int32))
    assert got[0] == largest
    assert got[2] == -np.inf
    assert np.isfinite(got[1])


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 150, "ignore_eot": True}
EVERYTHING: dict[str, Any] = {
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.05,
    "penalty_window": 64,
    "no_repeat_ngram": 5,
    "dry_multiplier": 0.8,
    "logit_bias": {5: 1.5},
    "bad_tokens": [7, [8, 9]],
    "forced_tokens": [20, 21],
    "min_new_tokens": 10,
    "typical_p": 0.95,
}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_stands_twice(model: gpt2fast.Model, size: int) -> None:
    """Catches a rule that sees the prompt or the new text only, or an older state of it."""
    prompt = model.tokenizer.encode("The cat and the dog and the cat")
    done = model.generate(prompt, no_repeat_ngram=size, **GREEDY)
    text = prompt + done.tokens
    before = len(prompt) - size + 1
    grams = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    assert len(set(grams[before:])) == len(grams[before:])
    assert not set(grams[before:]) & set(grams[:before])


def test_penalties_lower_repetition(model: gpt2fast.Model) -> None:
    """Catches penalties that do not reach the draw."""

    def repeated(**options: Any) -> float:
        tokens = model.generate("The king said", **options, **GREEDY).tokens
        pairs = Counter(pairwise(tokens))
        return 1 - len(pairs) / sum(pairs.values())

    plain = repeated()
    for options in (
        {"repetition_penalty": 1.3},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 1.0},
        {"dry_multiplier": 2.0},
    ):
        assert repeated(**options) < 0.6 * plain


def test_breakers_are_tokens_that_contain_the_text(model: gpt2fast.Model) -> None:
    """Catches breakers matched as whole tokens only, which two line ends in one token are not."""
    from gpt2fast.generation.rules import _breakers

    tokenizer = model.tokenizer
    mask = _breakers(model._engine, ["\n", 5])
    found = {token for token in range(tokenizer.n_vocab) if b"\n" in tokenizer.token_bytes(token)}
    assert set(np.flatnonzero(mask).tolist()) == found | {5}


def test_everything_at_once_is_one_text_however_written(model: gpt2fast.Model) -> None:
    """Catches rules with a memory: batch, stream, session and threads must not matter."""
    options: dict[str, Any] = {**EVERYTHING, "seed": 5, "max_new_tokens": 40}
    prompts = ["Once upon a time", "The king and the", "a"]
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert model.generate(prompts, **options) == alone
    stream = model.stream(prompts[0], **options)
    assert [chunk.token for chunk in stream] == alone[0].tokens
    session = model.session()
    session.append(prompts[0])
    assert session.generate(**options) == alone[0]
    with gpt2fast.load("tales", threads=3) as other:
        assert other.generate(prompts[0], **options) == alone[0]
    assert alone[0].tokens[:2] == [20, 21]
    assert 7 not in alone[0].tokens
