"""What a run's JSON says, by case: an engine, a size, a number of threads, a measure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.measures import MEASURES
from benchmarks.peers.ratios import Cell, Interval, Ratio, cell, ratio, student
from gpt2fast.bench.roofline import Roofs

NAMES = {
    "distilgpt2": "DistilGPT2",
    "gpt2": "GPT-2 124M",
    "gpt2-medium": "GPT-2 355M",
    "gpt2-large": "GPT-2 774M",
    "gpt2-xl": "GPT-2 1.5B",
}
Described = dict[str, Any]  # an engine, as the JSON describes it
_PARTS = ("machine", "engines", "roofs", "visits", "samples", "failures")


def read(path: Path) -> dict[str, Any]:
    """Return the record that `run` wrote; raises ValueError for any other file."""
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict) or not all(part in record for part in _PARTS):
        raise ValueError(f"{path} is no result of benchmarks.peers.run")
    return record


class Results:
    """The numbers of a record; an engine that failed once in a case has none there.

    `interval` is the kind that its ratios have.
    """

    def __init__(self, record: dict[str, Any], interval: Interval = student) -> None:
        self.record = record
        self._interval = interval
        self.engines: list[Described] = record["engines"]
        self._samples: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
        for sample in record["samples"]:
            key = (sample["engine"], sample["size"], sample["threads"], sample["measure"])
            self._samples.setdefault(key, []).append(sample)
        self._failures = {(f["engine"], f["size"], f["threads"]): f for f in record["failures"]}

    def cases(self) -> Iterator[tuple[str, int, list[Described]]]:
        """Yield size, threads and the engines of one group, those that failed included."""
        tried = [*self.record["visits"], *self.record["failures"]]
        sizes = {(visit["size"], visit["threads"]) for visit in tried}
        groups = dict.fromkeys(engine["group"] for engine in self.engines)
        for size, threads in sorted(sizes, key=lambda case: (list(NAMES).index(case[0]), case[1])):
            for group in groups:
                yield size, threads, [e for e in self.engines if e["group"] == group]

    def measures(self, size: str, threads: int, *, scaling: bool) -> list[str]:
        """Return what was measured in a case."""
        found = {key[3] for key in self._samples if key[1:3] == (size, threads)}
        return [
            name
            for name, measure in MEASURES.items()
            if name in found and measure.scaling == scaling
        ]

    def cell(self, engine: str, size: str, threads: int, measure: str) -> Cell | None:
        """Return a speed; None if the engine failed or was not measured."""
        if self.failure(engine, size, threads):
            return None
        return cell(self._samples.get((engine, size, threads, measure), []))

    def ratio(self, ours: str, theirs: str, size: str, threads: int, measure: str) -> Ratio | None:
        """Return one engine's speed over another's; None if one of them has none."""
        a = self.cell(ours, size, threads, measure)
        b = self.cell(theirs, size, threads, measure)
        return ratio(a, b, self._interval) if a and b else None

    def failure(self, engine: str, size: str, threads: int) -> str:
        """Return why an engine has no numbers; "" if it has."""
        failure = self._failures.get((engine, size, threads))
        return " ".join(failure["reason"].split())[:300] if failure else ""

    def cost(self, engine: str, size: str, threads: int, field: str) -> float | None:
        """Return the median over rounds of a fact of loading; None if the engine has none."""
        case = (engine, size, threads)
        found = [
            visit[field]
            for visit in self.record["visits"]
            if (visit["engine"], visit["size"], visit["threads"]) == case
        ]
        return statistics.median(found) if found and not self.failure(*case) else None

    def share(self, engine: Described, size: str, threads: int, measure: str) -> Ratio | None:
        """Return speed over what the roof of the same round allows; None without one of them.

        By round, because what memory delivers may be half as much again a minute later.
        """
        work, tokens = MEASURES[measure].work(size, engine["bits"])
        roof = cell(
            {
                "round": round_,
                "rate": tokens / roofs.bound(work)[0],
                "clean": not roofs.disturbed,
            }
            for round_, roofs in self._roofs(threads, engine["target"])
        )
        speed = self.cell(engine["name"], size, threads, measure)
        return ratio(speed, roof, self._interval) if speed and roof else None

    def roofs(self, threads: int, target: str) -> list[Roofs]:
        """Return the rates of all rounds: the undisturbed ones, or all if there are none."""
        found = [roofs for _, roofs in self._roofs(threads, target)]
        return [roofs for roofs in found if not roofs.disturbed] or found

    def _roofs(self, threads: int, target: str) -> Iterator[tuple[int, Roofs]]:
        """Yield round and rates of all that was measured of them."""
        for roofs in self.record["roofs"]:
            if (roofs["threads"], roofs["target"]) == (threads, target):
                yield roofs["round"], Roofs(**roofs["rates"])
