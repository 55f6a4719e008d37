"""Writing a file so that its name holds the old content or the whole new one, never a part."""

from __future__ import annotations

import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

ABANDONED = 24 * 60 * 60  # seconds


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that takes the place of `path` at the end of the block.

    It is removed if the block raises; one that a killed process left is, a day later, by the next
    write. It lies in the same directory; it is flushed to the disk
    before the rename, and the directory after. An existing file's permission bits are kept. Raises
    OSError, among others if `path` is a directory or device.
    """
    mode = None
    with suppress(FileNotFoundError):
        existing = path.stat()
        if not stat.S_ISREG(existing.st_mode):
            raise FileExistsError(f"{path} exists and is not a regular file")
        mode = stat.S_IMODE(existing.st_mode)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the directory {path.parent} does not exist")
    _sweep(path.parent)
    temporary = path.parent / f".gpt2fast-{secrets.token_hex(8)}.tmp"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _sweep(directory: Path) -> None:
    """Remove temporary files to which nothing was written for a day."""
    for found in directory.glob(".gpt2fast-*.tmp"):
        with suppress(OSError):  # gone, or somebody else's
            status = found.lstat()
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > ABANDONED:
                found.unlink()


def _sync_directory(directory: Path) -> None:
    """Make the rename itself durable; Windows has no such call for directories."""
    if sys.platform == "win32":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
