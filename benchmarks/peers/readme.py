"""README.md's table and picture, from one run.

    python -m benchmarks.peers.readme benchmarks/results/NAME.json

Draws the pictures of the run into benchmarks/results/NAME/ and writes the section between the two
comments of README.md anew. Refuses a run in which a number of the table was disturbed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.measures import MEASURES
from benchmarks.peers.report import row, speed
from benchmarks.peers.results import NAMES, Described, Results, read

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- speed: written by python -m benchmarks.peers.readme -->\n"
END = "<!-- end of speed -->\n"
_MEASURES = ("decode32", "prompt512", "batch8")


class UnfitError(Exception):
    """A run that README.md must not show."""


def section(record: dict[str, Any], name: str) -> str:
    """Return the section for a run whose files are benchmarks/results/NAME.*; raises UnfitError."""
    results = Results(record)
    threads = max(threads for _, threads, _ in results.cases())
    cases = [case for case in results.cases() if case[1] == threads]
    group = cases[0][2][0]["group"]
    sizes = [size for size, _, engines in cases if engines[0]["group"] == group]
    shown = list(dict.fromkeys((sizes[0], sizes[-1])))
    engines = next(engines for size, _, engines in cases if size == sizes[0])
    for engine in engines:
        _check(results, engine, shown, threads)
    return "\n".join(_lines(results, engines, shown, threads, name)) + "\n"


def _check(results: Results, engine: Described, sizes: list[str], threads: int) -> None:
    for size in sizes:
        if engine["ours"] and (reason := results.failure(engine["name"], size, threads)):
            raise UnfitError(f"{engine['label']} failed with {NAMES[size]}: {reason}")
        for measure in _MEASURES:
            cell = results.cell(engine["name"], size, threads, measure)
            if cell and cell.disturbed:
                raise UnfitError(
                    f"{engine['label']}, {NAMES[size]}, {MEASURES[measure].label}: other processes "
                    "used the CPUs in every round"
                )


def _lines(
    results: Results, engines: list[Described], sizes: list[str], threads: int, name: str
) -> Iterator[str]:
    record = results.record
    facts, commit = record["machine"], record["commit"]
    where = f"benchmarks/results/{name}"
    yield "## Speed"
    yield ""
    yield (
        f"Tokens per second on {threads} threads of an {facts['cpu']} ({facts['target']}), random "
        f"weights, with the lowest and the highest round, {record['date']}, commit "
        f"{commit.get('id', 'unknown')[:12]}{' with changes' * bool(commit.get('dirty'))}. Shares "
        f"of the roof, memory, ratios with their intervals, other sizes: [all of it]({where}.md)."
    )
    yield ""
    headers = [f"{NAMES[size]}, {MEASURES[m].label}" for size in sizes for m in _MEASURES]
    yield row("engine", *headers, f"{NAMES[sizes[-1]]}, peak MB")
    yield row(*["---"] * (2 + len(headers)))
    for engine in engines:
        cells = [
            speed(results, engine, engines, size, threads, measure)
            for size in sizes
            for measure in _MEASURES
        ]
        peak = results.cost(engine["name"], sizes[-1], threads, "peak_bytes")
        yield row(engine["label"], *cells, "-" if peak is None else f"{peak / 1e6:,.0f}")
    yield ""
    yield f"![Tokens per second against the size of the model]({where}/speed-{threads}.svg)"
    yield ""
    yield (
        f"`{record['command']}` measures this ([how](benchmarks/peers/README.md)), `python -m "
        f"benchmarks.peers.readme {where}.json` writes it here."
    )


def replaced(text: str, new: str) -> str:
    """Return README.md with another section. Raises UnfitError if it has no place for one."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UnfitError(f"README.md lacks {BEGIN.strip()} or {END.strip()}")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def main() -> None:
    """Draw the pictures and rewrite README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path, help="the JSON of a run, in benchmarks/results")
    path: Path = parser.parse_args().file
    readme = ROOT / "README.md"
    if path.resolve().parent != ROOT / "benchmarks" / "results":
        sys.exit(f"{path} is not in benchmarks/results, to which README.md links")
    try:
        record = read(path)
        text = replaced(readme.read_text(), section(record, path.stem))
    except (UnfitError, OSError, ValueError) as error:
        sys.exit(str(error))
    from benchmarks.peers.plots import draw

    draw(record, path.with_suffix(""))
    readme.write_text(text)


if __name__ == "__main__":
    main()
