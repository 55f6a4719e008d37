"""Beam search on the trained model: what is found, where texts end, what does not matter."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

import gpt2fast
from gpt2fast._generate import CancelFlag
from gpt2fast.generation.branch import power

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def log_probabilities(model: gpt2fast.Model, tokens: list[int]) -> Any:
    """(n_tokens, n_vocab), in float64."""
    logits = model.logits(tokens).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("penalty", [1.0, 0.0, -2.0, 2.5])
def test_wide_beams_find_the_best_of_all_texts(model: gpt2fast.Model, penalty: float) -> None:
    """Catches a wrong score, length penalty, order or end, against every text of six tokens.

    36 beams are as many as there are texts of two tokens, so none is left out on the way to three.
    """
    prompt = model.tokenizer.encode(PROMPT)
    allowed = [model.tokenizer.encode(text)[0] for text in (" the", ",", " and", " was", " of")]
    end = model.tokenizer.encode(".")[0]
    texts: dict[tuple[int, ...], float] = {(end,): 0.0} | {(token, end): 0.0 for token in allowed}
    texts |= {(*two, last): 0.0 for two in product(allowed, repeat=2) for last in (*allowed, end)}
    for text in texts:
        rows = log_probabilities(model, [*prompt, *text])[len(prompt) - 1 : -1]
        score = sum(float(row[token]) for row, token in zip(rows, text, strict=True))
        texts[text] = score / len(text) ** penalty
    best = sorted(texts.items(), key=lambda item: -item[1])[:36]
    bad = [token for token in range(model.config.n_vocab) if token not in (*allowed, end)]
    found = model.generate(
        prompt,
        num_beams=36,
        n=36,
        length_penalty=penalty,
        bad_tokens=bad,
        stop_tokens=[end],
        max_new_tokens=3,
    )
    if penalty <= 1:  # beyond, the search may end before a longer text would have come first
        assert [tuple(text.tokens) for text in found] == [tokens for tokens, _ in best]
    for result in found:
        assert result.score == pytest.approx(texts[tuple(result.tokens)], abs=1e-4)
        assert result.finish_reason == ("stop" if result.tokens[-1] == end else "length")


def test_results_are_in_order_and_different(model: gpt2fast.Model) -> None:
    """Catches results that are twice the same, out of order, or not what one alone would be."""
    options: dict[str, Any] = {"num_beams": 5, "max_new_tokens": 12, "seed": 1}
    found = model.generate(PROMPT, n=5, **options)
    assert len({tuple(text.tokens) for text in found}) == 5
    scores = [text.score for text in found]
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    assert model.generate(PROMPT, **options) == found[0]
    assert model.generate(PROMPT, n=2, **options) == found[:2]


def test_a_batch_equals_each_alone(model: gpt2fast.Model) -> None:
    """Catches a result that depends on its neighbours, its place, waiting or the threads."""
    prompts = [PROMPT, "The king", "", "a", *(f"Chapter {n}. There was" for n in range(6))]
    options: dict[str, Any] = {"num_beams": 3, "n": 2, "max_new_tokens": 14, "stop": ["."]}
    together = model.generate(prompts, seed=1, **options)
    assert together == [model.generate(prompt, seed=1, **options) for prompt in prompts]
    with gpt2fast.load("tales", threads=3) as other:
        assert other.generate(prompts, seed=1, **options) == together
    assert model.memory.caches == 0


def test_log_probabilities_are_the_models_own(model: gpt2fast.Model) -> None:
    """Catches the log-probabilities of another beam, and scores that rules changed among them."""
    prompt = model.tokenizer.encode(PROMPT)
    options: dict[str, Any] = {"num_beams": 4, "n": 4, "max_new_tokens": 9, "logprobs": 2}
    for text in model.generate(prompt, **options, repetition_penalty=1.2):
        rows = log_probabilities(model, [*prompt, *text.tokens])[len(prompt) - 1 : -1]
        assert [entry.token for entry in text.logprobs or []] == text.tokens
        for row, (token, logprob, top) in zip(rows, text.logprobs or [], strict=True):
            assert logprob == pytest.approx(row[token], abs=1e-5)
            assert [token for token, _ in top] == np.argsort(-row, kind="stable")[:2].tolist()
            assert top[0][1] == pytest.approx(row.max(), abs=1e-5)
    plain = model.generate(prompt, **options)[0]
    total = sum(entry.logprob for entry in plain.logprobs or [])
    assert plain.score == pytest.approx(total / 9, rel=1e-6)


def test_where_texts_end(model: gpt2fast.Model) -> None:
    """Catches a stop string that is part of the text or comes too early, and lengths passed by."""
    options: dict[str, Any] = {"num_beams": 4, "n": 4, "max_new_tokens": 20}
    found = model.generate(PROMPT, stop=[" a", ","], **options)
    assert {text.finish_reason for text in found} == {"stop"}
    for text in found:
        assert model.tokenizer.decode(text.tokens)[len(text.text) :].startswith((" a", ","))
        assert "," not in text.text
    late = model.generate(PROMPT, stop=[" a", ","], min_new_tokens=8, **options)
    assert all(len(text.tokens) >= 8 for text in late)
    forced = model.tokenizer.encode(" It was")
    for text in model.generate(PROMPT, forced_tokens=forced, **options):
        assert text.tokens[: len(forced)] == forced
    assert all(len(text.tokens) == 20 for text in model.generate(PROMPT, **options))


def test_rules_that_leave_little(model: gpt2fast.Model) -> None:
    """Catches texts made of what was ruled out where the beams outnumber what is left."""
    n_vocab = model.config.n_vocab
    left = model.tokenizer.encode(",")[0]
    only = [token for token in range(n_vocab) if token != left]
    found = model.generate(PROMPT, num_beams=4, n=4, max_new_tokens=5, bad_tokens=only)
    assert [text.tokens for text in found] == [[left] * 5]
    with pytest.raises(ValueError, match="rule out every token"):
        model.generate(PROMPT, num_beams=4, bad_tokens=only, no_repeat_ngram=1)


def test_the_search_ends_when_nothing_better_can_come(model: gpt2fast.Model) -> None:
    """Catches beams that go on to max_new_tokens although the best texts are known."""
    lengths: list[int] = []
    ends = [model.tokenizer.encode(text)[0] for text in (" the", " a", ",", ".", " of")]
    found = model.generate(
        PROMPT,
        num_beams=3,
        stop_tokens=ends,
        length_penalty=0,
        max_new_tokens=40,
        logits_processor=lambda tokens, _: lengths.append(len(tokens)),
    )
    assert found.finish_reason == "stop"
    assert max(lengths) - len(found.prompt_tokens) < 12


def test_processors_see_every_beam(model: gpt2fast.Model) -> None:
    """Catches a processor that is given another beam's text, or whose changes are lost."""
    prompt = model.tokenizer.encode(PROMPT)
    seen: set[tuple[int, ...]] = set()

    def without_a(tokens: Any, logits: Any) -> None:
        seen.add(tuple(tokens.tolist()))
        logits[model.tokenizer.encode(" a")[0]] = -math.inf

    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 6}
    found = model.generate(prompt, logits_processor=without_a, **options)
    assert (
        found.tokens
        == model.generate(prompt, bad_tokens=model.tokenizer.encode(" a"), **options).tokens
    )
    assert found.tokens != model.generate(prompt, **options).tokens
    assert {len(tokens) - len(prompt) for tokens in seen} == set(range(6))
    assert len(seen) == 1 + 5 * 3
    assert (*prompt, *found.tokens[:-1]) in seen


