"""Pictures of a run, from its JSON: speed, share of the roof, memory and scaling.

    python -m benchmarks.peers.plots FILE.json FOLDER

Needs matplotlib (`pip install "gpt2fast[benchmarks]"`). Writes FOLDER/speed-N.svg, roof-N.svg and
memory-N.svg for N threads, and scaling.svg; what was not measured, or only disturbed, is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.measures import MEASURES
from benchmarks.peers.results import NAMES, Described, Results, read
from benchmarks.random_checkpoints import SIZES, parameters

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ImportError as error:
    raise SystemExit(f'{error}; pip install "gpt2fast[benchmarks]"') from error

_COLORS = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#7f7f7f", "#17becf")
_CONTEXTS = ("decode32", "decode300", "decode600", "decode900")
_BATCHES = ("decode32", "batch2", "batch4", "batch8")

_PARAMETERS = "million parameters"

Points = list[tuple[float, float]]
Curve = Callable[[Described], Points]


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pictures and return their paths."""
    results = Results(record)
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Figure] = {}
    for threads in sorted({visit["threads"] for visit in record["visits"]}):
        pictures[f"speed-{threads}"] = _by_size(results, threads, share=False)
        pictures[f"roof-{threads}"] = _by_size(results, threads, share=True)
        pictures[f"memory-{threads}"] = _memory(results, threads)
    pictures["scaling"] = _scaling(results)
    paths = []
    with mpl.rc_context({"svg.hashsalt": "gpt2fast", "svg.fonttype": "none"}):
        for name, figure in pictures.items():
            if figure.axes:
                paths.append(folder / f"{name}.svg")
                figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def _by_size(results: Results, threads: int, *, share: bool) -> Figure:
    """One panel per measure: tokens per second, or share of the roof, against parameters."""

    def of(measure: str) -> Curve:
        def curve(engine: Described) -> Points:
            points = []
            for size in SIZES:
                found = results.cell(engine["name"], size, threads, measure)
                part = results.share(engine, size, threads, measure)
                if found and not found.disturbed and part is not None:
                    value = 100 * part.value if share else found.median
                    points.append((parameters(size) / 1e6, value))
            return points

        return curve

    panels = [(m.label, of(name)) for name, m in MEASURES.items() if not m.scaling]
    label = "% of the roof" if share else "tokens/s"
    title = f"{label}, {threads} thread{'s' * (threads > 1)}"
    return _figure(results, panels, title, _PARAMETERS, label, log=not share)


def _memory(results: Results, threads: int) -> Figure:
    def curve(engine: Described) -> Points:
        costs = (
            (size, results.cost(engine["name"], size, threads, "peak_bytes")) for size in SIZES
        )
        return [(parameters(size) / 1e6, cost / 1e6) for size, cost in costs if cost]

    title = f"memory, {threads} thread{'s' * (threads > 1)}"
    return _figure(results, [(title, curve)], "", _PARAMETERS, "peak MB", log=True)


def _scaling(results: Results) -> Figure:
    """Speed of the smallest model against context, batch and threads."""
    cases = [(size, threads) for size, threads, _ in results.cases()]
    if not cases:
        return Figure()
    size = min((case[0] for case in cases), key=list(NAMES).index)
    counts = sorted({threads for other, threads in cases if other == size})

    def along(names: Sequence[str], position: str) -> Curve:
        def curve(engine: Described) -> Points:
            cells = ((n, results.cell(engine["name"], size, counts[-1], n)) for n in names)
            return [
                (getattr(MEASURES[n], position), found.median)
                for n, found in cells
                if found and not found.disturbed
            ]

        return curve

    def by_threads(engine: Described) -> Points:
        cells = ((n, results.cell(engine["name"], size, n, "decode32")) for n in counts)
        return [(n, found.median) for n, found in cells if found and not found.disturbed]

    panels = [
        ("context", along(_CONTEXTS, "length")),
        ("texts at once", along(_BATCHES, "prompts")),
        ("threads", by_threads),
    ]
    return _figure(results, panels, NAMES[size], "", "tokens/s", log=False)


def _figure(
    results: Results, panels: list[tuple[str, Curve]], title: str, x: str, y: str, *, log: bool
) -> Figure:
    """Draw one panel per curve with a line per engine; panels without any line are left out."""
    drawn = [
        (label, lines)
        for label, curve in panels
        if (lines := [(e, points) for e in results.engines if (points := curve(e))])
    ]
    figure = Figure(figsize=(max(6.0, 4.2 * len(drawn)), 4.4), layout="constrained")
    names = [engine["name"] for engine in results.engines]
    for i, (label, lines) in enumerate(drawn):
        axes = figure.add_subplot(1, len(drawn), i + 1)
        for engine, points in lines:
            color = _COLORS[names.index(engine["name"]) % len(_COLORS)]
            width = 2.6 if engine["ours"] else 1.3
            axes.plot(*zip(*points, strict=True), "o-", color=color, lw=width, ms=4,
                      label=engine["label"])  # fmt: skip
        axes.set(title=label, xlabel=x, ylabel=y if i == 0 else "")
        positions = sorted({position for _, points in lines for position, _ in points})
        if x == _PARAMETERS:
            axes.set_xscale("log")
            axes.set_xticks([], minor=True)
        axes.set_xticks(positions, [f"{position:.0f}" for position in positions])
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3, which="both")
    if drawn:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=max(2, min(4, len(drawn) + 1)),
            fontsize="small",
        )
        figure.suptitle(title)
    return figure


def main() -> None:
    """Draw the run that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        record = read(options.file)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    for path in draw(record, options.folder):
        print(path)


if __name__ == "__main__":
    main()
