"""The writing window without a screen: how long it ever keeps one waiting, and what it looks like.

    python -m benchmarks.desktop [MODEL] [--threads N] [--rounds N]
    python -m benchmarks.desktop --picture FILE.png [--dark]

A timer of 1 ms beats in the window's event loop. Printed are, in milliseconds, the longest and the
99.9th percentile of the times between two beats, while the model does what the line says: a window
answers keys as late as that.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest import mock

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QSettings, Qt, QTimer
from PySide6.QtGui import QColor, QImage, QPalette
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from gpt2fast.desktop.app import application
from gpt2fast.desktop.preferences import Preferences
from gpt2fast.desktop.window import Window

Key, NONE, CONTROL = Qt.Key, Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier
STORY = """\
There was once a king who had three sons. The eldest was proud, and the second was idle, but the \
youngest was kind to every creature he met.

One winter evening the old king called them together. "I am tired of my crown," he said, "and \
whoever brings me the strangest thing in the world shall wear it."

So they set out before it was light, and the youngest """
WRITING = 3.0  # seconds
SEED = 7  # of the picture


class Heart:
    """Beats as often as the event loop lets it, and remembers the pauses."""

    def __init__(self) -> None:
        self._beats = [time.perf_counter()]
        self._timer = QTimer(interval=1, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(lambda: self._beats.append(time.perf_counter()))
        self._timer.start()

    def pauses(self) -> list[float]:
        """Stop; return the milliseconds between the beats, in order of length."""
        self._timer.stop()
        beats = [*self._beats, time.perf_counter()]
        return sorted(1000 * (b - a) for a, b in pairwise(beats))


def run(seconds: float, ended: Callable[[], bool] = lambda: False) -> None:
    """Let the window run for a time, or until a condition holds."""
    deadline = time.monotonic() + seconds
    while not ended() and time.monotonic() < deadline:
        QApplication.processEvents()
        time.sleep(0.0002)


def wait(window: Window, seconds: float = 120) -> None:
    """Let the window run until the job of its writer has ended."""
    ended: list[None] = []

    def end() -> None:
        ended.append(None)

    window.idle.connect(end)
    run(seconds, lambda: bool(ended))
    window.idle.disconnect(end)


def press(window: Window, key: Qt.Key, modifier: Qt.KeyboardModifier = NONE) -> None:
    """Press a key on the page."""
    QTest.keyClick(window.editor, key, modifier)


def open_model(model: str, window: Window) -> None:
    """Open a model."""
    window.open_model(model)
    wait(window)


def write_on(window: Window) -> None:
    """Let the model write for some seconds."""
    press(window, Key.Key_Return, CONTROL)
    run(WRITING, lambda: not window.busy)
    press(window, Key.Key_Escape)
    run(60, lambda: not window.busy)


def ask(window: Window) -> None:
    """Ask for alternatives and take one, five times."""
    for _ in range(5):
        press(window, Key.Key_Tab)
        wait(window)
        press(window, Key.Key_1)


def colour(window: Window) -> None:
    """Colour the page."""
    window.controls.colours.setChecked(True)
    wait(window)
    window.controls.colours.setChecked(False)


def measure(model: str, threads: int | None, rounds: int) -> dict[str, list[float]]:
    """Return the pauses of each kind of work."""
    found: dict[str, list[float]] = {}
    window = open_window(threads)

    def during(what: str, work: Callable[[Window], object]) -> None:
        heart = Heart()
        work(window)
        found[what] = sorted(found.get(what, []) + heart.pauses())

    during("nothing", lambda _: run(1))
    for _ in range(rounds):
        during("opening", partial(open_model, model))
        for what, draft in (("a short draft", STORY), ("a long draft", STORY * 40)):
            window.editor.setPlainText("")
            window.editor.insertPlainText(draft)
            run(0.3)
            during(f"alternatives, {what}", ask)
            during(f"writing on, {what}", write_on)
            during(f"colours, {what}", colour)
    window.editor.document().setModified(False)
    window.close()
    return found


def open_window(threads: int | None = None) -> Window:
    """Return a window that remembers nothing."""
    application()
    with tempfile.TemporaryDirectory() as folder:
        stored = QSettings(str(Path(folder) / "write.ini"), QSettings.Format.IniFormat)
        window = Window(Preferences(stored), threads=threads)
    window.show()
    return window


def picture(path: str, model: str, *, dark: bool) -> None:
    """Save what the window looks like with alternatives and colours."""
    if dark:
        application().setPalette(QPalette(QColor("#2b2b2b")))
    window = open_window()
    window.resize(860, 500)
    window.open_model(model)
    wait(window)
    window.editor.insertPlainText(STORY)
    window.controls.colours.setChecked(True)
    wait(window)
    with mock.patch("gpt2fast.generation.plan.fresh_seed", return_value=SEED):
        press(window, Key.Key_Tab)
        wait(window)
    wait(window, 2)  # the colours come last
    opaque = window.grab().toImage().convertToFormat(QImage.Format.Format_RGB888)
    opaque.save(path, quality=0)  # as small as PNG can be
    window.editor.document().setModified(False)
    window.close()


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table, or make the picture."""
    parser = argparse.ArgumentParser(description="How long the writing window keeps one waiting.")
    parser.add_argument("model", nargs="?", default="tales")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--picture", metavar="FILE")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args(arguments)
    if given.picture:
        picture(given.picture, given.model, dark=given.dark)
        return
    for what, pauses in measure(given.model, given.threads, given.rounds).items():
        rare = pauses[int(0.999 * (len(pauses) - 1))]
        print(f"{what:<28} longest {pauses[-1]:6.1f} ms, 99.9% {rare:5.1f} ms, {len(pauses)} beats")


if __name__ == "__main__":
    main()
