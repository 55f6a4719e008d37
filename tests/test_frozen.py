"""Programs frozen by PyInstaller or Nuitka run where there is no Python, with the bundled model.

PyInstaller takes half a minute each, Nuitka five; it, and PyInstaller's one file, have their turn
only if GPT2FAST_TEST_FREEZE is set.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import gpt2fast

pytest.importorskip("PyInstaller", reason="PyInstaller is not installed")

PROGRAM = """
import sys, time
start = time.perf_counter()
import gpt2fast
imported = time.perf_counter()
model = gpt2fast.load(threads=1)
text = model.generate("Once upon a time", max_new_tokens=8, seed=1).text
from gpt2fast.published import GOLDEN
print(repr(text), GOLDEN.exists(), "torch" in sys.modules, sep="\\n")
print(imported - start)
"""
WINDOW = """
import sys
from PySide6.QtGui import QTextCursor
from gpt2fast.cli import main
from gpt2fast.desktop import dialogs
from gpt2fast.desktop.window import Window

def idle(window):
    if not window.editor.offering:
        window.editor.moveCursor(QTextCursor.MoveOperation.End)
        return window.ask()
    window.take(0)
    print(repr(window.editor.text()))
    dialogs.unsaved = lambda *_: "discard"
    window.close()

show = Window.show
Window.show = lambda window: (show(window), window.idle.connect(lambda: idle(window)))
sys.exit(main(["write", sys.argv[1], "--model", "tales", "--threads", "1"]))
"""
README = Path(__file__).resolve().parents[1] / "README.md"
Freeze = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def freeze(tmp_path_factory: pytest.TempPathFactory) -> Freeze:
    """A function that freezes a program and returns what to start, moved to another folder."""

    def frozen(kind: str, program: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        folder.joinpath("writer.py").write_text(program)
        command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN"]
        command += [f"--{kind}", "--exclude-module=torch", "writer.py"]
        command += ["--paths", str(Path(gpt2fast.__file__).parents[1])]  # also if it is editable
        environment = {**os.environ, "PYINSTALLER_CONFIG_DIR": str(folder / "settings")}
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        moved = folder / "moved"
        shutil.move(folder / "dist", moved)
        shutil.rmtree(folder / "build")
        return moved / "writer" / "writer" if kind == "onedir" else moved / "writer"

    return frozen


def test_pyinstaller_finds_the_hook() -> None:
    """Catches a hook that is not in the wheel, or not announced."""
    [entry] = [e for e in entry_points(group="pyinstaller40") if e.module.startswith("gpt2fast.")]
    [folder] = entry.load()()
    assert Path(folder, "hook-gpt2fast.py").exists()


def only_if_asked() -> None:
    if not os.environ.get("GPT2FAST_TEST_FREEZE"):
        pytest.skip("GPT2FAST_TEST_FREEZE is not set")


def start(program: Path, folder: Path, *arguments: str) -> str:
    """Run a frozen program where there is no Python and no other program; return its output."""
    bare = {"PATH": "", "HOME": str(folder), "TMPDIR": str(folder), "QT_QPA_PLATFORM": "offscreen"}
    command = [str(program), *arguments]
    run = subprocess.run(
        command, cwd=folder, env=bare, capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("kind", ["onedir", "onefile"])
def test_frozen_program(kind: str, freeze: Freeze, tmp_path: Path) -> None:
    """Catches a module or a file that only an installed package has, a library found only because
    Python is there, and an import of half a second.
    """
    if kind == "onefile":
        only_if_asked()
    tells_the_story(start(freeze(kind, PROGRAM), tmp_path))


def tells_the_story(output: str) -> None:
    """Check what PROGRAM printed."""
    text, golden, torch, seconds = output.splitlines()
    expected = gpt2fast.load().generate("Once upon a time", max_new_tokens=8, seed=1).text
    assert text == repr(expected)
    assert (golden, torch) == ("True", "False")
    assert float(seconds) < 0.15


@pytest.mark.timeout(1200)
def test_frozen_by_nuitka(tmp_path: Path) -> None:
    """Catches a command in README that makes a program without a module, the model or NumPy."""
    only_if_asked()
    pytest.importorskip("nuitka", reason="Nuitka is not installed")
    [command] = re.findall(r"python -m (nuitka (?:.*\\\n)*.*)", README.read_text(encoding="utf-8"))
    arguments = command.replace("\\\n", " ").split()
    tmp_path.joinpath("writer.py").write_text(PROGRAM)
    subprocess.run([sys.executable, "-m", *arguments], cwd=tmp_path, check=True)
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "writer.dist", moved)
    tells_the_story(start(moved / "writer.bin", tmp_path))


def test_frozen_window(freeze: Freeze, tmp_path: Path) -> None:
    """Catches a window that lacks a part of Qt or of gpt2fast once it is frozen."""
    pytest.importorskip(
        "PySide6.QtWidgets", reason="PySide6 is not installed", exc_type=ImportError
    )
    story = tmp_path / "story.txt"
    story.write_text("Once upon a time")
    shown = start(freeze("onedir", WINDOW), tmp_path, str(story))
    assert shown.startswith("'Once upon a time")
    assert len(shown) > len("'Once upon a time'") + 2
