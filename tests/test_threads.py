"""Many threads, models, processes: every text is that of a quiet machine, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import gpt2fast

OPTIONS: Any = {"max_new_tokens": 8, "ignore_eot": True}
N_THREADS, N_REQUESTS = 8, 50
Request = Callable[[gpt2fast.Model, int], object]


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=2) as loaded:
        yield loaded


def prompt(i: int) -> list[int]:
    return [5 + i % 97] * (1 + i % 13)


def in_session(model: gpt2fast.Model, i: int) -> object:
    session = model.session()
    session.append(prompt(i))
    first = session.generate(seed=i, **OPTIONS).tokens
    return first, session.fork().generate(seed=i, **OPTIONS).tokens, session.logits.tobytes()


REQUESTS: list[Request] = [
    lambda model, i: model.generate(prompt(i), seed=i, **OPTIONS),
    lambda model, i: [chunk.text for chunk in model.stream(prompt(i), seed=i, **OPTIONS)],
    lambda model, i: model.generate([prompt(i), prompt(i + 1)], seed=i, n=2, **OPTIONS),
    lambda model, i: model.generate("The owl", logits_processor=lambda *_: None, seed=i, **OPTIONS),
    lambda model, i: model.logits(prompt(i)).tobytes(),
    lambda model, i: model.score(f"An old owl and {i} kings.").logprobs.tobytes(),
    in_session,
]


def test_eight_threads(model: gpt2fast.Model) -> None:
    """Catches buffers, caches or generators that calls of several threads share."""

    def request(i: int) -> object:
        return REQUESTS[i % len(REQUESTS)](model, i)

    expected = [request(i) for i in range(N_THREADS * N_REQUESTS)]
    with ThreadPoolExecutor(N_THREADS) as pool:
        assert list(pool.map(request, range(N_THREADS * N_REQUESTS))) == expected


def test_models_share_the_pool(model: gpt2fast.Model) -> None:
    """Catches one model's job on another's buffers, and a pool for each model."""
    others = [gpt2fast.load("tales", threads=threads) for threads in (1, 2, 3, 2)]
    expected = model.generate([5], seed=1, **OPTIONS)
    for other in others:
        assert other.generate([5], seed=1, **OPTIONS) == expected
    before = native_threads()
    with ThreadPoolExecutor(4) as pool:
        generate = partial(gpt2fast.Model.generate, prompt=[5], seed=1, **OPTIONS)
        futures = [pool.submit(generate, other) for other in others for _ in range(9)]
        assert all(future.result() == expected for future in futures)
        assert native_threads() - before <= 4  # those of the executor
    for other in others:
        other.close()


def native_threads() -> int:
    tasks = "/proc/self/task"
    return len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()


def test_a_callback_that_raises_among_others(model: gpt2fast.Model) -> None:
    """Catches an error that ends, or is raised in, the text of another thread."""

    def fail(*_: object) -> None:
        raise KeyError("mine")

    def request(i: int) -> object:
        if i % 3:
            return model.generate(prompt(i), seed=i, **OPTIONS)
        with pytest.raises(KeyError, match="mine"):
            model.generate(prompt(i), logits_processor=fail)
        return None

    expected = [request(i) for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(request, range(60))) == expected


def test_closed_among_others() -> None:
    """Catches weights that go away under a running call."""
    for _ in range(5):
        model = gpt2fast.load("tales", threads=2)
        expected = model.generate([5], seed=1, max_new_tokens=100, ignore_eot=True)
        begun = threading.Barrier(5)

        def request(model: gpt2fast.Model = model, begun: threading.Barrier = begun) -> object:
            begun.wait()
            try:
                return model.generate([5], seed=1, max_new_tokens=100, ignore_eot=True)
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(request) for _ in range(4)]
            begun.wait()
            model.close()
            for future in futures:
                assert future.result() in (expected, "the model is closed")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
import os, threading, gpt2fast
model = gpt2fast.load(threads=2)
expected = model.generate([5], seed=1, max_new_tokens=20)
stop = threading.Event()
def work():
    while not stop.is_set():
        model.generate([6], max_new_tokens=20)
others = [threading.Thread(target=work) for _ in range(3)]
for other in others:
    other.start()
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        same = model.generate([5], seed=1, max_new_tokens=20) == expected
        fresh = gpt2fast.load(threads=3).generate([5], seed=1, max_new_tokens=20) == expected
        os._exit(0 if same and fresh else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_among_threads() -> None:
    """Catches a child that waits for threads, or for a lock of a thread, that it does not have."""
    assert run(FORK).split() == ["0"] * 10


AFFINITY = """
import os, gpt2fast
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(gpt2fast.load().threads, gpt2fast.load(threads=2).threads)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity() -> None:
    """Catches a default of threads that quarrel over the one CPU they may use."""
    assert run(AFFINITY).split() == ["1", "2"]


CYCLES = """
import gc, sys, gpt2fast
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096
found = []
for i in range(100):
    with gpt2fast.load(mmap=i % 2 == 0, threads=2) as model:
        model.generate("Once upon a time", max_new_tokens=5, seed=1)
        session = model.session()
        session.append("The owl")
        next(session.stream())
    if i % 20 == 19:
        found.append(resident())
descriptors = len(__import__("os").listdir("/proc/self/fd"))
print(max(found[1:]) - found[0], descriptors)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_a_hundred_models() -> None:
    """Catches memory, maps or descriptors that a closed model keeps."""
    grown, descriptors = map(int, run(CYCLES).split())
    assert grown < 3_000_000  # of 5 MB for a model that stays, 500 MB for all
    assert descriptors < 10
