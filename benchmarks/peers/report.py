"""The Markdown of a run, from what its JSON holds.

python -m benchmarks.peers.report FILE.json
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.measures import MEASURES
from benchmarks.peers.ratios import Cell
from benchmarks.peers.report_quality import quality_tables, tokenizer_table
from benchmarks.peers.results import NAMES, Described, Results, read
from gpt2fast.bench.cpu_clock import FOREIGN_LIMIT

_COSTS = (  # header, field of a visit, unit, digits
    ("load s", "load_seconds", 1, 2),
    ("to first token s", "first_token_seconds", 1, 2),
    ("peak MB", "peak_bytes", 1e6, 0),
    ("file MB", "file_bytes", 1e6, 0),
)
_RATES = ("read", "int8_dot", "float32_fma")  # of Roofs


def report(record: dict[str, Any]) -> str:
    """Return all tables."""
    results = Results(record)
    lines = [*_head(results)]
    for size, threads, engines in results.cases():
        lines += _section(results, size, threads, engines)
    if record.get("quality"):
        lines += quality_tables(record["quality"])
    if record.get("tokenizers"):
        lines += tokenizer_table(record["tokenizers"])
    return "\n".join([*lines, "", *_tail(results)]) + "\n"


def _head(results: Results) -> Iterator[str]:
    record = results.record
    facts, commit = record["machine"], record["commit"]
    caches = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    memory = "unknown" if facts["memory_bytes"] is None else f"{facts['memory_bytes'] / 2**30:.1f}"
    yield f"# gpt2fast beside its peers, {record['date']}"
    yield ""
    yield f"- {facts['cpu']}, {facts['cpus']} CPUs, {caches}; {memory} GiB of memory"
    yield (
        f"- gpt2fast {facts['version']}, commit {commit.get('id', 'unknown')[:12]}"
        f"{' with changes' * bool(commit.get('dirty'))}, {facts['target']}, {facts['compiler']}"
    )
    yield f"- `{record['command']}`"
    yield ""
    yield (
        "Random weights, greedy, token ids in, tokens produced counted; every engine in a process "
        "of its own, started again in each round, in turn. Tokens per second are medians over the "
        "rounds, with the lowest and the highest round; **bold** is the best of a column. `roof` "
        "is the share of the time that reading every weight once a step, or its multiplications, "
        "take at the rates of the same round, whichever is longer. Ratios are medians of the "
        "rounds' ratios, with Student's 95% intervals of their logarithms."
    )
    yield ""
    yield row("roofs", "read GB/s", "int8 dot GOPS", "float32 GFLOPS")
    yield row(*["---"] * 4)
    for threads, target in dict.fromkeys((f["threads"], f["target"]) for f in record["roofs"]):
        found = results.roofs(threads, target)
        where = f"{target or facts['target']}, {_threads(threads)}"
        where += ", DISTURBED" * found[0].disturbed
        yield row(where, *(_rates([getattr(roofs, name) for roofs in found]) for name in _RATES))


def _rates(found: list[float]) -> str:
    """Return the median of rates, in billions, with the lowest and the highest."""
    low, middle, high = (f(found) / 1e9 for f in (min, statistics.median, max))
    return f"{middle:.4g} ({low:.4g} to {high:.4g})"


def _section(
    results: Results, size: str, threads: int, engines: Sequence[Described]
) -> Iterator[str]:
    yield ""
    yield f"## {NAMES[size]}, {_threads(threads)}, {engines[0]['group']}"
    yield ""
    yield from _speeds(results, size, threads, engines)
    for scaling in (False, True):
        measures = results.measures(size, threads, scaling=scaling)
        if measures and scaling:
            yield ""
            yield from _scaling(results, size, threads, engines, measures)
        if measures:
            yield from _ratios(results, size, threads, engines, measures)
    for engine in engines:
        reason = results.failure(engine["name"], size, threads)
        if reason:
            yield ""
            yield f"{engine['label']} failed: {reason}"


def _speeds(
    results: Results, size: str, threads: int, engines: Sequence[Described]
) -> Iterator[str]:
    measures = results.measures(size, threads, scaling=False)
    headers = [header for name in measures for header in (MEASURES[name].label, "roof")]
    yield row("engine", *headers, *(header for header, *_ in _COSTS))
    yield row(*["---"] * (1 + len(headers) + len(_COSTS)))
    for engine in engines:
        columns = []
        for measure in measures:
            share = results.share(engine, size, threads, measure)
            columns.append(speed(results, engine, engines, size, threads, measure))
            columns.append("-" if share is None else f"{share.value:.0%}")
        for _, field, unit, digits in _COSTS:
            cost = results.cost(engine["name"], size, threads, field)
            columns.append("-" if cost is None else f"{cost / unit:.{digits}f}")
        yield row(engine["label"], *columns)


def _scaling(
    results: Results, size: str, threads: int, engines: Sequence[Described], measures: list[str]
) -> Iterator[str]:
    yield row("engine", *(MEASURES[name].label for name in measures))
    yield row(*["---"] * (1 + len(measures)))
    for engine in engines:
        speeds = (speed(results, engine, engines, size, threads, name) for name in measures)
        yield row(engine["label"], *speeds)


def speed(
    results: Results,
    engine: Described,
    engines: Sequence[Described],
    size: str,
    threads: int,
    measure: str,
) -> str:
    """Return a speed as the tables show it, in bold if it is the best of the engines."""
    if results.failure(engine["name"], size, threads):
        return "failed"
    found = results.cell(engine["name"], size, threads, measure)
    if found is None:
        return "-"
    others = (results.cell(other["name"], size, threads, measure) for other in engines)
    return _number(found, found.median >= max(other.median for other in others if other))


def _number(number: Cell, best: bool) -> str:
    text = f"{number.median:.4g}"
    if best:
        text = f"**{text}**"
    spread = f" ({number.low:.4g} to {number.high:.4g})" if len(number.rounds) > 1 else ""
    return text + spread + " DISTURBED" * number.disturbed


def _ratios(
    results: Results, size: str, threads: int, engines: Sequence[Described], measures: list[str]
) -> Iterator[str]:
    """Yield the table of ours over theirs, if there are both."""
    ours = next((engine for engine in engines if engine["ours"]), None)
    peers = [engine for engine in engines if not engine["ours"]]
    if ours is None or not peers or results.failure(ours["name"], size, threads):
        return
    yield ""
    yield row(f"{ours['label']} over", *(MEASURES[name].label for name in measures))
    yield row(*["---"] * (1 + len(measures)))
    for engine in peers:
        columns = []
        for measure in measures:
            found = results.ratio(ours["name"], engine["name"], size, threads, measure)
            if found is None:
                failed = results.failure(engine["name"], size, threads)
                columns.append("failed" if failed else "-")
                continue
            low, high = found.interval or (0, 0)
            interval = f" ({low:.2f} to {high:.2f})" if found.interval else ""
            columns.append(f"{found.value:.2f}{interval}{' DISTURBED' * found.disturbed}")
        yield row(engine["label"], *columns)


def _tail(results: Results) -> Iterator[str]:
    record = results.record
    versions = {visit["engine"]: visit["version"] for visit in record["visits"]}
    for engine in results.engines:
        if engine["name"] in versions:
            yield f"- {engine['label']}: {versions[engine['name']]}"
    dropped = sum(not sample["clean"] for sample in record["samples"])
    yield ""
    yield (
        f"{dropped} of {len(record['samples'])} samples saw other processes take more than "
        f"{FOREIGN_LIMIT:.1%} of the CPU time and were left out; DISTURBED are those of which "
        "nothing would have been left. Do not quote them."
    )


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def row(*columns: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(columns)} |"


if __name__ == "__main__":
    print(report(read(Path(sys.argv[1]))), end="")
