"""How `gpt2fast chat` reads lines: prompt_toolkit, a plain terminal, or a pipe; what it shows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

# What makes a terminal do more than show text; a model, or a transcript, may hold any of it.
_CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}


class Reader(Protocol):
    """Where lines come from."""

    interactive: bool  # whether somebody sits there

    def read(self, prompt: str, text: str = "") -> str:
        """Return a line that may begin as `text`; raise EOFError after the last one."""

    @property
    def can_edit(self) -> bool:
        """Whether a line can begin as a given text."""


class PipeReader:
    """Lines of a file or pipe."""

    interactive = can_edit = False

    def read(self, prompt: str, text: str = "") -> str:  # noqa: ARG002
        """Return the next line."""
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")


class PlainReader:
    """Lines of a terminal; with history and cursor keys where Python has readline."""

    interactive = True

    def __init__(self) -> None:
        self._readline: Any = None
        try:
            import readline
        except ImportError:
            return
        self._readline = readline

    @property
    def can_edit(self) -> bool:
        """Whether there is readline."""
        return self._readline is not None

    def read(self, prompt: str, text: str = "") -> str:
        """Return what is typed."""
        if not text:
            return input(prompt)
        self._readline.set_startup_hook(lambda: self._readline.insert_text(text))
        try:
            return input(prompt)
        finally:
            self._readline.set_startup_hook(None)


class ToolkitReader:
    """Lines of a terminal by prompt_toolkit: completion of commands, a line of state below."""

    interactive = can_edit = True

    def __init__(self, commands: Sequence[str], state: Callable[[], str]) -> None:
        """Raise ImportError if there is no prompt_toolkit."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter

        completer = WordCompleter([f"/{name}" for name in commands], sentence=True)
        self._session: PromptSession[str] = PromptSession(
            completer=completer, complete_while_typing=False, bottom_toolbar=state
        )

    def read(self, prompt: str, text: str = "") -> str:
        """Return what is typed."""
        return self._session.prompt(prompt, default=text)


def reader(commands: Sequence[str], state: Callable[[], str], *, plain: bool) -> Reader:
    """Return what reads stdin best."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PipeReader()
    if not plain:
        try:
            return ToolkitReader(commands, state)
        except ImportError:
            pass
    return PlainReader()


def show(text: str) -> None:
    """Write to stdout at once; to a terminal without control characters."""
    out = sys.stdout
    out.write(text.translate(_CONTROLS) if out.isatty() else text)
    out.flush()


def unescaped(line: str) -> str:
    r"""Return what a typed line means: \n is a newline, \\ a backslash."""
    return "\\".join(part.replace("\\n", "\n") for part in line.split("\\\\"))


def escaped(text: str) -> str:
    """Return the line that means a text."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")
