"""Writing files: what killed processes left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gpt2fast import atomic
from gpt2fast.atomic import replacing, sweep

fcntl = pytest.importorskip("fcntl", reason="this system has no flock")
HOUR = 3600


def abandon(directory: Path, name: str, hours: float) -> Path:
    """Make a temporary file to which nothing was written for so long."""
    path = directory / f".gpt2fast-{name}.tmp"
    path.touch()
    os.utime(path, (time.time() - HOUR * hours,) * 2)
    return path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_abandoned_files_are_swept(tmp_path: Path) -> None:
    """Catches gigabytes that a killed conversion leaves for ever, and the file of a running one."""
    for name, hours in (("old", 25.0), ("older", 1.1), ("young", 0.9), ("ahead", -25.0)):
        abandon(tmp_path, name, hours)
    for other in (".other-old.tmp", "gpt2fast-old.tmp", ".gpt2fast-old.txt"):
        (tmp_path / other).touch()
        os.utime(tmp_path / other, (0, 0))
    (tmp_path / ".gpt2fast-directory.tmp").mkdir()
    os.utime(tmp_path / ".gpt2fast-directory.tmp", (0, 0))
    held = abandon(tmp_path, "held", 23)
    with held.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = names(tmp_path)
        with replacing(tmp_path / "packed") as out:
            out.write(b"content")
    assert before - names(tmp_path) == {".gpt2fast-old.tmp", ".gpt2fast-older.tmp"}
    assert names(tmp_path) - before == {"packed"}


def test_a_file_being_written_is_not_swept(tmp_path: Path) -> None:
    """Catches a writer that does not hold its temporary file, which another sweep then takes."""
    with replacing(tmp_path / "packed") as file:
        file.write(b"content")
        [temporary] = tmp_path.iterdir()
        os.utime(temporary, (time.time() - 2 * HOUR,) * 2)
        assert sweep(tmp_path, 0) == []
    assert names(tmp_path) == {"packed"}


def test_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file system without locks on which nothing is written, or a live file is swept."""

    def refuse(_: int) -> bool:
        raise OSError("no locks available")

    monkeypatch.setattr(atomic, "try_lock", refuse)
    for name, hours in (("day", 25.0), ("hours", 23.0)):
        abandon(tmp_path, name, hours)
    with replacing(tmp_path / "packed") as file:
        file.write(b"content")
    assert names(tmp_path) == {"packed", ".gpt2fast-hours.tmp"}
