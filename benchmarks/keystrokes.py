"""How soon a completion comes at each key: the end of a long prompt is edited again and again.

    python -m benchmarks.keystrokes MODEL [--threads N] [--edits N] [--prompt-tokens N]

One character at a time is typed, or now and then taken back, and after each the model writes a few
tokens. Prints, in milliseconds, the median and the longest time per completion, with what was
processed before kept (`prefix_cache`) and, for some of the edits, without. The ids are those of the
bundled model's tokenizer, whatever the model.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator

import gpt2fast

TEXT = "the old king lived by the sea, and his daughter went down to the water every day; "
NEW = 5  # tokens of a completion


def edits(n: int) -> Iterator[str]:
    """Yield what was typed so far, after each of n keys; one in ten takes a character back."""
    keys, typed = random.Random(0), ""
    for i in range(n):
        typed = typed[:-1] if typed and keys.random() < 0.1 else typed + TEXT[i % len(TEXT)]
        yield typed


def prompts(n_edits: int, n_tokens: int) -> Iterator[list[int]]:
    """Yield the ids of a prompt of so many tokens after each edit at its end."""
    with gpt2fast.load("tales") as tales:
        encode = tales.tokenizer.encode
        start = (encode(TEXT) * (n_tokens // 8))[:n_tokens]
        for typed in edits(n_edits):
            yield start + encode(typed)


def measure(model: gpt2fast.Model, texts: list[list[int]]) -> tuple[list[float], list[list[int]]]:
    """Return the milliseconds of each completion, and what was written."""
    times, written = [], []
    for text in texts:
        began = time.perf_counter()
        done = model.generate(text, max_new_tokens=NEW, seed=1, ignore_eot=True)
        times.append(1000 * (time.perf_counter() - began))
        written.append(done.tokens)
    return times, written


def main(arguments: list[str] | None = None) -> None:
    """Measure and print two lines."""
    parser = argparse.ArgumentParser(description="How soon a completion comes at each key.")
    parser.add_argument("model", nargs="?", default="tales")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--prompt-tokens", type=int, default=600)
    given = parser.parse_args(arguments)
    texts = list(prompts(given.edits, given.prompt_tokens))
    few = texts[:: max(1, len(texts) // 10)]
    with gpt2fast.load(given.model, threads=given.threads) as model:
        times, written = measure(model, texts)
        print(
            f"{given.model}: {model.threads} threads, {NEW} tokens after {given.prompt_tokens} and "
            f"more, {len(texts)} edits"
        )
        print(f"kept     median {statistics.median(times[1:]):8.1f} ms, "
              f"longest {max(times[1:]):8.1f} ms, first {times[0]:8.1f} ms")  # fmt: skip
    with gpt2fast.load(given.model, threads=given.threads, prefix_cache=0) as model:
        times, again = measure(model, few)
        print(f"not kept median {statistics.median(times):8.1f} ms, longest {max(times):8.1f} ms")
    assert again == written[:: max(1, len(texts) // 10)], "other texts with what was kept"


if __name__ == "__main__":
    main()
