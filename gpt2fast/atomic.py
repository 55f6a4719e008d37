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

from gpt2fast.locks import try_lock

UNUSED, ABANDONED = 60 * 60, 24 * 60 * 60  # seconds


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that takes the place of `path` at the end of the block.

    It is removed if the block raises; one that a killed process left is, an hour later (a day where
    the file system has no locks), by the next write. It lies in the same directory; it is flushed
    to the disk before the rename, and the directory after. An existing file's permission bits are
    kept. Raises OSError, among others if `path` is a directory or device.
    """
    mode = None
    with suppress(FileNotFoundError):
        existing = path.stat()
        if not stat.S_ISREG(existing.st_mode):
            raise FileExistsError(f"{path} exists and is not a regular file")
        mode = stat.S_IMODE(existing.st_mode)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the directory {path.parent} does not exist")
    sweep(path.parent)
    temporary = path.parent / f".gpt2fast-{secrets.token_hex(8)}.tmp"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if sys.platform != "win32":  # which lets nobody remove an open file
                with suppress(OSError):
                    try_lock(descriptor)
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # which lets nobody rename one either
                os.replace(temporary, path)
        if sys.platform == "win32":
            os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def sweep(directory: Path, unused: float = UNUSED) -> list[Path]:
    """Remove the temporary files that nobody writes any more, and return them.

    Those are the ones that nobody holds, if nothing was written to them for `unused` seconds, and
    any after a day.
    """
    removed = []
    for found in directory.glob(".gpt2fast-*.tmp"):
        with suppress(OSError):  # gone, or somebody else's
            status = found.lstat()
            age = time.time() - status.st_mtime
            if not stat.S_ISREG(status.st_mode) or age <= unused:
                continue
            if age > ABANDONED or _nobody_holds(found):
                found.unlink()
                removed.append(found)
    return removed


def _nobody_holds(path: Path) -> bool:
    """Tell whether a file can be locked. Raises OSError if that cannot be told."""
    if sys.platform == "win32":
        return True  # or it cannot be removed
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """Make the rename itself durable; Windows has no such call for directories."""
    if sys.platform == "win32":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
