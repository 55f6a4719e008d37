"""Whole models: prompts, steps at short and long context, batches, scoring, and `generate`.

A step's share counts the weights alone, which is less than it reads; the note in the summary adds
the keys and values. A prompt's share counts the linear layers over the time of everything.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt2fast
from benchmarks.measure import Measure
from benchmarks.models import Subject, cache_dtype
from gpt2fast import _core

pytestmark = pytest.mark.usefixtures("target")

PROMPT = 512
STEPS = 64  # over which the context grows before it is cut back
BATCH = 8


@pytest.mark.parametrize("context", [32, 900])
def test_decode(measure: Measure, subject: Subject, context: int, threads: int) -> None:
    """One token after another, the context going from `context` to 64 more."""
    step = Steps(subject, 1, context, threads)
    step.check()
    work = subject.work(1, 1, context + STEPS / 2)
    measure(step, work, threads=threads, per_call=1, unit="tokens/s", path=subject.path)


def test_batch(measure: Measure, subject: Subject, threads: int) -> None:
    """Eight sequences at once, as `test_decode` at 32 tokens."""
    step = Steps(subject, BATCH, 32, threads)
    step.check()
    work = subject.work(BATCH, BATCH, BATCH * (32 + STEPS / 2))
    measure(step, work, threads=threads, per_call=BATCH, unit="tokens/s", path=subject.path)


@pytest.mark.parametrize("rows", [1, PROMPT], ids=["last", "all"])
def test_prompt(measure: Measure, subject: Subject, rows: int, threads: int) -> None:
    """512 tokens on an empty cache; logits of the last one, or of all."""
    cache, tokens = subject.new_cache(), subject.tokens(PROMPT)
    logits: list[NDArray[np.float32]] = []

    def prompt() -> None:
        cache.truncate(0)
        logits[:] = subject.forward([cache], tokens, rows, threads)

    work = subject.work(PROMPT, rows)
    measure(prompt, work, threads=threads, per_call=PROMPT, unit="tokens/s", path=subject.path)
    assert np.array_equal(logits[0][-1:], reread(subject, cache, tokens))


def test_score(measure: Measure, subject: Subject, threads: int) -> None:
    """512 tokens on an empty cache; how likely each next one is."""
    cache, tokens = subject.new_cache(), subject.tokens(PROMPT)
    targets = np.roll(tokens, -1)
    scores: list[NDArray[np.void]] = []

    def score() -> None:
        cache.truncate(0)
        scores[:] = subject.core.score([cache], [tokens], [targets], prompt_threads=threads)

    work = subject.work(PROMPT, PROMPT)
    measure(score, work, threads=threads, per_call=PROMPT, unit="tokens/s", path=subject.path)
    last = _core.score(reread(subject, cache, tokens)[0], int(targets[-1]))
    assert scores[0][-1].item() == last


def test_generate(measure: Measure, subject: Subject, threads: int) -> None:
    """`Model.generate` of 64 tokens after 32: sampling, stop tests and Python on top."""
    prompt = subject.tokens(32).tolist()
    written: list[int] = []
    with gpt2fast.load(
        subject.path, threads=threads, cache_dtype=cache_dtype(subject.dtype), prefix_cache=0
    ) as model:

        def generate() -> None:
            completion = model.generate(prompt, max_new_tokens=STEPS, seed=1, ignore_eot=True)
            written[:] = completion.tokens

        one = subject.work(1, 1)
        work = type(one)(STEPS * one.bytes, (STEPS + 31) * one.operations, one.dtype)
        measure(generate, work, threads=threads, per_call=STEPS, unit="tokens/s", path=subject.path)
        few = model.generate(prompt, max_new_tokens=4, seed=1, ignore_eot=True).tokens
    assert len(written) == STEPS and written[:4] == list(few)


def reread(subject: Subject, cache: _core.Cache, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the logits after the tokens, the last 100 of them read again on one thread."""
    other = cache.fork()
    start = max(0, len(tokens) - 100)
    other.truncate(start)
    return subject.forward([other], tokens[start:], 1, 1)[0]


class Steps:
    """One step of some sequences at each call; every STEPS calls they are cut back."""

    def __init__(self, subject: Subject, n: int, context: int, threads: int) -> None:
        self._subject, self._context, self._threads = subject, context, threads
        self._caches = [subject.cache_after(i, i + context, threads) for i in range(n)]
        self._token = np.array([7], np.int32)

    def __call__(self) -> list[NDArray[np.float32]]:
        if self._caches[0].length == self._context + STEPS:
            for cache in self._caches:
                cache.truncate(self._context)
        logits = self._subject.forward(self._caches, self._token, 1, self._threads)
        self._token[0] = logits[0][0].argmax()
        return list(logits)

    def check(self) -> None:
        """The last sequence's next logits are those it has alone, as a prompt, on one thread."""
        start = len(self._caches) - 1
        text = np.append(self._subject.tokens(start + self._context)[start:], self._token)
        logits = self()[-1]
        assert np.array_equal(logits, reread(self._subject, self._caches[-1], text))
