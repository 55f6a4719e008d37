"""What the commands share: options of loading, exit statuses, lines on stderr, progress."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypedDict

if TYPE_CHECKING:
    from gpt2fast.model import Model

PROGRAM = "gpt2fast"
INTERRUPTED, READER_GONE = 130, 141
MODEL_HELP = (
    'the bundled "tales", a packed file, a checkpoint, or a model of the Hugging Face Hub such as '
    "gpt2 or ORGANISATION/NAME; default: tales"
)


class HubOptions(TypedDict):
    """Options of `load` for models of the Hub."""

    revision: str | None
    local_files_only: bool


class UsageError(Exception):
    """An option that the command line itself refuses."""


def note(line: str, end: str = "\n") -> None:
    """Write to stderr; that it is full, or nobody reads it, is no failure of the command."""
    try:
        print(line, end=end, file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere; Python would fail to flush it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class ProgressLine:
    """Shows (done, total) in a line of the terminal; `stage` changes what it says is done."""

    def __init__(self, what: str) -> None:
        self._what, self._shown = what, -1

    def stage(self, what: str) -> None:
        """Begin another line, once there is something to show in it."""
        if 0 <= self._shown < 100:
            note("")
        self._what, self._shown = what, -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if percent != self._shown:
            self._shown = percent
            note(f"\r{self._what}: {percent:3d}%", end="\n" if percent >= 100 else "")


def progress_line(what: str) -> ProgressLine | None:
    """Return a progress that is shown on stderr, if that is a terminal."""
    return ProgressLine(what) if sys.stderr.isatty() else None


def read_text(what: str, given: str | None, file: str | None, *, whole: bool = False) -> str:
    """Return a text that is given as an argument, or read from a file or stdin.

    What is read loses one newline at its end, which a shell or an editor put there, unless `whole`.
    """
    if file is not None:
        if given is not None:
            raise UsageError(f"give a {what} or --file, not both")
        data, where = Path(file).read_bytes(), file
    elif given is None and sys.stdin.isatty():
        raise UsageError(f"no {what}: give it in quotes, or - for stdin, or --file")
    elif given is None or given == "-":
        data, where = sys.stdin.buffer.read(), "stdin"
    else:
        return given
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8: byte {error.start}") from None
    return text if whole else text.removesuffix("\n").removesuffix("\r")


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Declare --model, and how it is loaded."""
    command.add_argument("--model", default="tales", metavar="M", help=MODEL_HELP)
    add_load_options(command)


def add_load_options(command: argparse.ArgumentParser) -> None:
    """Declare how a model is loaded."""
    command.add_argument("--dtype", help="float32, float16 or int8; default: int8, or the file's")
    command.add_argument("--threads", type=int, metavar="N", help="default: all CPUs")
    add_hub_options(command)


def add_hub_options(command: argparse.ArgumentParser) -> None:
    """Declare the options of commands that may load from the Hub."""
    command.add_argument(
        "--revision", metavar="R", help="branch, tag or commit of a model of the Hub; default: main"
    )
    command.add_argument(
        "--local-files-only", action="store_true", help="never ask the Hub, take what is here"
    )


def load_model(arguments: argparse.Namespace, *, quiet: bool = False) -> Model:
    """Load the model that the options name; on a terminal, show how far that is unless `quiet`."""
    from gpt2fast.model import load

    return load(
        arguments.model,
        dtype=arguments.dtype,
        threads=arguments.threads,
        progress=None if quiet else progress_line(f"loading {arguments.model}"),
        **hub_options(arguments),
    )


def hub_options(arguments: argparse.Namespace) -> HubOptions:
    """Return what was given of them, as `load` takes it."""
    return {"revision": arguments.revision, "local_files_only": arguments.local_files_only}


def megabytes(n_bytes: int) -> str:
    """Return a size for people."""
    return f"{n_bytes / 1e6:,.1f} MB"
