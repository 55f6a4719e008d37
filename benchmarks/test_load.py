"""From a packed file to a first token; the file is in the page cache, as after a first use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2fast
from benchmarks.measure import Measure
from benchmarks.models import Subject

TOKEN = "gpt2fast.load({path!r}, threads={threads}).generate([7], max_new_tokens=1, seed=1).tokens"


def test_open(measure: Measure, subject: Subject) -> None:
    """`load` alone: it reads the header and no weight."""

    def load() -> gpt2fast.Model:
        return gpt2fast.load(subject.path)

    with load() as model:
        assert model.config == subject.config and model.dtype == subject.dtype
    measure(lambda: load().close())


def test_first_token(measure: Measure, subject: Subject, threads: int) -> None:
    """`load` and one token: the weights are mapped page by page as they are read."""

    def token() -> list[int]:
        with gpt2fast.load(subject.path, threads=threads) as model:
            return list(model.generate([7], max_new_tokens=1, seed=1).tokens)

    assert token() == token()
    measure(token, subject.work(1, 1), threads=threads, path=subject.path)


@pytest.mark.skipif(os.name != "posix", reason="the time of child processes is not known")
def test_process(measure: Measure, subject: Subject, threads: int) -> None:
    """The same in a process of its own: the interpreter and the imports as well."""
    code = f"import gpt2fast; print({TOKEN.format(path=str(subject.path), threads=threads)})"
    package = Path(gpt2fast.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}

    def token() -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    with gpt2fast.load(subject.path, threads=1) as model:
        expected = model.generate([7], max_new_tokens=1, seed=1).tokens
    assert token().strip() == str(list(expected))
    measure(token, subject.work(1, 1), threads=threads, path=subject.path)
