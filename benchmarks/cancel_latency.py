"""How soon a text ends when it is told to, by cancel, deadline, Ctrl-C or asyncio.

    python -m benchmarks.cancel_latency MODEL [--threads N] [--rounds N]

Prints, in milliseconds, the median and the longest time from the word to the return of the call,
and the time of a token. For models that write 500 tokens in more than half a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import gpt2fast

SECONDS = (0.05, 0.13, 0.22, 0.31, 0.45)  # after which the word is given


def latency(call: Callable[[], object], word: Callable[[], object], seconds: float) -> float:
    """Return the time from the word, given while the call runs, to its end."""
    given = 0.0

    def give() -> None:
        nonlocal given
        time.sleep(seconds)
        given = time.perf_counter()
        word()

    thread = threading.Thread(target=give)
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        call()
    ended = time.perf_counter()
    thread.join()
    return 1000 * (ended - given)


async def task_latency(
    model: gpt2fast.Model, prompt: list[int], seconds: float, options: dict[str, Any]
) -> float:
    """Return the time from the cancelling of a task to its end."""
    task = asyncio.create_task(model.agenerate(prompt, **options))
    await asyncio.sleep(seconds)
    given = time.perf_counter()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return 1000 * (time.perf_counter() - given)


def measure(
    model: gpt2fast.Model, prompt: list[int], seconds: Sequence[float]
) -> dict[str, list[float]]:
    """Return the latencies of each kind of word, given after so many seconds."""
    options: dict[str, Any] = {"max_new_tokens": 500, "ignore_eot": True, "seed": 1}
    found: dict[str, list[float]] = {"cancel": [], "deadline": [], "Ctrl-C": [], "asyncio": []}
    interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
    for after in seconds:
        flag = gpt2fast.CancelFlag()
        cancelled = partial(model.generate, prompt, cancel=flag, **options)
        found["cancel"].append(latency(cancelled, flag.set, after))
        started = time.perf_counter()
        model.generate(prompt, deadline=after, **options)
        found["deadline"].append(1000 * (time.perf_counter() - started - after))
        interrupted = partial(model.generate, prompt, **options)
        found["Ctrl-C"].append(latency(interrupted, interrupt, after))
        found["asyncio"].append(asyncio.run(task_latency(model, prompt, after, options)))
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="How soon a text ends when it is told to.")
    parser.add_argument("model", nargs="?", default="tales")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with gpt2fast.load(arguments.model, threads=arguments.threads, prefix_cache=0) as model:
        n_ctx, n_vocab = model.config.n_ctx, model.config.n_vocab
        long = np.random.default_rng(0).integers(0, n_vocab, n_ctx - 500).tolist()
        before = model.generate([5], temperature=0, max_new_tokens=9)
        token = 1000 * before.timings.decode_seconds / 8
        print(f"{arguments.model}: {model.threads} threads, a token takes {token:.1f} ms")
        for phase, prompt in (("reading a prompt", long), ("writing", [5])):
            for word, times in measure(model, prompt, SECONDS * arguments.rounds).items():
                print(
                    f"{phase:<18} {word:<9} median {statistics.median(times):7.1f} ms, "
                    f"longest {max(times):7.1f} ms"
                )
        assert model.generate([5], temperature=0, max_new_tokens=9).tokens == before.tokens


if __name__ == "__main__":
    main()