@pytest.mark.parametrize("options", [{"num_beams": 4}, {"penalty_alpha": 0.6, "top_k": 4}])
def test_cancel_and_deadline(model: gpt2fast.Model, options: dict[str, Any]) -> None:
    """Catches a search that goes on, loses what it had, or leaves the model unusable."""
    flag = CancelFlag()
    flag.set()
    none = model.generate(PROMPT, cancel=flag, **options)
    assert (none.tokens, none.finish_reason) == ([], "cancelled")
    flag.clear()
    timer = threading.Timer(0.05, flag.set)
    timer.start()
    some = model.generate(PROMPT, cancel=flag, max_new_tokens=450, ignore_eot=True, **options)
    timer.join()
    assert some.finish_reason == "cancelled"
    assert 0 <= len(some.tokens) < 450
    if "num_beams" in options:
        flag.set()
        several = model.generate(PROMPT, cancel=flag, n=3, **options)
        assert [done.tokens for done in several] == [[]] * 3
    late = model.generate(PROMPT, deadline=1e-9, **options)
    assert (late.tokens, late.finish_reason) == ([], "deadline")
    again = model.generate(PROMPT, max_new_tokens=len(some.tokens) + 1, seed=some.seed, **options)
    assert len(again.tokens) > 0
    assert model.memory.caches == 0


