"""The command `gpt2fast convert`."""

from __future__ import annotations

import argparse

from gpt2fast.cli.terminal import add_hub_options, hub_options, note, progress_line


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=convert)
    command.add_argument("source", help="a checkpoint: a directory, a file or a model of the Hub")
    command.add_argument("destination", help="the file, or a directory for it")
    command.add_argument("--dtype", default="int8", help="float32, float16 or int8; default: int8")
    command.add_argument("--quiet", action="store_true", help="nothing on stderr")
    add_hub_options(command)


def convert(arguments: argparse.Namespace) -> int:
    """Write the packed file, and its receipt to stdout."""
    from pathlib import Path

    from gpt2fast.cache import packed_path
    from gpt2fast.conversion.convert import convert

    progress = None if arguments.quiet else progress_line(f"packing as {arguments.dtype}")
    receipt = convert(
        arguments.source,
        arguments.destination,
        dtype=arguments.dtype,
        progress=progress,
        **hub_options(arguments),
    )
    if not arguments.quiet:
        path = packed_path(Path(arguments.destination), receipt.source, receipt.dtype)
        note(f"packed {arguments.source} as {receipt.dtype}: {path}")
    print(receipt)
    return 0
