"""The command line: `gpt2fast generate | chat | write | score | info | bench | convert | ...`.

Results go to stdout, everything else to stderr. Exit status: 0; 1 if something failed; 2 for bad
usage or a bad option; 130 after Ctrl-C, with what was written so far; 141 if the reader went away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from gpt2fast.cli.terminal import INTERRUPTED, PROGRAM, READER_GONE, UsageError, discard, note


class _Parser(argparse.ArgumentParser):
    """Reports a bad option in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    _open_closed_streams()
    parsed = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return command(parsed)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard(sys.stdout)
        return READER_GONE
    except UsageError as error:
        return _fail(error, 2)
    except (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError) as error:
        from gpt2fast.config import CheckpointError

        bad_option = isinstance(error, ValueError) and not isinstance(error, CheckpointError)
        return _fail(error, 2 if bad_option else 1)


def _fail(error: Exception, status: int) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    note(f"{PROGRAM}: error: {message}")
    return status


def _open_closed_streams() -> None:
    """Give the process the standard streams that its parent closed, so that they lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from gpt2fast import __version__
    from gpt2fast.cli import bench, chat, convert, generate, info, models, score, verify, write

    top = _Parser(prog=PROGRAM, description="GPT-2 on the CPU.")
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    generate.add_options(commands.add_parser("generate", help="continue a text"))
    write.add_options(commands.add_parser("write", help="a window to write in"))
    chat.add_options(commands.add_parser("chat", help="write a story with a model, or talk to it"))
    score.add_options(
        commands.add_parser("score", help="show how likely a text is, token by token")
    )
    info.add_options(commands.add_parser("info", help="show a model and how it runs here"))
    bench.add_options(commands.add_parser("bench", help="measure how fast it is"))
    convert.add_options(commands.add_parser("convert", help="pack a checkpoint into one file"))
    models.add_options(commands.add_parser("models", help="list or remove converted models"))
    verify.add_options(commands.add_parser("verify", help="check the content of packed files"))
    return top
