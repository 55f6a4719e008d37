"""Several samples of one prompt, tokens that are forced, and texts that must not end early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpt2fast
from gpt2fast import generation
from gpt2fast._generate import StopStrings, adjusted, filtered, run, scan
from gpt2fast.generation import Writing, complete
from gpt2fast.generation.plan import Plan
from gpt2fast.generation.rules import native_rules
from gpt2fast.sampling import Options

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def separately(model: gpt2fast.Model, prompt: str, n: int, options: dict[str, Any]) -> list[Any]:
    plan = Plan(model._engine, Options(**options))
    ids = model.tokenizer.encode(prompt)
    return [complete(plan, [Writing(plan, ids, sample=i)])[0] for i in range(n)]


@pytest.mark.parametrize(
    "options",
    [{}, {"mirostat_tau": 3.0}, {"repetition_penalty": 1.2, "logprobs": 2, "stop": ["."]}],
    ids=["plain", "mirostat", "rules"],
)
def test_samples_equal_separate_runs(model: gpt2fast.Model, options: dict[str, Any]) -> None:
    """Catches samples that share a draw, a cache or a report, or that begin from other logits."""
    options = {"seed": 6, "max_new_tokens": 20, **options}
    for n in (1, 2, 40):
        got = model.generate(PROMPT, n=n, **options)
        assert got == separately(model, PROMPT, n, options)
    assert got[0] == model.generate(PROMPT, **options)
    assert len({tuple(completion.tokens) for completion in got}) > 30
    both = model.generate([PROMPT, "The king"], n=3, **options)
    assert both == [separately(model, prompt, 3, options) for prompt in (PROMPT, "The king")]


@pytest.mark.parametrize(
    ("rules", "filters"),
    [
        ({"repetition_penalty": 1.5, "logit_bias": {20: 4.0}}, {"top_p": 0.8}),
        (
            {"presence_penalty": -1.0, "no_repeat_ngram": 1},
            {"typical_p": 0.6, "top_k": 30, "top_p": 1.0},
        ),
        ({"bad_tokens": [11]}, {"mirostat_tau": 3.0}),
    ],
)
def test_draws_follow_the_distribution(
    model: gpt2fast.Model, rules: dict[str, Any], filters: dict[str, Any]
) -> None:
    """Catches draws of a text that rules or filters bias: chi-square at 1 in 10,000.

    The first token of 8,192 samples; tokens that are expected less than 5 times count as one.
    """
    options: dict[str, Any] = {"temperature": 1.0, **rules, **filters}
    prompt = model.tokenizer.encode(PROMPT)
    native = native_rules(model._engine, Options(**rules))
    assert native is not None
    row = model.logits(prompt, last_only=True)
    none = np.zeros(0, np.int32)
    left = np.array(adjusted(row, native, np.array(prompt, np.int32), 0, none), np.float32)
    kept = filtered(left, **filters)
    counts: Counter[int] = Counter()
    for seed in range(8):
        done = model.generate(prompt, n=1024, max_new_tokens=1, seed=seed, **options)
        counts.update(completion.tokens[0] for completion in done)
    assert counts.keys() <= kept.keys()
    expected = {token: mass * 8192 / sum(kept.values()) for token, mass in kept.items()}
    often = [token for token in kept if expected[token] >= 5]
    cells = [(counts[token], expected[token]) for token in often]
    cells.append((8192 - sum(c for c, _ in cells), max(8192 - sum(e for _, e in cells), 5.0)))
    chi_square = sum((count - mean) ** 2 / mean for count, mean in cells)
    degrees = len(cells) - 1
    bound = degrees * (1 - 2 / (9 * degrees) + 3.719 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert len(often) > 3
    assert chi_square < bound


def test_the_prompt_is_processed_once(
    model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a prompt that each sample processes anew."""
    missing: list[int] = []

    def watched(core: Any, sequences: list[Any], *arguments: Any, **options: Any) -> None:
        missing.extend(s.n_tokens - s.cache.length for s in sequences if s.cache.length == 0)
        run(core, sequences, *arguments, **options)

    monkeypatch.setattr(generation, "run", watched)
    ids = list(range(100, 160))
    assert len(model.generate(ids, n=30, max_new_tokens=1)) == 30
    assert missing == [60]


