"""Locks between processes, and between threads, that end with their holder.

The operating system keeps them (flock; LockFile on Windows), so a killed process leaves none.
Where a file system has no locks, everybody goes on without: files are still replaced in one step,
and the only loss is work done twice.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt2fast.progress import Progress

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BEYOND = 1 << 30  # Windows locks bytes, and nobody may read them: one that is never written
_LINE = re.compile(rb" *(\d+) +(\d+)\n")
_POLL, _TELL = 0.05, 0.2  # seconds


def try_lock(descriptor: int) -> bool:
    """Lock an open file unless somebody else has; closing it unlocks.

    Raises OSError where the file system has no locks.
    """
    if sys.platform == "win32":
        try:
            os.lseek(descriptor, _BEYOND, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
    else:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def exclusive(path: Path, waiting: Progress | None = None) -> Iterator[Progress]:
    """Hold the lock file `path` in the block; wait while another process or thread has it.

    Yields a function that tells the waiting how far the holder is; `waiting` is what a waiting
    caller is told. The file is removed at the end. Raises OSError if it cannot be made.
    """
    descriptor = _acquire(path, waiting)
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL:
            told = time.monotonic()
            with suppress(OSError):
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, b"%20d %20d\n" % (done, total))

    try:
        yield tell
    finally:
        _release(path, descriptor)


def _acquire(path: Path, waiting: Progress | None) -> int:
    last: bytes | None = None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            while not _locked(descriptor):
                os.lseek(descriptor, 0, os.SEEK_SET)
                line = _LINE.fullmatch(os.read(descriptor, 64))
                if waiting is not None and line and line[0] != last:
                    last = line[0]
                    waiting(int(line[1]), int(line[2]))
                time.sleep(_POLL)
            if _same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it; another one may be there


def _locked(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:
        return True  # no locks here: go on without


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: int) -> None:
    if sys.platform == "win32":
        os.close(descriptor)
        with suppress(OSError):  # open elsewhere: whoever waits removes it
            os.unlink(path)
    else:
        with suppress(OSError):
            os.unlink(path)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also if a forked process shares the file
        os.close(descriptor)
