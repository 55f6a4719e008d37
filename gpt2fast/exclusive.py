"""One call at a time: a second one is refused, not queued."""

from __future__ import annotations

import threading


class Exclusive:
    """A lock for `with` that never waits: RuntimeError, saying what is busy, if it is taken.

    Waiting could be for ever: the holder may be the call that a signal handler interrupted.
    """

    def __init__(self, busy: str) -> None:
        self._lock = threading.Lock()
        self._busy = busy

    def acquire(self) -> None:
        """Take the lock, or raise RuntimeError."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(self._busy)

    def release(self) -> None:
        """Give the lock back, from any thread."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
