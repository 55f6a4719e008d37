"""Alternative continuations: different first tokens, the right ones, each as it would be alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint

import gpt2fast
from gpt2fast import generation
from gpt2fast._generate import Sequence, filtered, run
from gpt2fast.generation import Writing, complete
from gpt2fast.generation.alternatives import _others
from gpt2fast.generation.plan import Plan
from gpt2fast.sampling import Options

PROMPT = "Once upon a"


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def as_completion(alternative: gpt2fast.Alternative) -> gpt2fast.Completion:
    names = [item.name for item in fields(gpt2fast.Completion)]
    return gpt2fast.Completion(**{name: getattr(alternative, name) for name in names})


MIXTURES: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"mirostat_tau": 3.0},
    {"stop": [".", ","], "repetition_penalty": 1.2, "logprobs": 2, "min_new_tokens": 3},
    {"logits_processor": lambda _, row: np.roll(row, 1)},
]


@pytest.mark.parametrize("options", MIXTURES, ids=["plain", "greedy", "mirostat", "rules", "call"])
def test_each_is_the_text_it_would_be_alone(model: gpt2fast.Model, options: dict[str, Any]) -> None:
    """Catches alternatives that share a cache, a draw or logits, or that begin alike."""
    options = {"seed": 6, "max_new_tokens": 12, "logprobs": 0, **options}
    got = model.alternatives(PROMPT, 20, **options)
    assert len({alternative.tokens[0] for alternative in got}) == 20
    assert as_completion(got[0]) == model.generate(PROMPT, **options)
    for i in (1, 2, 19):
        plan = Plan(model._engine, Options(**options, forced_tokens=got[i].tokens[:1]))
        alone = complete(plan, [Writing(plan, model.tokenizer.encode(PROMPT), sample=i)])
        assert as_completion(got[i]) == alone[0]
    assert got == model.alternatives(PROMPT, 20, **options)


def test_probabilities_are_those_of_the_model(model: gpt2fast.Model) -> None:
    """Catches probabilities of a changed distribution, or of another token."""
    row = model.logits(model.tokenizer.encode(PROMPT), last_only=True).astype(np.float64)
    expected = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    got = model.alternatives(PROMPT, 8, seed=1, temperature=2, top_k=40, max_new_tokens=2)
    for alternative in got:
        assert alternative.probability == pytest.approx(expected[alternative.tokens[0]], rel=1e-5)


def test_others_are_drawn_without_replacement(model: gpt2fast.Model) -> None:
    """Catches second and third tokens of another distribution: chi-square at 1 in 10,000."""
    plan = Plan(model._engine, Options(temperature=1, top_p=1, seed=0))
    share = np.array([0.5, 0.3, 0.15, 0.05])
    row = np.full(model.config.n_vocab, -200, np.float32)
    row[[7, 90, 500, 4000]] = np.log(share)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(4000):
        plan.seed = seed
        counts[tuple(_others(plan, row, 3, 90, 3))] += 1
    left = {7: 0.5, 500: 0.15, 4000: 0.05}
    statistic = 0.0
    for one in left:
        for other in left.keys() - {one}:
            expected = 4000 * left[one] / 0.7 * left[other] / (0.7 - left[one])
            statistic += (counts[one, other] - expected) ** 2 / expected
    assert sum(counts.values()) == 4000
    assert len(counts) == 6
    assert statistic < 25.74  # 5 degrees of freedom


def test_filters_come_first_then_the_likeliest(model: gpt2fast.Model) -> None:
    """Catches filters that are ignored, and fewer alternatives than there could be."""
    row = model.logits(model.tokenizer.encode(PROMPT), last_only=True)
    ranked = np.argsort(-row, kind="stable").tolist()
    got = model.alternatives(PROMPT, 6, seed=4, top_k=3, top_p=1.0, max_new_tokens=1)
    first = [alternative.tokens[0] for alternative in got]
    assert set(first[:3]) == set(filtered(row, top_k=3))
    assert first[3:] == ranked[3:6]
    greedy = model.alternatives(PROMPT, 6, temperature=0, max_new_tokens=1)
    assert [alternative.tokens[0] for alternative in greedy] == ranked[:6]


def test_no_more_than_the_rules_allow(model: gpt2fast.Model) -> None:
    """Catches a token that is ruled out, or an endless search for another one."""
    allowed = {5, 77, 301}

    def only(_: Any, row: Any) -> None:
        row[[token for token in range(row.size) if token not in allowed]] = -np.inf

    for options in ({"logits_processor": only}, {"bad_tokens": [*{*range(4096)} - allowed]}):
        got = model.alternatives(PROMPT, 9, seed=2, max_new_tokens=2, **options)
        assert {alternative.tokens[0] for alternative in got} == allowed
    few = model.alternatives(PROMPT, 1, seed=2, max_new_tokens=4)
    assert [as_completion(one) for one in few] == [
        model.generate(PROMPT, seed=2, max_new_tokens=4, logprobs=0)
    ]


def test_the_prompt_is_processed_once(
    model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches alternatives that each read the prompt."""
    read: list[Sequence] = []

    def watched(core: Any, sequences: list[Sequence], *args: Any, **options: Any) -> None:
        read.extend(seen for seen in sequences if seen.cache.length < seen.n_tokens - 1)
        run(core, sequences, *args, **options)

    monkeypatch.setattr(generation, "run", watched)
    assert len(model.alternatives(PROMPT, 40, max_new_tokens=3, seed=1)) == 40
    assert len(read) == 1


