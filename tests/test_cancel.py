"""Ending a text from outside while its prompt is read, and what is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest

import gpt2fast
from gpt2fast.engine import prompt_chunk

PROMPT = [5 + i % 90 for i in range(480)]


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("width", "dtype", "chunk"),
    [(768, "int8", 512), (1600, "int8", 512), (3200, "int8", 128), (1600, "float32", 192)],
)
def test_wide_models_read_less_at_a_time(width: int, dtype: str, chunk: int) -> None:
    """Catches a matrix of a prompt that takes so long that a cancel is heard too late."""
    config: Any = SimpleNamespace(n_embd=width, n_inner=4 * width)
    assert prompt_chunk(config, dtype) == chunk


def test_the_chunk_does_not_matter(model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a text that depends on how its prompt is cut."""
    expected = model.generate(PROMPT, seed=1, max_new_tokens=10)
    for chunk in (1, 7, 64, 200):
        monkeypatch.setattr(model._engine, "chunk", chunk)
        assert model.generate(PROMPT, seed=1, max_new_tokens=10) == expected


def test_ended_while_reading(model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a chunk that is half in the cache, or a session that goes on from it wrongly."""
    monkeypatch.setattr(model._engine, "chunk", 16)
    expected = model.generate(PROMPT, seed=3, max_new_tokens=8)
    lengths, seconds = set(), 1e-4
    while True:
        session = model.session()
        session.append(PROMPT)
        done = session.generate(deadline=seconds, max_new_tokens=8, seed=3)
        if done.tokens:
            break
        lengths.add(session._cache.length)
        assert done.finish_reason == "deadline"
        assert session._cache.length % 16 == 0
        assert session.tokens == PROMPT
        assert session.generate(max_new_tokens=8, seed=3).tokens == expected.tokens
        seconds *= 1.2
    assert len(lengths) > 2


def test_a_long_batch_of_prompts_ends_at_once(model: gpt2fast.Model) -> None:
    """Catches a word that is heard only between prompts: these take a second and more."""
    started = time.monotonic()
    done = model.generate([PROMPT] * 64, deadline=0.01, max_new_tokens=8)
    assert time.monotonic() - started < 0.5
    assert {completion.finish_reason for completion in done} == {"deadline"}
    assert not any(completion.tokens for completion in done)


def test_scoring_ends_at_once(model: gpt2fast.Model) -> None:
    """Catches a flag that scoring does not hear, or hears late, and a model that it harms."""
    expected = model.score(PROMPT).logprobs.tobytes()
    flag = gpt2fast.CancelFlag()
    timer = threading.Timer(0.02, flag.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        model.score([PROMPT[:200]] * 200, context=PROMPT[:300], cancel=flag)
    assert 0.02 <= time.monotonic() - started < 0.5
    timer.join()
    with pytest.raises(CancelledError):
        model.perplexity(PROMPT * 100, cancel=flag)
    flag.clear()
    assert model.score(PROMPT, cancel=flag).logprobs.tobytes() == expected


def test_perplexity_ends_between_two_windows(model: gpt2fast.Model) -> None:
    """Catches a long text that goes on to be read after its flag was set."""
    flag, seen = gpt2fast.CancelFlag(), []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        flag.set()

    with pytest.raises(CancelledError):
        model.perplexity(PROMPT * 10, progress=progress, cancel=flag)
    assert len(seen) == 1


@pytest.mark.parametrize("cancel", [True, "now", threading.Event()])
def test_what_is_no_flag(model: gpt2fast.Model, cancel: Any) -> None:
    """Catches a word that is taken for a flag, and never heard."""
    for call in (model.score, model.perplexity):
        with pytest.raises(ValueError, match=r"cancel is .*; allowed: a gpt2fast\.CancelFlag"):
            call(PROMPT, cancel=cancel)
