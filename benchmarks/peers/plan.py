"""What a run measures: sizes, threads, measures and how often; from a profile or from options."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.engines import Engine, Places, chosen
from benchmarks.peers.measures import MEASURES
from benchmarks.random_checkpoints import SIZES
from gpt2fast.threads import available_cpus

RESULTS = Path(__file__).resolve().parents[1] / "results"
MAIN = tuple(name for name, measure in MEASURES.items() if not measure.scaling)
EVERYTHING = tuple(MEASURES)


@dataclass(frozen=True)
class Case:
    """A model on so many threads, its measures, and how often each is repeated in a round."""

    size: str
    threads: int
    measures: tuple[str, ...]
    repeats: int = 1


PROFILES = {
    "quick": [Case("gpt2", 2, MAIN)],
    "full": [
        Case("gpt2", 1, MAIN),
        Case("gpt2", 2, EVERYTHING),
        Case("gpt2-medium", 2, MAIN),
        Case("gpt2-large", 2, MAIN),
        Case("gpt2-xl", 1, ("decode32",)),
        Case("gpt2-xl", 2, MAIN),
    ],
}
# Many rather than repeats: a machine drifts between rounds, and intervals need to know how far.
ROUNDS = 4


@dataclass(frozen=True)
class Plan:
    """All that a run does, and where it finds and leaves things."""

    cases: list[Case]
    engines: list[Engine]
    rounds: int
    places: Places
    output: Path
    text: Path | None


def plan(arguments: list[str], cpus: int | None = None) -> Plan:
    """Return what the command line asks for; ends with a message if it cannot be done."""
    cpus = available_cpus() if cpus is None else cpus
    options, parser = _options(arguments)
    cases = PROFILES[options.profile]
    if options.sizes or options.threads or options.measures:
        threads = options.threads or sorted({1, min(2, cpus)})
        measures = tuple(options.measures or MAIN)
        cases = [
            Case(size, n, measures)
            for size, n in itertools.product(options.sizes or ["gpt2"], threads)
        ]
    for case in cases:
        if not 1 <= case.threads <= cpus:
            parser.error(f"{case.threads} threads: 1 to {cpus} are allowed, the CPUs there are")
    for name in ("rounds", "repeats"):
        given = getattr(options, name)
        if given < 1:
            parser.error(f"--{name} {given}: 1 or more is allowed")
    try:
        engines = chosen(options.engines)
    except ValueError as error:
        parser.error(f"--engines: {error}")
    return Plan(
        [replace(case, repeats=options.repeats) for case in cases],
        engines,
        options.rounds,
        Places(options.cache),
        options.output,
        options.text,
    )


def _options(arguments: list[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.run",
        description="Measure gpt2fast beside its peers on this machine, in turn; write a report.",
    )
    add = parser.add_argument
    add("--profile", choices=PROFILES, default="full", help="default: %(default)s")
    add("--sizes", nargs="+", choices=SIZES, metavar="SIZE", help=", ".join(SIZES))
    add("--threads", nargs="+", type=int, metavar="N", help="default: 1 and 2")
    add("--measures", nargs="+", choices=MEASURES, metavar="MEASURE", help=", ".join(MEASURES))
    add("--engines", nargs="+", default=["int8"], metavar="ENGINE or GROUP", help="default: int8")
    add("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    add("--repeats", type=int, default=1, help="of each measure in a round; default: %(default)s")
    add("--cache", type=Path, default=Places.default(), help="default: %(default)s")
    add("--output", type=Path, default=RESULTS, help="default: benchmarks/results")
    add(
        "--text", type=Path, metavar="FOLDER", help="test data: compares quality and tokenizers too"
    )
    return parser.parse_args(arguments), parser


def public(arguments: list[str]) -> list[str]:
    """Return the arguments without those that tell where things are on this machine."""
    kept, skip = [], False
    for argument in arguments:
        named = argument.split("=")[0] in ("--cache", "--output", "--text")
        if not skip and not named:
            kept.append(argument)
        skip = named and "=" not in argument
    return kept
