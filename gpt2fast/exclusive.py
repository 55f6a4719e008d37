"""One call at a time: a second one is refused, not queued."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Exclusive:
    """A lock that never waits: RuntimeError, saying what is busy, if it is taken.

    Waiting could be for ever: the holder may be the call that a signal handler interrupted.
    """

    def __init__(self, busy: str) -> None:
        self._lock = threading.Lock()
        self._busy = busy

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for the block, which may end in any thread.

        An interrupt at whatever moment leaves it free, at the latest when its traceback is.
        """
        taken: list[bool] = []
        try:
            # Taken and noted in one call of C: no signal handler comes between the two.
            taken.extend(map(self._lock.acquire, (False,)))
            if taken == [False]:
                raise RuntimeError(self._busy)
            yield
        finally:
            if taken == [True]:
                self._lock.release()
