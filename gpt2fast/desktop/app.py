"""Starting the program."""

from __future__ import annotations

import signal
import sys
from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from gpt2fast.desktop.preferences import Preferences
from gpt2fast.desktop.window import Window

INTERRUPT = 300  # milliseconds after which Ctrl-C in the terminal is heard


def application() -> QApplication:
    """Return the application of this process, made on first use."""
    existing = QApplication.instance()
    if isinstance(existing, QApplication):
        return existing
    made = QApplication(sys.argv[:1])
    made.setApplicationName("gpt2fast write")
    made.setDesktopFileName("gpt2fast-write")
    return made


def run(path: str | None, model: str | None, **load_options: Any) -> int:
    """Show the window until it is closed; return the exit status."""
    app = application()
    preferences = Preferences()
    window = Window(preferences, **load_options)
    signal.signal(signal.SIGINT, lambda *_: window.close())
    heard = QTimer(window, interval=INTERRUPT)  # Python handles a signal when it runs at all
    heard.timeout.connect(lambda: None)
    heard.start()
    window.show()
    if path is not None:
        window.draft.open(path)
    window.open_model(model or preferences.model)
    return app.exec()
