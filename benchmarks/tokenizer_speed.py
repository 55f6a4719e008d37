"""MB/s of encoding and decoding beside tiktoken and tokenizers: medians of interleaved runs.

GPT2FAST_TEST_DATA=... python benchmarks/tokenizer_speed.py     (CPU time of one thread)
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers

from gpt2fast.tokenizer import Tokenizer
from gpt2fast.tokenizer_files import GPT2_PATTERNS

ROUNDS = 9


def main() -> None:
    """Print one line per text."""
    data = Path(os.environ["GPT2FAST_TEST_DATA"])
    names = [data / "gpt2-tokenizer" / name for name in ("vocab.json", "merges.txt")]
    ours = Tokenizer.from_files({path.name: path.read_bytes() for path in names})
    theirs = tokenizers.ByteLevelBPETokenizer(*map(str, names))
    ranks = {ours.token_bytes(token): token for token in range(50256)}
    other = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERNS[2], mergeable_ranks=ranks, special_tokens={}
    )
    table = ours.to_table()
    load = statistics.median(seconds(lambda: Tokenizer.from_table(table)) for _ in range(ROUNDS))
    print(f"load from the table: {load * 1e3:.1f} ms")
    for path in sorted((data / "data" / "eval").glob("[tw]*.*")):
        text = path.read_text(encoding="utf-8")
        ids = ours.encode(text)
        assert ids == other.encode_ordinary(text) == theirs.encode(text).ids
        cases: dict[str, Callable[[], Any]] = {
            "encode gpt2fast": partial(ours.encode, text),
            "tiktoken": partial(other.encode_ordinary, text),
            "tokenizers": partial(theirs.encode, text),
            "decode gpt2fast": partial(ours.decode, ids),
            "decode tiktoken": partial(other.decode, ids),
        }
        spent: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, case in cases.items():
                spent[name].append(seconds(case))
        size = len(text.encode()) / 1e6
        rates = (f"{name} {size / statistics.median(times):.1f}" for name, times in spent.items())
        print(f"{path.name} ({size:.2f} MB), MB/s: {', '.join(rates)}")


def seconds(case: Callable[[], Any]) -> float:
    """Return the CPU time that this thread takes for one call."""
    start = time.thread_time()
    case()
    return time.thread_time() - start


if __name__ == "__main__":
    main()
