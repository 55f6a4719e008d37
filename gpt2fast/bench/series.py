"""What a run measured: values round by round, and the JSON that keeps them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpt2fast.bench import bootstrap
from gpt2fast.config import CheckpointError, parse_json, quote

KIND, VERSION = "gpt2fast bench", 1
UNITS = {  # and whether more of it is better
    "tokens/s": True,
    "of the roof": True,
    "seconds": False,
    "bytes": False,
}
_LARGEST = 64 << 20  # bytes of a result; a million rounds have less


@dataclass(frozen=True)
class Series:
    """One quantity in every round that counts. `threads` 0: it does not depend on them.

    `disturbed` says that others used the CPUs in every round, and these are all of them; otherwise
    `dropped` rounds were left out. `roof` is what a share is of.
    """

    name: str
    threads: int
    unit: str
    values: list[float]
    dropped: int = 0
    disturbed: bool = False
    roof: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The median's 95% interval; None of one round."""
        return bootstrap.of_median(self.values)

    @property
    def key(self) -> tuple[str, int, str]:
        """What the same quantity has in another run."""
        return self.name, self.threads, self.unit


@dataclass(frozen=True)
class Run:
    """A run: facts of machine and model, and what was measured."""

    machine: dict[str, Any]
    model: dict[str, Any]
    series: list[Series] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the JSON that `read` takes, with medians and intervals for other readers."""
        found = [
            asdict(one) | {"median": one.median, "interval": one.interval} for one in self.series
        ]
        content = {"kind": KIND, "version": VERSION, "machine": self.machine, "model": self.model}
        return json.dumps(content | {"series": found}, indent=1)


def read(path: Path) -> Run:
    """Return a run from its JSON. Raises CheckpointError for any other file."""
    if path.stat().st_size > _LARGEST:
        raise CheckpointError(f"{path} has more than {_LARGEST:,} bytes: no result of {KIND}")
    content = parse_json(path.read_bytes(), str(path))
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise CheckpointError(f"{path} is no result of {KIND} --json")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a result of version {quote(content.get('version'))}; this is {VERSION}"
        )
    machine, model = content.get("machine"), content.get("model")
    series = content.get("series")
    if not (isinstance(machine, dict) and isinstance(model, dict) and isinstance(series, list)):
        raise CheckpointError(f"{path} lacks machine, model or series")
    return Run(machine, model, list(_checked(path, series)))


def _checked(path: Path, rows: list[Any]) -> Iterable[Series]:
    names = ("name", "threads", "unit", "values", "dropped", "disturbed", "roof")
    seen = set()
    for i, row in enumerate(rows):
        try:
            one = Series(*(row[name] for name in names))
            sound = (
                all(isinstance(text, str) and text.isprintable() for text in (one.name, one.roof))
                and one.unit in UNITS
                and type(one.threads) is int
                and type(one.dropped) is int
                and type(one.disturbed) is bool
                and len(one.values) > 0
                and all(type(value) in (int, float) for value in one.values)
                and all(0 < value < math.inf for value in one.values)
            )
        except (KeyError, TypeError):
            sound = False
        if not sound or one.key in seen:
            raise CheckpointError(f"{path}: series {i} is malformed: {quote(row)}")
        seen.add(one.key)
        yield one