def test_samples_end_from_outside(model: gpt2fast.Model) -> None:
    """Catches samples that wait for ever for a prompt that nobody processes."""
    flag = gpt2fast.CancelFlag()
    flag.set()
    got = model.generate([PROMPT, "a"], n=20, cancel=flag)
    assert {c.finish_reason for texts in got for c in texts} == {"cancelled"}
    late = model.generate(PROMPT, n=100, deadline=0.02, max_new_tokens=200, ignore_eot=True)
    assert {completion.finish_reason for completion in late} == {"deadline"}


def test_forced_tokens_come_first(model: gpt2fast.Model) -> None:
    """Catches a forced token that a rule or filter prevents, or that shifts the draws after it."""
    forced = [4000, 17, 4000]
    options: dict[str, Any] = {"seed": 1, "max_new_tokens": 10, "no_repeat_ngram": 1}
    done = model.generate([17], forced_tokens=forced, **options)
    assert done.tokens[:3] == forced
    rest = model.generate([17, *forced], **{**options, "max_new_tokens": 7})
    assert done.tokens[3:] == rest.tokens
    eot = model.tokenizer.eot
    assert eot is not None
    ended = model.generate([17], forced_tokens=[5, eot], min_new_tokens=9)
    assert (ended.tokens, ended.finish_reason) == ([5, eot], "stop")


def test_nothing_ends_a_text_too_early(model: gpt2fast.Model) -> None:
    """Catches stop tokens or strings that end a text before min_new_tokens, or not after it."""
    likely = model.generate(PROMPT, temperature=0, max_new_tokens=30)
    stop_token, stop = likely.tokens[3], likely.text[2:6]
    plain = model.generate(PROMPT, temperature=0, stop_tokens=[stop_token])
    assert plain.tokens == likely.tokens[:4]
    for least in (1, 4, 12):
        done = model.generate(PROMPT, temperature=0, stop_tokens=[stop_token], min_new_tokens=least)
        assert stop_token not in done.tokens[:least]
        assert len(done.tokens) >= least
    at = len(model.generate(PROMPT, temperature=0, stop=[stop]).tokens)
    for least in range(1, 25):
        done = model.generate(
            PROMPT, temperature=0, stop=[stop], min_new_tokens=least, max_new_tokens=30
        )
        assert least > at or len(done.tokens) == at
        assert len(done.tokens) >= least
        assert done.tokens == likely.tokens[: len(done.tokens)]
        stream = model.stream(
            PROMPT, temperature=0, stop=[stop], min_new_tokens=least, max_new_tokens=30
        )
        assert "".join(map(str, stream)) == done.text == stream.completion.text


def test_strings_that_come_too_early_are_text() -> None:
    """Catches an automaton that reads on behind a whole match, or forgets what overlaps it."""
    pieces = b"ab"
    offsets = bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])
    for stop, tokens, n_early, end in (
        (b"aa", [0, 0, 0], 2, 3),
        (b"aa", [0, 0, 1, 0, 0], 3, 5),
        (b"abab", [0, 1, 0, 1, 0, 1], 4, 6),
        (b"a", [0, 0, 0], 2, 3),
    ):
        found, shown = scan(StopStrings([stop, b"bbbb"], pieces, offsets), tokens, n_early)
        assert found
        assert len(shown) == end
        assert shown[-1] == end - len(stop)


def test_no_token_left_is_an_error(model: gpt2fast.Model) -> None:
    """Catches a text drawn from nothing; the session must keep what it has."""
    allowed = {5, 6, 7}
    options: dict[str, Any] = {
        "bad_tokens": [token for token in range(4096) if token not in allowed],
        "no_repeat_ngram": 1,
    }
    session = model.session()
    session.append([5])
    with pytest.raises(ValueError, match="options rule out every token that could come next"):
        session.generate(**options)
    assert sorted(session.tokens) == [5, 6, 7]
    assert len(session.generate(max_new_tokens=3).tokens) == 3
