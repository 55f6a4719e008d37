"""The command `gpt2fast models`: what the cache holds, and removing it."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast.cli.terminal import UsageError, megabytes

if TYPE_CHECKING:
    from gpt2fast.cached_models import CachedModel

_COLUMNS = ("name", "dtype", "size", "age", "source")


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=models)
    command.description = (
        "List the models that were converted into the cache (GPT2FAST_CACHE), or remove some. "
        "What was downloaded for them is in the cache of huggingface_hub: see `hf cache`."
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--remove", nargs="+", metavar="NAME", help="remove models by name, source or file"
    )
    what.add_argument("--remove-all", action="store_true", help="remove all of them")
    what.add_argument(
        "--prune",
        action="store_true",
        help="remove those that newer ones replaced, unreadable ones, and what killed processes "
        "left",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")


def models(arguments: argparse.Namespace) -> int:
    """List or remove; return the exit status."""
    from gpt2fast.cache import cache_directory
    from gpt2fast.cached_models import cached_models, remove, remove_debris

    directory = cache_directory()
    found = cached_models(directory)
    chosen: list[CachedModel] | None = None
    if arguments.remove is not None:
        for name in arguments.remove:
            if not any(model.called(name) for model in found):
                known = ", ".join(sorted({model.name for model in found})) or "none"
                raise UsageError(f"no cached model is called {name!r}; there are: {known}")
        chosen = [model for model in found if any(map(model.called, arguments.remove))]
    elif arguments.remove_all:
        chosen = found
    elif arguments.prune:
        chosen = [model for model in found if model.state in ("replaced", "unreadable")]
    if chosen is not None:
        remove(chosen)
        if not arguments.remove:
            remove_debris(directory)
    _print(directory, found if chosen is None else chosen, chosen is not None, arguments.json)
    return 0


def _print(directory: Path, found: list[CachedModel], removed: bool, as_json: bool) -> None:
    size = sum(model.size for model in found)
    if as_json:
        entries = [asdict(model) | {"path": str(model.path)} for model in found]
        key = "removed" if removed else "models"
        print(json.dumps({"directory": str(directory), key: entries, "size": size}))
        return
    rows = [_row(model) for model in found]
    if rows:
        rows.insert(0, tuple(column.upper() for column in _COLUMNS))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())
    number = f"{len(found) or 'no'} model{'' if len(found) == 1 else 's'}"
    words = ("removed ", "from") if removed else ("", "in")
    print(f"{words[0]}{number}, {megabytes(size)}, {words[1]} {directory}")


def _row(model: CachedModel) -> tuple[str, ...]:
    source = "unknown" if model.origin is None else str(model.origin)
    state = "" if model.state == "current" else f" [{model.state}]"
    return model.name, model.dtype, megabytes(model.size), _age(model.made), source + state


def _age(made: float) -> str:
    seconds = max(time.time() - made, 0)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return "now"
