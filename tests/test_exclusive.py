"""One call at a time: streams and sessions that two threads, or a signal handler, get hold of."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import gpt2fast
from gpt2fast import generation, session
from gpt2fast._generate import Sequence, Workspace, run
from gpt2fast.generation.plan import Plan
from gpt2fast.sampling import Options

PROMPT = [5, 6, 7]
ENDLESS: dict[str, Any] = {"seed": 1, "max_new_tokens": 200, "ignore_eot": True}


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def in_threads(work: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_share_a_stream(model: gpt2fast.Model) -> None:
    """Catches a token written beyond the buffer, and one lost or handed out twice."""
    expected = model.generate(PROMPT, **ENDLESS).tokens
    stream = model.stream(PROMPT, **ENDLESS)
    got: list[int | None] = []
    refused = set()

    def read() -> None:
        while True:
            try:
                got.append(next(stream).token)
            except StopIteration:
                return
            except RuntimeError as error:
                refused.add(str(error))

    in_threads(read)
    assert refused <= {"the stream is in use by another thread or signal handler"}
    assert sorted(map(int, filter(None, got))) == sorted(expected)
    assert stream.completion.tokens == expected


def test_threads_share_a_sequence(model: gpt2fast.Model) -> None:
    """Catches two native loops that write one text, or through the same scratch buffers."""
    core = model._engine.core
    options = Options(max_new_tokens=500, seed=1)
    writing = generation.Writing(Plan(model._engine, options), PROMPT)
    text, workspace = writing.start(core), Workspace(model.config.n_vocab)
    refused = []

    def step(*texts: Sequence) -> None:
        run(core, list(texts), workspace, threads=1, prompt_threads=1, seconds=0.0)

    def work() -> None:
        for _ in range(50):
            try:
                step(text)
            except RuntimeError as error:
                refused.append(str(error))

    in_threads(work)
    assert text.n_tokens == len(PROMPT) + 150 - len(refused)
    with pytest.raises(RuntimeError, match="in use by another call"):
        step(text, text)
    step(text)


CALLS: dict[str, Callable[[session.Session], object]] = {
    "append": lambda it: it.append([1]),
    "truncate": lambda it: it.truncate(1),
    "fork": lambda it: it.fork(),
    "logits": lambda it: it.logits,
    "generate": lambda it: it.generate(max_new_tokens=1),
    "stream": lambda it: it.stream(max_new_tokens=1),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("running", ["generate", "logits", "stream"])
def test_handler_uses_the_session(
    model: gpt2fast.Model, running: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a session changed under a call of its own: it would go on with wrong logits."""
    it = model.session()
    it.append(PROMPT)

    def refused() -> None:
        tokens, length = it.tokens, it._cache.length
        with pytest.raises(RuntimeError, match="session is in use"):
            CALLS[call](it)
        assert (it.tokens, it._cache.length) == (tokens, length)

    if running == "stream":
        stream = it.stream(seed=1, max_new_tokens=9)
        for _ in stream:
            if stream._closed:
                break
            refused()
    elif running == "generate":
        complete = generation.complete

        def interrupted(*arguments: Any) -> Any:
            refused()
            done = complete(*arguments)
            refused()
            return done

        monkeypatch.setattr(session, "complete", interrupted)
        assert it.generate(seed=1, max_new_tokens=9).tokens == it.tokens[3:]
        monkeypatch.undo()
    else:
        read = it._read

        def interrupted_read(pending: list[int]) -> None:
            refused()
            read(pending)
            refused()

        monkeypatch.setattr(it, "_read", interrupted_read)
        assert it.logits.size
    CALLS[call](it)
    assert it.tokens[:1] == PROMPT[:1]


def test_threads_share_a_session(model: gpt2fast.Model) -> None:
    """Catches tokens and cache that come apart."""
    it = model.session()
    it.append([5] * 200)

    def work() -> None:
        for _ in range(30):
            try:
                assert it.logits.size
                it.truncate(100)
                it.append([7] * 60)
                it.generate(max_new_tokens=3)
            except (ValueError, RuntimeError):
                pass

    in_threads(work)
    assert np.array_equal(it.logits, model.logits(it.tokens, last_only=True))


def test_text_that_never_started(model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches uninitialised ids in a session, or one that stays locked, after a failed start."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    it = model.session()
    it.append(PROMPT)
    monkeypatch.setattr(generation, "Sequence", interrupted)
    for start in (it.generate, it.stream):
        with pytest.raises(KeyboardInterrupt):
            start(max_new_tokens=20)
        assert it.tokens == PROMPT
    monkeypatch.undo()
    assert it.generate(max_new_tokens=2).prompt_tokens == PROMPT


def test_interrupt_when_the_logits_are_there(
    model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches logits of an earlier token, because only the cache knew the later ones."""
    it = model.session()
    it.append(PROMPT)
    assert it.logits.size
    it.append([9, 8])
    copy, it._logits = it._logits, None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        _ = it.logits
    it._logits = copy
    assert np.array_equal(it.logits, model.logits([*PROMPT, 9, 8], last_only=True))
    with monkeypatch.context() as patch:
        patch.setattr(generation.Writing, "drawn", [])  # lost, as by an interrupt in `finally`
        it.generate(max_new_tokens=5)
    it.append([4])
    assert np.array_equal(it.logits, model.logits([*PROMPT, 9, 8, 4], last_only=True))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in some __del__
@pytest.mark.parametrize("work", ["calls", "streams"])
def test_interrupted_at_any_moment(model: gpt2fast.Model, work: str) -> None:
    """Catches a session that is in use for ever, when a signal came as it was taken or given."""
    it = model.session()
    it.append(PROMPT)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def go_on() -> None:
        if work == "calls":
            it.append([1])
        else:
            list(it.stream(max_new_tokens=2, seed=1))
        it.truncate(3)

    def send(after: float) -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        for i in range(300):
            sender = threading.Thread(target=send, args=(2e-4 + i * 1e-6,))
            try:
                sender.start()
                while sender.is_alive():
                    go_on()
                sender.join()
            except KeyboardInterrupt:
                sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert np.array_equal(it.logits, model.logits(it.tokens, last_only=True))
