"""The command `gpt2fast write`."""

from __future__ import annotations

import argparse

from gpt2fast.cli.terminal import add_load_options, hub_options


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=write)
    command.add_argument("file", nargs="?", help="the text to open")
    command.add_argument("--model", metavar="M", help="default: the one of the last time, or tales")
    add_load_options(command)


def write(arguments: argparse.Namespace) -> int:
    """Show the window until it is closed."""
    try:
        from gpt2fast.desktop.app import run
    except ImportError as error:
        if not (error.name or "PySide6").startswith(("PySide6", "shiboken6")):
            raise
        raise OSError(
            f'the window needs PySide6 ({error}): pip install "gpt2fast[desktop]"'
        ) from error
    return run(
        arguments.file,
        arguments.model,
        dtype=arguments.dtype,
        threads=arguments.threads,
        **hub_options(arguments),
    )