def test_ends_from_outside(model: gpt2fast.Model) -> None:
    """Catches alternatives without a token, and a deadline counted twice."""
    flag = gpt2fast.CancelFlag()
    flag.set()
    assert model.alternatives(PROMPT, 3, cancel=flag) == []
    flag.clear()

    def stopping(tokens: Any, _: Any) -> None:
        if len(tokens) > 6:
            flag.set()

    got = model.alternatives(PROMPT, 3, cancel=flag, logits_processor=stopping, ignore_eot=True)
    assert [one.finish_reason for one in got] == ["cancelled"] * 3
    assert all(one.tokens for one in got)
    assert model.alternatives(PROMPT, 3, deadline=1e-9) == []
    flag.clear()  # when sixteen are written and the others wait
    got = model.alternatives(PROMPT, 40, cancel=flag, logits_processor=stopping, ignore_eot=True)
    assert len(got) == 16
    assert all(one.tokens and one.finish_reason == "cancelled" for one in got)


@pytest.mark.parametrize(
    ("k", "options", "expected"),
    [
        (0, {}, "k is 0; allowed: an integer from 1 to 1024"),
        (1025, {}, "k is 1025; allowed"),
        (2.0, {}, "k is 2.0; allowed: an integer"),
        (True, {}, "k is True; allowed"),
        (2, {"n": 2}, "n is 2; allowed: None, as there are k alternatives"),
        (2, {"forced_tokens": [3]}, r"forced_tokens is \(3,\); allowed: none, as alternatives"),
        (2, {"max_new_tokens": 9999}, "but the context has 512"),
        (2, {"bad_tokens": range(4096)}, "rule out all 4096 tokens"),
    ],
)
def test_wrong_options_are_named(
    model: gpt2fast.Model, k: Any, options: dict[str, Any], expected: str
) -> None:
    """Catches an option that is taken though it makes no sense."""
    with pytest.raises(ValueError, match=expected):
        model.alternatives(PROMPT, k, **options)


def test_the_whole_vocabulary(tmp_path: Path) -> None:
    """Catches a k beyond the vocabulary, and a token that cannot be had."""
    config = hf_config()
    tensors = random_tensors(gpt2fast.Config.from_huggingface(config).tensor_shapes())
    with gpt2fast.load(write_checkpoint(tmp_path, config, tensors), threads=1) as small:
        got = small.alternatives([1, 2], 300, max_new_tokens=1, top_k=40, seed=0)
        assert sorted(one.tokens[0] for one in got) == list(range(300))
        assert sum(one.probability for one in got) == pytest.approx(1, abs=1e-5)
        with pytest.raises(ValueError, match="k is 301; allowed: an integer from 1 to 300"):
            small.alternatives([1, 2], 301)
