"""What a Python thread and a model that writes cost each other.

    python -m benchmarks.gil MODEL [--threads N] [--rounds N] [--seconds S]

A thread counts in plain Python, a model writes, and both at once, in turn. Prints what each keeps
of its speed alone: the median of the rounds, and the lowest. The GIL is free while the model
computes; a call on the main thread takes it every 50 ms to look for signals, a stream for each of
its bursts. With as many native threads as CPUs the counting thread and they share CPUs as well.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import gpt2fast

OPTIONS: Any = {"ignore_eot": True, "temperature": 0, "max_new_tokens": 400}
Write = Callable[[gpt2fast.Model, float], float]


def count(stop: threading.Event) -> int:
    """Return how far Python counts until it is stopped."""
    n = 0
    while not stop.is_set():
        for _ in range(1000):
            n += 1
    return n


def generate(model: gpt2fast.Model, seconds: float) -> float:
    """Return the tokens per second of `generate`."""
    n, spent, end = 0, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        done = model.generate([5], deadline=seconds, **OPTIONS)
        n, spent = n + len(done.tokens) - 1, spent + done.timings.decode_seconds
    return n / spent


def stream(model: gpt2fast.Model, seconds: float) -> float:
    """Return the tokens per second of `stream`."""
    n, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in model.stream([5], deadline=seconds, **OPTIONS):
            n += 1
    return n / (time.perf_counter() - started)


def in_thread(model: gpt2fast.Model, seconds: float) -> float:
    """Return the tokens per second of `generate` in a thread that is not the main one."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(generate(model, seconds)))
    thread.start()
    thread.join()
    return found[0]


WAYS: dict[str, Write] = {"generate": generate, "in a thread": in_thread, "stream": stream}


def measure(
    model: gpt2fast.Model, write: Write, rounds: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Return, for each round, what the counting thread keeps of its speed, and the model."""
    counting, writing = [], []
    for _ in range(rounds):
        alone = counted(lambda: time.sleep(seconds))[0]
        fast = write(model, seconds)
        speed, together = counted(lambda: write(model, seconds))
        counting.append(speed / alone)
        writing.append(together / fast)
    return counting, writing


def counted(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the counts per second of a thread while the call runs, and its result."""
    stop, found = threading.Event(), list[int]()
    thread = threading.Thread(target=lambda: found.append(count(stop)))
    started = time.perf_counter()
    thread.start()
    result = call()
    stop.set()
    thread.join()
    return found[0] / (time.perf_counter() - started), result


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="What Python and a model cost each other.")
    parser.add_argument("model", nargs="?", default="tales")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args(arguments)
    with gpt2fast.load(given.model, threads=given.threads) as model:
        model.generate([5], ignore_eot=True, max_new_tokens=9)  # reads the weights
        for name, write in WAYS.items():
            counting, writing = measure(model, write, given.rounds, given.seconds)
            print(
                f"{given.model}, {model.threads} threads, {name:<11}  counting keeps "
                f"{100 * statistics.median(counting):3.0f}% (least {100 * min(counting):3.0f}%), "
                f"writing {100 * statistics.median(writing):3.0f}% "
                f"(least {100 * min(writing):3.0f}%)",
                flush=True,
            )


if __name__ == "__main__":
    main()
