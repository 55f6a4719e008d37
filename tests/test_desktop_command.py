"""The command `gpt2fast write` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, threading, sys
from gpt2fast.cli import main
from PySide6.QtCore import QTimer
from gpt2fast.desktop.window import Window

def opened(window):
    assert window.editor.text() == "Once upon a time", window.editor.text()
    window.idle.connect(lambda: os.kill(os.getpid(), signal.SIGINT))

show = Window.show
Window.show = lambda self: (show(self), QTimer.singleShot(0, lambda: opened(self)))
sys.exit(main(["write", sys.argv[1], "--model", "tales", "--threads", "1"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
def test_the_command(tmp_path: Path) -> None:
    """Catches a command that does not start, does not open its file, or ignores Ctrl-C."""
    pytest.importorskip("PySide6.QtTest", reason="PySide6 is not installed", exc_type=ImportError)
    path = tmp_path / "story.txt"
    path.write_text("Once upon a time")
    ended = python(PROGRAM, str(path), XDG_CONFIG_HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_pyside() -> None:
    """Catches a traceback where a package is missing, and an extra that is not named."""
    code = (
        "import sys; sys.modules['PySide6'] = None\n"
        "from gpt2fast.cli import main; sys.exit(main(['write']))"
    )
    ended = python(code)
    assert ended.returncode == 1
    assert 'pip install "gpt2fast[desktop]"' in ended.stderr and "\nTrace" not in ended.stderr


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"} | environment,
    )
