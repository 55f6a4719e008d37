"""Measure gpt2fast beside its peers on this machine, in turn, and write a report.

    python -m benchmarks.peers.run [--profile quick] [--sizes gpt2 gpt2-xl] [--threads 1 2] ...

`prepare` has to make environments and models first. In every round each engine is started, loads
its model, and does every measure with the same prompts; what was measured while other processes
took the CPUs does not count and is measured again. Results: DATE-CPU.md and .json in --output.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import signal
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.commit import commit
from benchmarks.peers import quality
from benchmarks.peers.client import EngineError, EngineProcess
from benchmarks.peers.duration import run_seconds
from benchmarks.peers.engines import Engine
from benchmarks.peers.measures import MEASURES, WARM_UP
from benchmarks.peers.plan import Case, Plan, plan, public
from benchmarks.peers.report import report
from gpt2fast import _core
from gpt2fast.bench import machine
from gpt2fast.bench.cpu_clock import FOREIGN_LIMIT
from gpt2fast.bench.roofline import RoofMeter, Roofs

_ATTEMPTS = 3  # to find the CPUs free of others


class Comparison:
    """Runs rounds and remembers everything; `record` is what the JSON holds."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._roofs = RoofMeter()
        self._failed: set[tuple[str, str, int]] = set()
        self.record: dict[str, Any] = {
            "machine": machine.facts(),
            "commit": commit(),
            "date": date.today().isoformat(),
            "command": " ".join(["python -m benchmarks.peers.run", *public(sys.argv[1:])]),
            "engines": [_described(engine) for engine in plan.engines],
            "roofs": [],
            "visits": [],
            "samples": [],
            "failures": [],
        }

    def minutes(self) -> float:
        """Return about how long `run` will take; measures the roofs for it."""
        found: dict[tuple[int, str], Roofs] = {}

        def roofs_of(threads: int, target: str) -> Roofs:
            if (threads, target) not in found:
                found[threads, target] = self._roofs_now(threads, target)
            return found[threads, target]

        return run_seconds(self._plan, roofs_of) / 60

    def run(self) -> None:
        """Do all rounds; another engine begins in each, to be fair to all."""
        engines = self._plan.engines
        for round_ in range(self._plan.rounds):
            for case in self._plan.cases:
                for target in dict.fromkeys(engine.target for engine in engines):
                    self._measure_roofs(case.threads, target, round_)
                shift = round_ % len(engines)
                for engine in engines[shift:] + engines[:shift]:
                    self._visit(engine, case, round_)

    def compare_quality(self, text: Path) -> None:
        """Add what each format costs, and the tokenizers' speeds."""
        sizes = list(dict.fromkeys(case.size for case in self._plan.cases))
        self.record["quality"] = quality.compare(
            self._plan.places, self._plan.engines, sizes, quality.Trained.below(text)
        )
        try:
            from benchmarks import tokenizer_speed  # needs tiktoken and tokenizers
        except ImportError as error:
            self.record["tokenizers"] = [{"failed": str(error)}]
        else:
            self.record["tokenizers"] = tokenizer_speed.measure(text)

    def _measure_roofs(self, threads: int, target: str, round_: int) -> None:
        rates = dataclasses.asdict(self._roofs_now(threads, target))
        self.record["roofs"].append(
            {"threads": threads, "target": target, "round": round_, "rates": rates}
        )

    def _roofs_now(self, threads: int, target: str) -> Roofs:
        _core.force_target(target or None)
        try:
            return self._roofs.measure(threads, None)
        finally:
            _core.force_target(None)

    def _visit(self, engine: Engine, case: Case, round_: int) -> None:
        """Start an engine and measure it; what fails once is not tried again."""
        key = (engine.name, case.size, case.threads)
        if key in self._failed:
            return
        where = dict(zip(("engine", "size", "threads"), key, strict=True)) | {"round": round_}
        start = time.monotonic()
        try:
            with EngineProcess(engine, self._plan.places, case.size, case.threads) as process:
                first = process.generate(WARM_UP.ids(round_, 0), 1)
                process.generate(WARM_UP.ids(round_, 1), 8)
                for name in case.measures:
                    self._samples(process, where, name, case.repeats)
                visit = {
                    "version": process.version,
                    "load_seconds": process.load_seconds,
                    "first_token_seconds": process.load_seconds + first.first,
                    "peak_bytes": process.peak_bytes,
                    "seconds": time.monotonic() - start,
                    "file_bytes": _bytes(self._plan.places.model(engine, case.size)),
                }
        except EngineError as error:
            self._failed.add(key)
            self.record["failures"].append({**where, "reason": str(error)})
            print(*key, f"FAILED: {error}", file=sys.stderr)
            return
        self.record["visits"].append({**where, **visit})
        print(f"round {round_}:", *key, f"threads: {visit['seconds']:.1f} s", file=sys.stderr)

    def _samples(
        self, process: EngineProcess, where: dict[str, Any], name: str, repeats: int
    ) -> None:
        measure, size, round_ = MEASURES[name], where["size"], where["round"]
        if measure.counts_prompt or measure.prompts > 1:  # what a new shape needs is made once
            process.generate(measure.ids(round_, 1000), min(2, measure.new(size)))
        done = 0
        for attempt in range(repeats * _ATTEMPTS):
            sample = process.generate(measure.ids(round_, attempt), measure.new(size))
            clean = sample.foreign is None or sample.foreign <= FOREIGN_LIMIT
            self.record["samples"].append(
                {
                    **where,
                    "measure": name,
                    "rate": measure.rate(size, sample.first, sample.rest),
                    "first": sample.first,
                    "rest": sample.rest,
                    "foreign": sample.foreign,
                    "clean": clean,
                }
            )
            done += clean
            if done == repeats:
                return


def _described(engine: Engine) -> dict[str, Any]:
    names = ("name", "label", "group", "ours", "bits", "target")
    return {name: getattr(engine, name) for name in names}


def _bytes(model: Path) -> int:
    return sum(path.stat().st_size for path in model.iterdir())


def main() -> None:
    """Run, and write the report; also of what was done before Ctrl-C or a SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    todo = plan(sys.argv[1:])
    comparison = Comparison(todo)
    print(
        f"{todo.rounds} rounds of {len(todo.cases)} cases and {len(todo.engines)} engines: about "
        f"{comparison.minutes():.0f} minutes on free CPUs",
        file=sys.stderr,
    )
    try:
        comparison.run()
        if todo.text:
            comparison.compare_quality(todo.text)
    except KeyboardInterrupt:
        print("interrupted: the report has what was done so far", file=sys.stderr)
    record = comparison.record
    path = _free(todo.output, record)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    text = report(record)
    path.with_suffix(".md").write_text(text)
    print(text, end="")
    print(f"written: {path}.md and .json", file=sys.stderr)


def _free(folder: Path, record: dict[str, Any]) -> Path:
    """Return a path for the results, without suffix, at which there are none yet."""
    cpu = re.sub(r"[^a-z0-9]+", "-", record["machine"]["cpu"].lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{record['date']}-{cpu}"
    numbered = (folder / (name if n == 1 else f"{name}-{n}") for n in itertools.count(1))
    return next(path for path in numbered if not path.with_suffix(".json").exists())


if __name__ == "__main__":
    main()
