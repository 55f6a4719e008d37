"""The tokenizer in MB/s of text, on one thread. No roof of `_core.roofs` bounds it.

The bundled model's vocabulary always; GPT-2's if GPT2FAST_TEST_DATA names a folder that has it.
"""

from __future__ import annotations

import os
import pydoc_data.topics
from functools import cache
from pathlib import Path

import pytest

from benchmarks.measure import Measure
from gpt2fast.loading import load_packed
from gpt2fast.tokenizer import Tokenizer

MEGABYTE = 1_000_000


@cache
def vocabulary(name: str) -> tuple[Tokenizer, str]:
    """Return a tokenizer and a megabyte of English."""
    if name == "tales":
        table = load_packed("tales").tokenizer_table
        assert table is not None
        return Tokenizer.from_table(table), repeated("".join(pydoc_data.topics.topics.values()))
    folder = os.environ.get("GPT2FAST_TEST_DATA")
    if not folder:
        pytest.skip("GPT2FAST_TEST_DATA is not set")
    files = [Path(folder, "gpt2-tokenizer", file) for file in ("vocab.json", "merges.txt")]
    texts = sorted(Path(folder, "data", "eval").glob("[tw]*.*"))
    text = "".join(path.read_text(encoding="utf-8") for path in texts)
    return Tokenizer.from_files({file.name: file.read_bytes() for file in files}), repeated(text)


def repeated(text: str) -> str:
    return (text * -(-MEGABYTE // len(text)))[:MEGABYTE]


@pytest.mark.parametrize("name", ["tales", "gpt2"])
def test_encode(measure: Measure, name: str) -> None:
    tokenizer, text = vocabulary(name)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    size = len(text.encode()) / MEGABYTE
    measure(lambda: tokenizer.encode(text), per_call=size, unit="MB/s")


@pytest.mark.parametrize("name", ["tales", "gpt2"])
def test_decode(measure: Measure, name: str) -> None:
    tokenizer, text = vocabulary(name)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    size = len(text.encode()) / MEGABYTE
    measure(lambda: tokenizer.decode(tokens), per_call=size, unit="MB/s")


@pytest.mark.parametrize("name", ["tales", "gpt2"])
def test_from_table(measure: Measure, name: str) -> None:
    """What a packed file's tokenizer takes to be ready."""
    tokenizer, text = vocabulary(name)
    table = tokenizer.to_table()
    assert Tokenizer.from_table(table).encode(text[:1000]) == tokenizer.encode(text[:1000])
    measure(lambda: Tokenizer.from_table(table))
