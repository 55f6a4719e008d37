"""Measure gpt2fast beside its peers on this machine, in turn, and write a report.

    python -m benchmarks.peers.run [--profile quick] [--sizes gpt2 gpt2-xl] [--threads 1 2] ...

`prepare` has to make environments and models first. In every round each engine is started, loads
its model, and does every measure with the same prompts; whatever was measured while other processes
took the CPUs is measured again and does not count. Results: DATE-CPU.md and .json in --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.cpu_clock import FOREIGN_LIMIT
from benchmarks.peers.client import EngineError, EngineProcess
from benchmarks.peers.engines import Engine, Places, chosen
from benchmarks.peers.measures import MEASURES, WARM_UP
from benchmarks.peers.report import report
from benchmarks.random_checkpoints import SIZES
from benchmarks.roofline import RoofMeter
from gpt2fast.threads import available_cpus

PROFILES: dict[str, dict[str, Any]] = {
    "quick": {"sizes": ["gpt2"], "rounds": 2, "repeats": 1, "engines": ["int8"]},
    "full": {"sizes": list(SIZES)[1:], "rounds": 3, "repeats": 2, "engines": ["int8"]},
}
_ATTEMPTS = 3  # to find the CPUs free of others
_RESULTS = Path(__file__).resolve().parents[1] / "results"


class Comparison:
    """Runs rounds and remembers everything; `record` is what the JSON holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._places = Places(options.cache)
        self._roofs = RoofMeter()
        self._failed: set[tuple[str, str, int]] = set()
        self.record: dict[str, Any] = {
            "machine": machine.facts(),
            "commit": machine.commit(),
            "date": date.today().isoformat(),
            "command": " ".join(["python -m benchmarks.peers.run", *_public(sys.argv[1:])]),
            "engines": [_described(engine) for engine in options.engines],
            "measures": options.measures,
            "roofs": [],
            "visits": [],
            "samples": [],
            "failures": [],
        }

    def run(self) -> None:
        """Do all rounds; engines begin in another order in each, to be fair to all."""
        options = self._options
        cases = list(itertools.product(options.sizes, options.threads))
        for round_ in range(options.rounds):
            for size, threads in cases:
                self._measure_roofs(threads, round_)
                shift = round_ % len(options.engines)
                for engine in options.engines[shift:] + options.engines[:shift]:
                    self._visit(engine, size, threads, round_)

    def _measure_roofs(self, threads: int, round_: int) -> None:
        roofs = self._roofs.measure(threads, None)
        self.record["roofs"].append(
            {"threads": threads, "round": round_, **dataclasses.asdict(roofs)}
        )

    def _visit(self, engine: Engine, size: str, threads: int, round_: int) -> None:
        """Start an engine and measure it; what fails once is not tried again."""
        case = {"engine": engine.name, "size": size, "threads": threads}
        key = (engine.name, size, threads)
        if key in self._failed:
            return
        start = time.monotonic()
        try:
            with EngineProcess(engine, self._places, size, threads) as process:
                first = process.generate(WARM_UP.ids(round_, 0), 1)
                process.generate(WARM_UP.ids(round_, 1), 8)
                for name in self._options.measures:
                    self._samples(process, case, name, round_)
                visit = {"version": process.version, "peak_bytes": process.peak_bytes}
                load = process.load_seconds
        except EngineError as error:
            self._failed.add(key)
            self.record["failures"].append({**case, "round": round_, "reason": str(error)})
            print(f"{engine.name} {size} {threads}: FAILED: {error}", file=sys.stderr)
            return
        visit |= {"load_seconds": load, "first_token_seconds": load + first.first}
        visit["file_bytes"] = _bytes(self._places.model(engine, size))
        self.record["visits"].append({**case, "round": round_, **visit})
        taken = time.monotonic() - start
        print(f"{engine.name} {size} {threads} threads: {taken:.1f} s", file=sys.stderr)

    def _samples(
        self, process: EngineProcess, case: dict[str, Any], name: str, round_: int
    ) -> None:
        measure, size = MEASURES[name], case["size"]
        if name in ("prompt512", "batch8"):  # buffers and code for a new shape are made once
            process.generate(measure.ids(round_, 1000), min(2, measure.new(size)))
        done = 0
        for attempt in range(self._options.repeats * _ATTEMPTS):
            sample = process.generate(measure.ids(round_, attempt), measure.new(size))
            clean = sample.foreign is None or sample.foreign <= FOREIGN_LIMIT
            self.record["samples"].append(
                {
                    **case,
                    "measure": name,
                    "round": round_,
                    "rate": measure.rate(size, sample.first, sample.rest),
                    "first": sample.first,
                    "rest": sample.rest,
                    "foreign": sample.foreign,
                    "clean": clean,
                }
            )
            done += clean
            if done == self._options.repeats:
                return


def _described(engine: Engine) -> dict[str, Any]:
    return {
        "name": engine.name,
        "label": engine.label,
        "group": engine.group,
        "ours": engine.ours,
        "bits": engine.bits,
    }


def _bytes(model: Path) -> int:
    return sum(path.stat().st_size for path in model.iterdir())


def _public(arguments: list[str]) -> list[str]:
    """Return the arguments without those that say where things are on this machine."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and not argument.startswith(("--cache", "--output")):
            kept.append(argument)
        skip = argument in ("--cache", "--output")
    return kept


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options; those not given are the profile's. Ends with a message on bad ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    cpus = available_cpus()
    parser.add_argument("--profile", choices=PROFILES, default="full", help="default: %(default)s")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, metavar="SIZE")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, min(2, cpus)}))
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--engines", nargs="+", metavar="ENGINE or GROUP")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--repeats", type=int, help="of each measure in a round")
    parser.add_argument("--cache", type=Path, default=Places.default(), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="default: %(default)s")
    options = parser.parse_args(arguments)
    for name, value in PROFILES[options.profile].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("rounds", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: 1 or more is allowed")
    for threads in options.threads:
        if not 1 <= threads <= cpus:
            parser.error(f"--threads {threads}: 1 to {cpus} are allowed, the CPUs there are")
    try:
        options.engines = chosen(options.engines)
    except ValueError as error:
        parser.error(f"--engines: {error}")
    return options


def main() -> None:
    """Run, and write the report; also of what was done before Ctrl-C."""
    options = parse(sys.argv[1:])
    comparison = Comparison(options)
    try:
        comparison.run()
    except KeyboardInterrupt:
        print("interrupted: the report has the rounds so far", file=sys.stderr)
    record = comparison.record
    cpu = re.sub(r"[^a-z0-9]+", "-", record["machine"]["cpu"].lower()).strip("-")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{record['date']}-{cpu}"
    text = report(record)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
