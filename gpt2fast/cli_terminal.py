"""What the commands share: exit statuses, lines on stderr, progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

PROGRAM = "gpt2fast"
INTERRUPTED, READER_GONE = 130, 141


class UsageError(Exception):
    """An option that the command line itself refuses."""


def note(line: str, end: str = "\n") -> None:
    """Write to stderr; that it is full, or nobody reads it, is no failure of the command."""
    try:
        print(line, end=end, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere; Python would fail to flush it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def progress_line(what: str) -> Callable[[int, int], None] | None:
    """Return a function that shows (done, total) in a line of the terminal, if there is one."""
    if not sys.stderr.isatty():
        return None
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(total, 1)
        if percent != shown:
            shown = percent
            note(f"\r{what}: {percent:3d}%", end="\n" if percent >= 100 else "")

    return show


def megabytes(n_bytes: int) -> str:
    """Return a size for people."""
    return f"{n_bytes / 1e6:,.1f} MB"
