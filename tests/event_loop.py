"""Letting a window run, and seeing whether it ever keeps one waiting."""

from __future__ import annotations

import time
from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer
from PySide6.QtTest import QTest

from gpt2fast.desktop.window import Window


def wait(window: Window, until: Callable[[], bool] = lambda: True) -> None:
    """Let the window run until a job has ended and the condition holds."""
    ended: list[bool] = []

    def look() -> None:
        ended.append(until())

    window.idle.connect(look)
    run_until(lambda: True in ended)
    window.idle.disconnect(look)


def run_until(condition: Callable[[], bool]) -> None:
    """Let the window run until a condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        QTest.qWait(1)


class Heart:
    """Beats as often as the event loop lets it, and remembers the longest pause."""

    def __init__(self) -> None:
        self.beats, self._longest, self._last = 0, 0.0, time.perf_counter()
        self._timer = QTimer(interval=1, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)
        self._timer.start()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.beats += 1
        self._longest, self._last = max(self._longest, now - self._last), now

    def longest(self) -> float:
        self._timer.stop()
        return self._longest
