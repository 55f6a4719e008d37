"""The scripts of this folder run: nothing here is timed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import gpt2fast
from benchmarks import cancel_latency, gil, keystrokes, presets
from gpt2fast.presets import PRESETS


def test_repetition_and_distinct() -> None:
    """Catches a metric that counts otherwise than its papers."""
    assert presets.repetition([1, 2, 1, 2, 1], 2) == 0.5
    assert presets.repetition([1, 2, 3], 2) == 0
    assert presets.distinct([[1, 2], [1, 2, 3]], 2) == 2 / 3


@pytest.mark.skipif("GPT2FAST_TEST_DATA" not in os.environ, reason="GPT2FAST_TEST_DATA is not set")
def test_presets(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a script that no longer runs, or a preset that its table leaves out."""
    presets.main(["--texts", "2"])
    lines = capsys.readouterr().out.splitlines()[2:]
    names = [line.split("|")[1].strip() for line in lines]
    assert names == ["books", "temperature=0", "no preset", *PRESETS]


def test_cancel_latency() -> None:
    """Catches a script that no longer runs, or a word that is not heard."""
    with gpt2fast.load("tales", threads=1) as model:
        found = cancel_latency.measure(model, [5], [0.01])
    assert all(-10 < time < 5000 for times in found.values() for time in times)


def test_keystrokes(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a script that no longer runs, or texts that depend on what is kept."""
    keystrokes.main(["--edits", "12", "--prompt-tokens", "40", "--threads", "1"])
    assert capsys.readouterr().out.count("median") == 2


def test_desktop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a script that no longer runs, and a picture that is none."""
    pytest.importorskip("PySide6.QtTest", reason="PySide6 is not installed", exc_type=ImportError)
    from benchmarks import desktop

    desktop.main(["--picture", str(tmp_path / "window.png")])
    assert (tmp_path / "window.png").read_bytes().startswith(b"\x89PNG")
    desktop.main(["--threads", "1"])
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_gil(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a script that no longer runs, or a way of writing that it leaves out."""
    gil.main(["--rounds", "1", "--seconds", "0.05"])
    lines = capsys.readouterr().out.splitlines()
    assert [name in line for name, line in zip(gil.WAYS, lines, strict=True)] == [True] * 3
