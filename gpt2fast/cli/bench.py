"""The command `gpt2fast bench`: how fast a model is here, and what differs between two runs."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from gpt2fast.cli.terminal import (
    MODEL_HELP,
    UsageError,
    add_hub_options,
    hub_options,
    progress_line,
)

_ROUNDS = 7


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options. Without a default: --compare has to know which were given."""
    command.set_defaults(run=bench)
    command.description = (
        "Measure tokens per second of prompts and of writing, the time to a first token, memory, "
        "and how near that comes to what memory and arithmetic of this machine allow (the roof), "
        "in interleaved rounds. Or compare two results: the ratio of their medians, and whether "
        "its 95% bootstrap interval leaves room for no difference. A machine that others share "
        "drifts between two runs; shares of the roof drift less."
    )
    add = command.add_argument
    add("--model", metavar="M", help=MODEL_HELP)
    add("--dtype", help="float32, float16 or int8; default: int8, or the file's")
    add("--threads", type=int, nargs="+", metavar="N", help="one or several; default: all CPUs")
    add("--target", metavar="T", help="instruction set; default: the best one")
    add("--prompt-tokens", type=int, metavar="N", help="length of the prompt; default: 512")
    add("--context", type=int, metavar="N", help="tokens before those written; default: 32")
    add("--new-tokens", type=int, metavar="N", help="tokens to write; default: 64")
    add("--rounds", type=int, metavar="N", help=f"default: {_ROUNDS}")
    add("--compare", nargs=2, metavar=("A", "B"), help="what differs in B, of two --json results")
    add("--json", action="store_true", help="print one JSON object, which --compare reads")
    add_hub_options(command)


def bench(arguments: argparse.Namespace) -> int:
    """Print a table, or a JSON object, to stdout."""
    if arguments.compare:
        return _compare(arguments)
    from gpt2fast.bench.speed import Bench, Lengths
    from gpt2fast.bench.table import run_lines
    from gpt2fast.hub import Access
    from gpt2fast.loading import load_packed
    from gpt2fast.ranges import integer

    threads = _threads(arguments.threads)
    rounds = _ROUNDS if arguments.rounds is None else arguments.rounds
    integer("--rounds", rounds, 1, 10_000)
    source = "tales" if arguments.model is None else arguments.model
    with _forced(arguments.target):
        packed = load_packed(
            source,
            dtype=arguments.dtype,
            progress=progress_line(f"loading {source}"),
            access=Access(**hub_options(arguments)),
        )
        lengths = Lengths.fitting(
            packed.config.n_ctx, arguments.prompt_tokens, arguments.context, arguments.new_tokens
        )
        run = Bench(packed, lengths, threads).run(rounds, progress_line("measuring"))
    print(run.to_json() if arguments.json else "\n".join(run_lines(run)))
    return 0


def _threads(given: list[int] | None) -> list[int]:
    """Return thread counts, each once: more than there are CPUs would only measure switching."""
    from gpt2fast.threads import available_cpus, thread_count

    if given is None:
        return [thread_count(None)]
    cpus = available_cpus()
    for n in given:
        if not 1 <= n <= cpus:
            raise UsageError(f"--threads is {n}; allowed: 1 to {cpus}, the CPUs there are")
    return list(dict.fromkeys(given))


@contextlib.contextmanager
def _forced(target: str | None) -> Iterator[None]:
    """Run with an instruction set. Raises ValueError if there is none of that name here."""
    from gpt2fast import _core

    if target is None:
        yield
        return
    _core.force_target(target)
    try:
        yield
    finally:
        _core.force_target(None)


def _compare(arguments: argparse.Namespace) -> int:
    from gpt2fast.bench.compare import changes
    from gpt2fast.bench.series import read
    from gpt2fast.bench.table import change_lines

    alone = ("run", "compare", "json")
    others = [name for name, value in vars(arguments).items() if value and name not in alone]
    if others:
        raise UsageError(f"--compare measures nothing: it goes without --{_flag(others[0])}")
    first, second = (read(Path(name)) for name in arguments.compare)
    found = list(changes(first, second))
    if not found:
        raise UsageError("the two results have no measurement in common")
    if arguments.json:
        rows = [
            {"name": c.first.name, "threads": c.first.threads, "unit": c.first.unit,
             "first": c.first.median, "second": c.second.median, "ratio": c.ratio,
             "interval": c.interval, "verdict": c.verdict}
            for c in found
        ]  # fmt: skip
        print(json.dumps(rows, indent=1))
    else:
        print("\n".join(change_lines(first, second, found)))
    return 0


def _flag(name: str) -> str:
    return name.replace("_", "-")
