"""`gpt2fast chat` as somebody sees it: at a terminal, plain or with prompt_toolkit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs POSIX terminals", allow_module_level=True)

import pty
import select
import termios

ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[@-_])")
CTRL_A, CTRL_C, CTRL_D, CTRL_K = "\x01", "\x03", "\x04", "\x0b"
LONG = ["--max-new-tokens", "100000", "--ignore-eot", "--seed", "3"]  # words, not dots


class Terminal:
    """A terminal with the command in it."""

    def __init__(self, *arguments: str, stdout: int | None = None) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 200))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpt2fast", "chat", "--threads", "1", *arguments],
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
            env=os.environ | {"TERM": "xterm", "INPUTRC": os.devnull},
        )
        os.close(theirs)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, pattern: str, key: str = "") -> str:
        """Wait for a text and return what was shown up to its end, without escape sequences.

        A key is pressed now, and again every two seconds: a signal that comes just before Python
        waits for a line is seen at the next one only.
        """
        end = time.monotonic() + 60
        press = time.monotonic()
        while not (found := re.search(pattern, ESCAPES.sub("", self._seen))):
            assert time.monotonic() < end, f"{pattern!r} is not in {self._seen[-2000:]!r}"
            if key and time.monotonic() >= press:
                self.type(key)
                press += 2
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    data = os.read(self._ours, 65536)
                except OSError:  # the other side is closed
                    data = b""
                assert data, f"{pattern!r} is not in {self._seen[-2000:]!r}"
                self._seen += data.decode("utf-8", "replace")
                if "\x1b[6n" in self._seen:  # prompt_toolkit asks where the cursor is
                    self._seen = self._seen.replace("\x1b[6n", "")
                    self.type("\x1b[1;1R")
        shown = ESCAPES.sub("", self._seen)
        self._seen = shown[found.end() :]
        return shown[: found.end()]

    def leave(self) -> int:
        """Press Ctrl-D until the program ends, and return its status."""
        for _ in range(30):
            self.type(CTRL_D)
            try:
                return self.process.wait(2)
            except subprocess.TimeoutExpired:
                pass
        raise AssertionError("Ctrl-D does not end it")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    opened: list[Terminal] = []

    def open_terminal(*arguments: str, stdout: int | None = None) -> Terminal:
        opened.append(Terminal(*arguments, stdout=stdout))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


def test_plain(terminal: Open, tmp_path: Path) -> None:
    """Catches a loop that ends with an error or Ctrl-C, and one that does not end with Ctrl-D."""
    chat = terminal(
        "--plain", "--max-new-tokens", "8", "--temperature", "0", "--prompt", "A \x1b[k"
    )
    begun = chat.until(r"\[\d+/512\] >")
    assert "tales: an empty line" in begun and "A \ufffd[k" in begun
    chat.type("/nonsense\n")
    chat.until(r"gpt2fast: there is no command /nonsense; /help lists them")
    chat.type("/set stop-tokens 99999\nOnce\n")
    chat.until("gpt2fast: stop_tokens is 99999; allowed")
    chat.type("/unset stop-tokens\n/show\n")
    assert "Once" not in chat.until(r"/show\r\nA .*\r\n\[\d+/512\] >").split("/show")[1]
    chat.type("ing went")
    chat.until("ing went")  # Ctrl-C drops what was not yet read
    chat.until(r"/quit or Ctrl-D leaves\r\n\[\d+/512\] >", CTRL_C)
    chat.type("/clear\nOnce upon a time\n")
    chat.until(r"Once upon a time\r\n.+\r\n\[12/512\] >")
    chat.type(f"/save {tmp_path}/a.txt\n/undo\n")
    chat.until("the text is empty")
    assert chat.leave() == 0
    assert (tmp_path / "a.txt").read_text().startswith("Once upon a time")


@pytest.mark.parametrize("plain", [True, False])
def test_ctrl_c_ends_the_words(terminal: Open, plain: bool) -> None:
    """Catches Ctrl-C that ends the program, or words that were shown and are forgotten."""
    if not plain:
        pytest.importorskip("prompt_toolkit", reason="prompt_toolkit is not installed")
    chat = terminal(*["--plain"] * plain, *LONG)
    chat.until(r"\[0/512\] >")
    chat.type("Once upon a time\r")
    chat.until(r"upon a time\s+\w[\w ,.]{20}")
    chat.until(r"\[[1-9]\d*/512\] >", CTRL_C)
    chat.type("/set max-new-tokens 3\r")
    chat.until(r"/512\] >")
    chat.type("/show\r")
    shown = chat.until(r"Once upon a time[^\[]+\[\d+/512\] >")
    assert len(shown) > 50
    chat.type("/quit\r")
    assert chat.process.wait(60) == 0


@pytest.mark.parametrize("plain", [True, False])
def test_edit(terminal: Open, plain: bool) -> None:
    """Catches an /edit that does not offer what is there, or loses its newlines."""
    if not plain:
        pytest.importorskip("prompt_toolkit", reason="prompt_toolkit is not installed")
    pytest.importorskip("readline", reason="Python has no readline")
    chat = terminal(*["--plain"] * plain, "--prompt", "One\nand two")
    chat.until(r"\[\d+/512\] >")
    chat.type("/edit\r")
    chat.until(r"edit: One\\nand two")
    chat.type(" more" + CTRL_A + "No \r")
    chat.until(r"the text ends: \.\.\.No One and two more")
    chat.until(r"\[\d+/512\] >")
    chat.type("/show\r")
    chat.until(r"No One\r\nand two more\r\n")


def test_prompt_toolkit(terminal: Open) -> None:
    """Catches a line of state that is missing or stale, and commands that are not completed."""
    pytest.importorskip("prompt_toolkit", reason="prompt_toolkit is not installed")
    chat = terminal("--you", "King", "--bot", "Owl", "--max-new-tokens", "4")
    chat.until(r"\[0/512\] > King:")
    chat.until(r"0 of 512 tokens   max_new_tokens=4   /help")
    chat.type("/pres\t balanced\r")
    chat.until(r"preset=balanced")
    chat.type("Hello\r")
    chat.until(r"Owl:.*\r\n")
    chat.until(r"\[([1-9]\d*)/512\] > King:")
    chat.until("Ctrl-D leaves", CTRL_C)
    chat.until(r"/512\] > King:")
    assert chat.leave() == 0


def test_stdout_elsewhere(terminal: Open) -> None:
    """Catches prompts in the file that stdout is."""
    ours, theirs = os.pipe()
    chat = terminal("--max-new-tokens", "4", "--quiet", stdout=theirs)
    os.close(theirs)
    chat.type("Once\n/show\n/quit\n")
    with os.fdopen(ours) as file:
        lines = file.read().splitlines()
    assert chat.process.wait(60) == 0
    assert lines[-1].startswith("Once") and "".join(lines).count("Once" + lines[0]) == 1


def test_reader_that_goes_away() -> None:
    """Catches a traceback when the reader of a pipe is gone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2fast", "chat", *LONG],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"Once\n")
    process.stdin.flush()
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
    process.stdin.close()
    process.stderr.close()
