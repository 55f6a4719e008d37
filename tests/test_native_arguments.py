"""The private Cython functions refuse what would lead their loops out of a buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt2fast
from gpt2fast import _core
from gpt2fast._generate import (
    Rules,
    Sequence,
    StopStrings,
    Workspace,
    adjusted,
    filtered,
    run,
    sample,
    scan,
)

OFFSETS = np.array([0, 1, 3], np.uint32).tobytes()
ROW = np.zeros(20, np.float32)


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    "filters",
    [
        {"temperature": -1},
        {"temperature": 1e-300},
        {"temperature": np.inf},
        {"temperature": np.nan},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": np.nan},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"min_p": np.nan},
        {"min_p": 2},
        {"typical_p": 0},
        {"typical_p": np.nan},
        {"mirostat_tau": -1},
        {"mirostat_tau": np.inf},
        {"mirostat_tau": np.nan},
    ],
)
def test_filters_out_of_range(model: gpt2fast.Model, filters: dict[str, Any]) -> None:
    """Catches masses that no draw ends in, by every way that filters come in."""
    for call in (lambda: filtered(ROW, **filters), lambda: sample(ROW, 0, **filters)):
        with pytest.raises(ValueError, match="out of range"):
            call()
    with pytest.raises(ValueError, match="out of range"):
        text(model, **filters)


def test_rows_and_workspaces_that_do_not_fit() -> None:
    """Catches a row longer than the buffers, an empty one, and none."""
    for row, workspace in ((ROW, Workspace(19)), (ROW[:0], None), (ROW[:0], Workspace(5))):
        with pytest.raises(ValueError, match=r"logits; allowed|one token at least"):
            sample(row, 0, workspace)
    with pytest.raises(ValueError, match="one token at least"):
        filtered(ROW[:0])
    for n_vocab in (0, -1):
        with pytest.raises(ValueError, match="one token at least"):
            Workspace(n_vocab)
    with pytest.raises(TypeError, match="not a filter: topk"):
        filtered(ROW, topk=1)
    none: Any = None
    for call in (lambda: filtered(none), lambda: sample(none, 0), lambda: scan(none, [1])):
        with pytest.raises(TypeError):
            call()
    assert sample(ROW, 0, Workspace(20)) == 0


@pytest.mark.parametrize(
    ("strings", "offsets"),
    [
        ([b"a"], b""),
        ([b"a"], OFFSETS[:-1]),
        ([b"a"], np.array([0, 2, 1], np.uint32).tobytes()),
        ([b"a"], np.array([0, 1, 4], np.uint32).tobytes()),
        ([b"a", b""], OFFSETS),
        (["a"], OFFSETS),
        ([None], OFFSETS),
    ],
)
def test_stop_strings_that_lead_astray(strings: list[Any], offsets: bytes) -> None:
    """Catches token bytes read outside the table, and an empty string that stops nothing."""
    with pytest.raises(ValueError, match=r"stop strings|offset"):
        StopStrings(strings, b"abc", offsets)


def test_tokens_outside_the_table() -> None:
    """Catches an id read from behind the offsets."""
    stops = StopStrings([b"bc"], b"abc", OFFSETS)
    assert scan(stops, [123456789, -1, 0, 1]) == (True, [0, 0, 1, 1])


def text(model: gpt2fast.Model, n_prompt: int = 3, **changes: Any) -> Sequence:
    """A sequence of 3 tokens with room for 5 more, unless told otherwise."""
    values: dict[str, Any] = {
        "tokens": np.full(8, 5, np.int32),
        "logits": np.zeros(model.config.n_vocab, np.float32),
        "visible": np.zeros(5, np.int64),
        "stop_tokens": np.zeros(0, np.int32),
        "stops": None,
        **dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "seed", "sample"), 1),
        **changes,
    }
    cache = _core.Cache(model._engine.core)
    return Sequence(cache, n_prompt=n_prompt, **values)


def rules(n_vocab: int = 20, **changes: Any) -> Rules:
    """Rules that do nothing, but for the changes."""
    none = np.zeros(0, np.int32)
    values: dict[str, Any] = {
        "bias_tokens": none,
        "biases": np.zeros(0, np.float32),
        "repetition_penalty": 1,
        **dict.fromkeys(("presence_penalty", "frequency_penalty", "dry_multiplier"), 0),
        **dict.fromkeys(("penalty_window", "no_repeat_ngram", "min_new_tokens"), 0),
        **dict.fromkeys(("dry_base", "dry_allowed_length"), 1),
        "dry_breakers": np.zeros(0, np.uint8),
        "bad_tokens": none,
        "bad_starts": np.zeros(1, np.int32),
        "forced_tokens": none,
        **changes,
    }
    return Rules(n_vocab, **values)


def ids(*tokens: int) -> NDArray[np.int32]:
    return np.array(tokens, np.int32)


@pytest.mark.parametrize(
    "changes",
    [
        {"bias_tokens": ids(1)},
        {"bias_tokens": ids(20), "biases": np.zeros(1, np.float32)},
        {"bias_tokens": ids(-1), "biases": np.zeros(1, np.float32)},
        {"bias_tokens": ids(1), "biases": np.array([np.nan], np.float32)},
        {"bias_tokens": ids(1), "biases": np.array([np.inf], np.float32)},
        {"forced_tokens": ids(20)},
        {"bad_tokens": ids(1, -1), "bad_starts": ids(0, 2)},
        {"bad_tokens": ids(1, 2), "bad_starts": ids()},
        {"bad_tokens": ids(1, 2), "bad_starts": ids(1, 2)},
        {"bad_tokens": ids(1, 2), "bad_starts": ids(0, 0)},
        {"bad_tokens": ids(1, 2), "bad_starts": ids(0, 3)},
        {"bad_tokens": ids(1, 2), "bad_starts": ids(0, 2, 1)},
        {"dry_breakers": np.zeros(19, np.uint8)},
        {"repetition_penalty": 0},
        {"repetition_penalty": np.nan},
        {"presence_penalty": np.inf},
        {"frequency_penalty": np.nan},
        {"dry_multiplier": np.nan},
        {"dry_base": 0.5},
        {"dry_allowed_length": 0},
        {"penalty_window": -1},
        {"no_repeat_ngram": -1},
        {"min_new_tokens": -1},
    ],
)
def test_rules_that_lead_astray(changes: dict[str, Any]) -> None:
    """Catches ids read or written outside a row, and penalties that make NaN."""
    with pytest.raises(ValueError, match=r"range|vocabulary|negative|length|bad_starts"):
        rules(**changes)


def test_rules_meet_tokens_they_do_not_know(model: gpt2fast.Model) -> None:
    """Catches counts kept outside the row, and rules of another vocabulary."""
    every = {"repetition_penalty": 2, "dry_multiplier": 1, "no_repeat_ngram": 1}
    strange = ids(2**31 - 1, -1, 20, 3, 20, 3, -(2**31))
    found = adjusted(ROW, rules(**every), strange, 0, ids(-5, 20))
    assert found == [-np.inf if token == 3 else 0 for token in range(20)]
    with pytest.raises(ValueError, match="do not fit"):
        adjusted(ROW[1:], rules(), strange, 0, ids())
    with pytest.raises(ValueError, match="larger vocabulary"):
        text(model, rules=rules(model.config.n_vocab + 1))
    short = text(model, rules=rules(20))
    options: dict[str, Any] = {"threads": 1, "prompt_threads": 1, "seconds": 0.0}
    with pytest.raises(ValueError, match="not those of a vocabulary"):
        run(model._engine.core, [short], Workspace(model.config.n_vocab), **options)
    with pytest.raises(ValueError, match="comes with rules"):
        text(model, processor=print)


@pytest.mark.parametrize(
    ("shape", "tokens", "tops"),
    [((4,), (5, 2), (5, 2)), ((5,), (4, 2), (5, 2)), ((5,), (5, 2), (5, 1)), ((5,), None, (5, 2))],
)
def test_reports_that_do_not_fit(model: gpt2fast.Model, shape: Any, tokens: Any, tops: Any) -> None:
    """Catches log-probabilities written beyond their arrays."""
    with pytest.raises(ValueError, match="logprobs"):
        text(
            model,
            logprobs=np.zeros(shape, np.float32),
            top_tokens=None if tokens is None else np.zeros(tokens, np.int32),
            top_logprobs=np.zeros(tops, np.float32),
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"n_prompt": 0},
        {"n_prompt": -1},
        {"n_prompt": 8},
        {"n_prompt": 2},
        {"tokens": np.zeros(0, np.int32)},
        {"visible": np.zeros(4, np.int64)},
        {"logits": np.zeros(0, np.float32)},
    ],
)
def test_lengths_that_do_not_fit(model: gpt2fast.Model, changes: dict[str, Any]) -> None:
    """Catches a token written beyond `tokens` or `visible`."""
    with pytest.raises(ValueError, match="must have room"):
        text(model, **changes)
    for name in ("tokens", "logits", "visible", "stop_tokens"):
        with pytest.raises(TypeError):
            text(model, **dict[str, Any]({name: None}))


def test_run_with_what_is_too_small(model: gpt2fast.Model) -> None:
    """Catches logits of the model written beyond a row or a workspace, and None for either."""
    core, n_vocab = model._engine.core, model.config.n_vocab
    whole = Workspace(n_vocab)
    short = text(model, logits=np.zeros(n_vocab - 1, np.float32))
    options: dict[str, Any] = {"threads": 1, "prompt_threads": 1, "seconds": 0.0}
    for sequences, workspace in (([short], whole), ([text(model)], Workspace(n_vocab - 1))):
        with pytest.raises(ValueError, match=f"room for {n_vocab} tokens"):
            run(core, sequences, workspace, **options)
    nothing: Any = None
    for sequences, workspace in (([text(model)], nothing), (nothing, whole), ([nothing], whole)):
        with pytest.raises(TypeError):
            run(core, sequences, workspace, **options)
    run(core, [], whole, **{**options, "seconds": np.inf})
    good = text(model)
    for _ in range(9):
        run(core, [good], whole, **options)
    assert (good.n_tokens, good.finish_reason) == (8, "length")
