"""The options of generation: ranges, contradictions, and the errors that name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpt2fast
from gpt2fast._generate import CancelFlag
from gpt2fast.sampling import GenerateOptions, Options

NAN, INF = float("nan"), float("inf")

BAD: dict[str, tuple[object, ...]] = {
    "max_new_tokens": (0, -1, 2**31, 1.5, "9", True),
    "temperature": (-0.1, 9e-7, 1.1e6, NAN, INF, "hot", None, False),
    "top_k": (-1, 2**31, 2.0, "3", None, True),
    "top_p": (0, -0.5, 1.0001, NAN, "1", None),
    "min_p": (-0.01, 1.01, INF, "0", None),
    "typical_p": (0, -1, 1.01, NAN, "1", None, True),
    "mirostat_tau": (0, -1, 100.1, NAN, INF, "5", True),
    "mirostat_eta": (-0.1, 1.1, NAN, "0.1", None),
    "repetition_penalty": (0, 0.009, 101, -1, NAN, INF, "1.2", None, True),
    "presence_penalty": (-101, 100.5, NAN, "0", None),
    "frequency_penalty": (-101, 100.5, INF, "0", None),
    "penalty_window": (-1, 2**31, 1.5, "64", None, True),
    "no_repeat_ngram": (-1, 2**31, 2.0, "3", None, True),
    "dry_multiplier": (-0.1, 101, NAN, "1", None),
    "dry_base": (0.99, 101, NAN, INF, "2", None),
    "dry_allowed_length": (0, -1, 2**31, 2.5, "2", None),
    "dry_breakers": ("", ["ok", ""], 5, b"no", [1.5], [-1], [None], [True], None),
    "logit_bias": ({5: 1001}, {5: NAN}, {5: INF}, {5: "1"}, {-1: 0}, {1.5: 0}, [5], None, "5"),
    "bad_tokens": (5, "5", [-1], [1.5], [[]], [[1], [2, -1]], ["5"], None, [[True]]),
    "forced_tokens": (5, "5", [-1], [1.5], [[1]], None),
    "logits_processor": (5, "f", [5], [print, None], {"f": print}),
    "min_new_tokens": (-1, 2**31, 1.5, "1", None, True),
    "num_beams": (0, -1, 257, 10**18, 2.0, "2", None, True),
    "length_penalty": (-10.5, 10.5, NAN, INF, "1", None, True, 2),
    "penalty_alpha": (-0.1, 1.1, NAN, "0.5", None, True),
    "n": (0, -1, 1025, 10**18, 1.0, "2", True),
    "logprobs": (-1, 1001, 1.0, "2", True),
    "preset": ("", "Story", "wild", 5, ["story"], True),
    "seed": (-1, 2**64, 1.0, "1", True),
    "stop": ("", ["ok", ""], 5, b"no", [b"no"], None),
    "stop_tokens": ([-1], [1.5], 3, "12", None, [True]),
    "ignore_eot": (1, None, "yes"),
    "deadline": (0, -1.0, INF, "soon", True),
    "cancel": (True, object(), 0),
    "overflow": ("shift", "Error", "", None, 3, ["error"]),
    "stride": (5, 0, -1, 1.5, "1", True),
}
GOOD: dict[str, tuple[object, ...]] = {
    "max_new_tokens": (1, 2**31 - 1, None, np.int64(5)),
    "temperature": (0, 1e-6, 1, 1e6, np.float32(0.5)),
    "top_k": (0, 1, 2**31 - 1),
    "top_p": (1e-300, 0.5, 1),
    "min_p": (0, 1),
    "typical_p": (1e-300, 0.5, 1),
    "mirostat_tau": (1e-9, 100, None),
    "mirostat_eta": (0, 1),
    "repetition_penalty": (0.01, 1, 100, np.float32(1.5)),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
    "penalty_window": (0, 2**31 - 1),
    "no_repeat_ngram": (0, 1, 2**31 - 1),
    "dry_multiplier": (0, 100),
    "dry_base": (1, 100),
    "dry_allowed_length": (1, 2**31 - 1),
    "dry_breakers": ("x", ["a", 5], (), [np.int64(3)]),
    "logit_bias": ({}, {5: -1000, 6: 1000}, {np.int64(7): -INF}),
    "bad_tokens": ([], [5, [1, 2]], ((3,),), np.array([1, 2]), np.array([[1, 2]])),
    "forced_tokens": ([], [1, 2], np.array([3])),
    "logits_processor": (None, print, [print, repr], ()),
    "min_new_tokens": (0, 2**31 - 1),
    "num_beams": (1, 2, 256, np.int64(4)),
    "length_penalty": (1, 1.0),
    "penalty_alpha": (0, 0.0),
    "n": (1, 1024, None),
    "logprobs": (0, 1000, None),
    "preset": ("deterministic", "balanced", "story", "code", None),
    "seed": (0, 2**64 - 1, None),
    "stop": ("x", ["a", "b"], (), []),
    "stop_tokens": ([], [0, 5], (3,), np.array([1, 2])),
    "ignore_eot": (True, False),
    "deadline": (1e-9, 5, None),
    "cancel": (CancelFlag(), None),
    "overflow": ("error", "truncate", "stride"),
    "stride": (None,),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named(name: str) -> None:
    """Catches an option below, above or not of its kind that is taken, or an error without name."""
    for value in BAD[name]:
        with pytest.raises(ValueError, match=rf"^{name}.* is .*; allowed: "):
            Options(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GOOD)
def test_options_at_their_bounds_are_taken(name: str) -> None:
    """Catches a bound that is refused."""
    for value in GOOD[name]:
        Options(**{name: value})  # type: ignore[arg-type]


def test_every_option_is_tested_and_typed() -> None:
    """Catches an option without a range, or missing from the keyword arguments of generate."""
    names = {field.name for field in dataclasses.fields(Options)}
    assert names == set(BAD) == set(GOOD) == {*GenerateOptions.__annotations__, "n"}


TOGETHER: list[tuple[dict[str, Any], str]] = [
    (
        {"overflow": "truncate", "stride": 3},
        "stride is 3; allowed: None, as overflow is 'truncate'",
    ),
    ({"overflow": "stride", "stride": 0}, "stride is 0; allowed: an integer from 1 to "),
    ({"overflow": "stride", "stride": 1.5}, "stride is 1.5; allowed: an integer from 1 to "),
    ({"mirostat_tau": 3, "temperature": 0}, "temperature is 0; allowed: above 0, as mirostat_tau"),
    ({"mirostat_tau": 3, "preset": "deterministic"}, "temperature is 0"),
    ({"mirostat_tau": 3, "top_k": 5}, "top_k is 5; allowed: 0, as mirostat_tau"),
    ({"mirostat_tau": 3, "top_p": 0.9}, "top_p is 0.9; allowed: 1, as mirostat_tau"),
    ({"mirostat_tau": 3, "min_p": 0.1}, "min_p is 0.1; allowed: 0, as mirostat_tau"),
    ({"mirostat_tau": 3, "typical_p": 0.5}, "typical_p is 0.5; allowed: 1, as mirostat_tau"),
    ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens is 6; allowed: at most 5"),
    (
        {"forced_tokens": [1, 2], "max_new_tokens": 1},
        r"forced_tokens is \(1, 2\); allowed: at most 1",
    ),
    (
        {"forced_tokens": [1, 2], "bad_tokens": [[2]]},
        "forced_tokens is 2; allowed: ids that are not",
    ),
]


@pytest.mark.parametrize(("options", "message"), TOGETHER)
def test_contradictions_are_named(options: dict[str, Any], message: str) -> None:
    """Catches one of two options that is silently not obeyed."""
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_mirostat_takes_the_place_of_the_filters() -> None:
    """Catches a default or preset top_p that stays in force, or that refuses mirostat."""
    for preset in (None, "story"):
        options = Options(mirostat_tau=3, preset=preset)
        chosen = (options.top_k, options.top_p, options.min_p, options.typical_p)
        assert chosen == (0, 1.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


MODEL: list[tuple[dict[str, Any], str]] = [
    ({"logit_bias": {4096: 1}}, "logit_bias is 4096; allowed: an integer from 0 to 4095"),
    ({"bad_tokens": [[1, 4096]]}, "bad_tokens is 4096; allowed"),
    ({"forced_tokens": [4096]}, "forced_tokens is 4096; allowed"),
    ({"dry_multiplier": 1, "dry_breakers": [4096]}, "dry_breakers is 4096; allowed"),
    ({"dry_multiplier": 1, "dry_breakers": ["\n:*"]}, "dry_breakers is .* that a token contains"),
    ({"bad_tokens": range(4096)}, "rule out all 4096 tokens"),
    ({"bad_tokens": range(1, 4096), "logit_bias": {0: -INF}}, "rule out all 4096 tokens"),
    ({"min_new_tokens": 510}, "3 tokens and min_new_tokens is 510: together 513"),
    ({"forced_tokens": [5] * 510}, "3 tokens and forced_tokens is 510: together 513"),
]


@pytest.mark.parametrize(("options", "message"), MODEL)
def test_what_the_model_lacks_is_named(
    model: gpt2fast.Model, options: dict[str, Any], message: str
) -> None:
    """Catches an id beyond the vocabulary, or a text beyond the context, found late or never."""
    session = model.session()
    session.append([1, 2, 3])
    for call in (model.generate, model.stream):
        with pytest.raises(ValueError, match=message):
            call([1, 2, 3], **options)
    with pytest.raises(ValueError, match=message):
        session.generate(**options)
    assert session.tokens == [1, 2, 3]


def test_streams_and_sessions_write_one_text(model: gpt2fast.Model) -> None:
    """Catches n that is silently not obeyed."""
    session = model.session()
    session.append([1])
    untyped: Any = (lambda **o: model.stream([1], **o), session.generate, session.stream)
    for call in untyped:
        with pytest.raises(ValueError, match="n is 2; allowed: None"):
            call(n=2)
    assert session.generate(max_new_tokens=1).tokens


def test_options_need_no_tokenizer(model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches breakers looked up although DRY is off, and an error that does not say what to do."""
    monkeypatch.setattr(model._engine, "_tokenizer", None)
    monkeypatch.setattr(model._engine, "_table", None)
    monkeypatch.setattr(type(model._engine.packed), "tokenizer_table", None)
    assert model.generate([5], repetition_penalty=1.1, max_new_tokens=2).tokens
    assert model.generate([5], dry_multiplier=1, dry_breakers=[7], max_new_tokens=2).tokens
    with pytest.raises(ValueError, match=r"no tokenizer.*use token ids"):
        model.generate([5], dry_multiplier=1)
