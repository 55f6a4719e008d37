"""Estimating and verifying a packed file, and the report of `benchmarks/memory.py`."""

from __future__ import annotations

import sys

import pytest

import gpt2fast
from benchmarks import memory
from benchmarks.measure import Measure
from benchmarks.models import Library, Subject
from gpt2fast.checkpoints.packed import open_packed


def test_estimate(measure: Measure, subject: Subject) -> None:
    """What a packed file takes, from its header."""
    assert gpt2fast.estimate(subject.path).file == subject.path.stat().st_size
    measure(lambda: gpt2fast.estimate(subject.path))


def test_verify(measure: Measure, subject: Subject) -> None:
    """The whole file read and checked; its rate is that of SHA-256."""
    size = subject.path.stat().st_size
    measure(lambda: open_packed(subject.path, verify=True), per_call=size / 1e6, unit="MB/s")


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_report(
    library: Library,
    size: str,
    dtype: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The report, made once; what it times is only worth reading when nothing else runs."""
    if not request.config.getoption("benchmark_disable"):
        pytest.skip("python -m benchmarks.memory prints it")
    memory.report(library.packed(size, dtype), threads=1, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    heads = ["file", "  ", "warm", "peak memory", "process 1", "process 2", "cold", "verify"]
    assert [line[: len(head)] for line, head in zip(lines, heads, strict=True)] == heads
