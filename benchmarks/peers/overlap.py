"""Whether two runs say the same: ratio by ratio, do their 95% intervals overlap?

python -m benchmarks.peers.overlap FIRST.json SECOND.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.ratios import Ratio
from benchmarks.peers.results import Results, read


@dataclass(frozen=True)
class Row:
    """One ratio, of ours over a peer's speed, in both runs."""

    size: str
    threads: int
    measure: str
    ours: str
    theirs: str
    ratios: tuple[Ratio, Ratio]

    @property
    def overlap(self) -> bool:
        """Whether some value lies in both intervals."""
        (low, high), (other_low, other_high) = (r.interval or (r.value, r.value)
                                                for r in self.ratios)  # fmt: skip
        return low <= other_high and other_low <= high


def overlaps(first: dict[str, Any], second: dict[str, Any]) -> Iterator[Row]:
    """Yield the ratios that both runs have; disturbed ones are left out."""
    one, two = Results(first), Results(second)
    for size, threads, engines in one.cases():
        ours = next((engine["name"] for engine in engines if engine["ours"]), None)
        if ours is None:
            continue
        names = [engine["name"] for engine in engines if not engine["ours"]]
        for scaling in (False, True):
            for measure in one.measures(size, threads, scaling=scaling):
                for theirs in names:
                    a, b = (r.ratio(ours, theirs, size, threads, measure) for r in (one, two))
                    if a and b and not (a.disturbed or b.disturbed):
                        yield Row(size, threads, measure, ours, theirs, (a, b))


def main(arguments: list[str] | None = None) -> int:
    """Print a line per ratio, and how many overlap; return 1 if some do not, 2 if there are none.

    What is disturbed, failed, or in one run only has no line.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args(arguments)
    try:
        rows = list(overlaps(read(options.first), read(options.second)))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for row in rows:
        pair = ", ".join(
            f"{r.value:.2f}" + (" ({:.2f} to {:.2f})".format(*r.interval) if r.interval else "")
            for r in row.ratios
        )
        mark = "" if row.overlap else "   APART"
        print(f"{row.size} {row.threads} {row.measure}: {row.ours} over {row.theirs}: {pair}{mark}")
    together = sum(row.overlap for row in rows)
    print(f"{together} of {len(rows)} ratios overlap")
    return (0 if together == len(rows) else 1) if rows else 2


if __name__ == "__main__":
    sys.exit(main())
