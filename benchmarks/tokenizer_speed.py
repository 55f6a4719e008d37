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

import gpt2fast
from gpt2fast.tokenizer import Tokenizer
from gpt2fast.tokenizer.files import GPT2_PATTERNS

ROUNDS = 9


def main() -> None:
    """Print one line per text."""
    data = Path(os.environ["GPT2FAST_TEST_DATA"])
    table = from_files(data).to_table()
    load = statistics.median(seconds(lambda: Tokenizer.from_table(table)) for _ in range(ROUNDS))
    print(f"load from the table: {load * 1e3:.1f} ms")
    for row in measure(data):
        rates = (f"{name} {rate:.1f}" for name, rate in row["rates"].items())
        print(f"{row['text']} ({row['bytes'] / 1e6:.2f} MB), MB/s: {', '.join(rates)}")


def measure(data: Path) -> list[dict[str, Any]]:
    """Return MB/s of every engine for each text; all have to find the same ids."""
    ours = from_files(data)
    theirs = tokenizers.ByteLevelBPETokenizer(*map(str, files(data)))
    ranks = {ours.token_bytes(token): token for token in range(50256)}
    other = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERNS[2], mergeable_ranks=ranks, special_tokens={}
    )
    names = (
        f"gpt2fast {gpt2fast.__version__}",
        f"tiktoken {tiktoken.__version__}",
        f"tokenizers {tokenizers.__version__}",
    )
    rows = []
    for path in sorted((data / "data" / "eval").glob("[tw]*.*")):
        text = path.read_text(encoding="utf-8")
        ids = ours.encode(text)
        assert ids == other.encode_ordinary(text) == theirs.encode(text).ids
        cases: dict[str, Callable[[], Any]] = {
            f"encode {names[0]}": partial(ours.encode, text),
            f"encode {names[1]}": partial(other.encode_ordinary, text),
            f"encode {names[2]}": partial(theirs.encode, text),
            f"decode {names[0]}": partial(ours.decode, ids),
            f"decode {names[1]}": partial(other.decode, ids),
            f"decode {names[2]}": partial(theirs.decode, ids),
        }
        spent: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, case in cases.items():
                spent[name].append(seconds(case))
        size = len(text.encode())
        rates = {name: size / 1e6 / statistics.median(times) for name, times in spent.items()}
        rows.append({"text": path.name, "bytes": size, "rates": rates})
    return rows


def files(data: Path) -> list[Path]:
    """Return the vocabulary and the merges of the test data."""
    return [data / "gpt2-tokenizer" / name for name in ("vocab.json", "merges.txt")]


def from_files(data: Path) -> Tokenizer:
    """Return our tokenizer, made from the test data."""
    return Tokenizer.from_files({path.name: path.read_bytes() for path in files(data)})


def seconds(case: Callable[[], Any]) -> float:
    """Return the CPU time that this thread takes for one call."""
    start = time.thread_time()
    case()
    return time.thread_time() - start


if __name__ == "__main__":
    main()