@pytest.mark.parametrize("base", [1, 2, 7, 1024])
def test_power(base: int) -> None:
    """Catches a wrong power: the least bits may differ from C's, no more."""
    for exponent in (0, 1, -1, 2, 0.5, -0.75, 1.3, 9.999, -10, 5e-324, 1e-17):
        assert power(base, exponent) == pytest.approx(base**exponent, rel=1e-13)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"num_beams": 0}, "num_beams is 0; allowed: an integer from 1 to 256"),
    ({"num_beams": 257}, "num_beams is 257"),
    ({"num_beams": "4"}, "num_beams is '4'"),
    ({"num_beams": True}, "num_beams is True"),
    ({"num_beams": 2.0}, "num_beams is 2.0"),
    ({"num_beams": None}, "num_beams is None"),
    ({"num_beams": 4, "n": 5}, "n is 5; allowed: at most 4, as num_beams is given"),
    ({"num_beams": 4, "temperature": 0.7}, "temperature is 0.7; allowed: 0.0, as num_beams"),
    ({"num_beams": 4, "top_k": 5}, "top_k is 5; allowed: 0, as num_beams"),
    ({"num_beams": 4, "top_p": 0.9}, "top_p is 0.9; allowed: 1.0, as num_beams"),
    ({"num_beams": 4, "min_p": 0.1}, "min_p is 0.1"),
    ({"num_beams": 4, "typical_p": 0.9}, "typical_p is 0.9"),
    ({"num_beams": 4, "mirostat_tau": 3.0}, "temperature is 0"),
    ({"num_beams": 4, "penalty_alpha": 0.5, "top_k": 4}, "num_beams is 4; allowed: 1, as penalty"),
    ({"num_beams": 4, "length_penalty": 10.5}, "length_penalty is 10.5; allowed: a number from"),
    ({"num_beams": 4, "length_penalty": math.nan}, "length_penalty is nan"),
    ({"num_beams": 4, "length_penalty": "1"}, "length_penalty is '1'"),
    ({"length_penalty": 2.0}, "length_penalty is 2.0; allowed: 1, as num_beams is 1"),
    ({"penalty_alpha": -0.1, "top_k": 4}, "penalty_alpha is -0.1; allowed: a number from 0 to 1"),
    ({"penalty_alpha": 1.1, "top_k": 4}, "penalty_alpha is 1.1"),
    ({"penalty_alpha": "0.5", "top_k": 4}, "penalty_alpha is '0.5'"),
    ({"penalty_alpha": math.nan, "top_k": 4}, "penalty_alpha is nan"),
    ({"penalty_alpha": None}, "penalty_alpha is None"),
    ({"penalty_alpha": 0.5}, "top_k is 0; allowed: 2 to 256, as penalty_alpha is given"),
    ({"penalty_alpha": 0.5, "top_k": 1}, "top_k is 1; allowed: 2 to 256"),
    ({"penalty_alpha": 0.5, "top_k": 257}, "top_k is 257; allowed: 2 to 256"),
    ({"penalty_alpha": 0.5, "top_k": 4, "n": 2}, "n is 2; allowed: at most 1, as penalty_alpha"),
    ({"penalty_alpha": 0.5, "top_k": 4, "temperature": 1}, "temperature is 1.0"),
    ({"penalty_alpha": 0.5, "top_k": 4, "top_p": 0.5}, "top_p is 0.5"),
    ({"penalty_alpha": 0.5, "top_k": 4, "length_penalty": 2}, "length_penalty is 2.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_options_are_named(
    model: gpt2fast.Model, options: dict[str, Any], message: str
) -> None:
    """Catches an option that is ignored, or refused by another name."""
    with pytest.raises(ValueError, match="^" + message.replace("'", ".")):
        model.generate(PROMPT, **options)


def test_presets_yield(model: gpt2fast.Model) -> None:
    """Catches a preset whose temperature forbids a search, or whose rules are forgotten."""
    found = model.generate(PROMPT, num_beams=3, preset="balanced", max_new_tokens=8)
    same = model.generate(PROMPT, num_beams=3, repetition_penalty=1.1, max_new_tokens=8)
    assert found.tokens == same.tokens


def test_streams_and_sessions_refuse(model: gpt2fast.Model) -> None:
    """Catches a search that is taken for something else, or a session that it leaves busy."""
    session = model.session()
    session.append(PROMPT)
    for options, name in (
        ({"num_beams": 2}, "num_beams is 2"),
        ({"penalty_alpha": 0.5, "top_k": 2}, "penalty_alpha is 0.5"),
    ):
        for call in (session.generate, session.stream, lambda **o: model.stream(PROMPT, **o)):
            with pytest.raises(ValueError, match=name):
                call(**options)
    assert len(session.generate(max_new_tokens=2).tokens) == 2
