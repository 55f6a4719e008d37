"""The Markdown of a run, from what its JSON holds.

python -m benchmarks.peers.report FILE.json
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu_clock import FOREIGN_LIMIT
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.ratios import Cell, cell, ratio
from benchmarks.roofline import Roofs

NAMES = {"distilgpt2": "DistilGPT2", "gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M"}
NAMES["gpt2-xl"] = "1.5B"
_COSTS = (  # header, field of a visit, unit, digits
    ("load s", "load_seconds", 1, 2),
    ("to first token s", "first_token_seconds", 1, 2),
    ("peak MB", "peak_bytes", 1e6, 0),
    ("file MB", "file_bytes", 1e6, 0),
)


class Results:
    """A record, by case: size, threads, group of engines."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self._samples: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
        for sample in record["samples"]:
            key = (sample["engine"], sample["size"], sample["threads"], sample["measure"])
            self._samples.setdefault(key, []).append(sample)
        self._failures = {(f["engine"], f["size"], f["threads"]): f for f in record["failures"]}

    def cases(self) -> Iterator[tuple[str, int, str, list[dict[str, Any]]]]:
        """Yield size, threads, group, and the group's engines that were tried or failed there."""
        seen = {(e["size"], e["threads"]): None for e in (*self.record["visits"],
                                                          *self.record["failures"])}  # fmt: skip
        for size, threads in seen:
            for group in dict.fromkeys(engine["group"] for engine in self.record["engines"]):
                engines = [e for e in self.record["engines"] if e["group"] == group]
                yield size, threads, group, engines

    def cell(self, engine: str, size: str, threads: int, measure: str) -> Cell | None:
        """Return a number of the tables; None if the engine failed, even once, or was not run."""
        if self.failure(engine, size, threads):
            return None
        return cell(self._samples.get((engine, size, threads, measure), []))

    def failure(self, engine: str, size: str, threads: int) -> str:
        """Return why an engine has no numbers; "" if it has."""
        failure = self._failures.get((engine, size, threads))
        return failure["reason"] if failure else ""

    def cost(self, engine: str, size: str, threads: int, field: str) -> float | None:
        """Return the median over rounds of a fact of loading; None if there is none."""
        found = [
            visit[field]
            for visit in self.record["visits"]
            if (visit["engine"], visit["size"], visit["threads"]) == (engine, size, threads)
        ]
        return statistics.median(found) if found else None

    def share(self, engine: dict[str, Any], size: str, threads: int, measure: str) -> float | None:
        """Return the share of the roof; None without a number or a roof."""
        number = self.cell(engine["name"], size, threads, measure)
        roofs = self.roofs(threads)
        if number is None or roofs is None:
            return None
        work, tokens = MEASURES[measure].work(size, engine["bits"])
        return roofs.bound(work)[0] * number.median / tokens

    def roofs(self, threads: int) -> Roofs | None:
        """Return the best rates that were measured with so many threads."""
        best: Roofs | None = None
        for found in self.record["roofs"]:
            if found["threads"] == threads:
                rates = {k: v for k, v in found.items() if k not in ("threads", "round")}
                best = Roofs(**rates) if best is None else best.best(Roofs(**rates))
        return best


def report(record: dict[str, Any]) -> str:
    """Return all tables."""
    results = Results(record)
    lines = [*_head(results)]
    for size, threads, group, engines in results.cases():
        plural = "s" * (threads > 1)
        lines += ["", f"## GPT-2 {NAMES[size]}, {threads} thread{plural}, {group}", ""]
        lines += _speeds(results, size, threads, engines)
        ratios = list(_ratios(results, size, threads, engines))
        if ratios:
            lines += ["", *ratios]
        lines += _failures(results, size, threads, engines)
    return "\n".join([*lines, "", *_tail(results)]) + "\n"


def _head(results: Results) -> Iterator[str]:
    record = results.record
    facts = record["machine"]
    yield f"# gpt2fast beside its peers, {record['date']}"
    yield ""
    caches = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    yield f"{facts['cpu']}, {facts['cpus']} CPUs, {caches}, {facts['memory_bytes'] / 2**30:.1f} GiB"
    yield f"memory; gpt2fast {facts['version']} ({facts['target']}, {facts['compiler']})"
    yield f"at {record['commit'].get('id', 'an unknown commit')[:12]}"
    yield f"{'(with changes) ' * bool(record['commit'].get('dirty'))}by `{record['command']}`."
    yield ""
    yield "Random weights, greedy, token ids in, tokens produced counted; every engine in a process"
    yield "of its own, started again in each round, in turn. Tokens per second: medians over the"
    yield "rounds, the lowest and the highest round behind them. **Bold** is the best of a column."
    yield ""
    yield "| roofs | " + " | ".join(("read GB/s", "int8 dot GOPS", "float32 GFLOPS")) + " |"
    yield "|---|---|---|---|"
    for threads in dict.fromkeys(found["threads"] for found in record["roofs"]):
        roofs = results.roofs(threads)
        assert roofs
        rates = (roofs.read, roofs.int8_dot, roofs.float32_fma)
        plural = "s" * (threads > 1)
        yield f"| {threads} thread{plural} | " + " | ".join(f"{r / 1e9:.4g}" for r in rates) + " |"


def _speeds(
    results: Results, size: str, threads: int, engines: Sequence[dict[str, Any]]
) -> Iterator[str]:
    measures = results.record["measures"]
    best = {
        measure: max(
            (n.median for e in engines if (n := results.cell(e["name"], size, threads, measure))),
            default=0,
        )
        for measure in measures
    }
    labels = [f"{MEASURES[measure].label} | roof" for measure in measures]
    yield _row("engine", *labels, *(header for header, *_ in _COSTS))
    yield _row(*["---"] * (1 + 2 * len(measures) + len(_COSTS)))
    for engine in engines:
        case = (engine["name"], size, threads)
        columns = []
        for measure in measures:
            number = results.cell(*case, measure)
            columns.append(_number(number, best[measure]) if number else _none(results, case))
            share = results.share(engine, size, threads, measure)
            columns.append("-" if share is None else f"{share:.0%}")
        for _, field, unit, digits in _COSTS:
            cost = None if results.failure(*case) else results.cost(*case, field)
            columns.append("-" if cost is None else f"{cost / unit:.{digits}f}")
        yield _row(engine["label"], *columns)


def _number(number: Cell, best: float) -> str:
    text = f"{number.median:.4g}"
    if number.median == best:
        text = f"**{text}**"
    spread = f" ({number.low:.4g} to {number.high:.4g})" if len(number.rounds) > 1 else ""
    return text + spread + " disturbed" * number.disturbed


def _none(results: Results, case: tuple[str, int, int] | Any) -> str:
    return "failed" if results.failure(*case) else "-"


def _ratios(
    results: Results, size: str, threads: int, engines: Sequence[dict[str, Any]]
) -> Iterator[str]:
    ours = next((e for e in engines if e["ours"]), None)
    peers = [e for e in engines if not e["ours"]]
    if ours is None or not peers or results.failure(ours["name"], size, threads):
        return
    measures = results.record["measures"]
    yield _row(f"{ours['label']} over", *(MEASURES[measure].label for measure in measures))
    yield _row(*["---"] * (1 + len(measures)))
    for engine in peers:
        columns = []
        for measure in measures:
            a = results.cell(ours["name"], size, threads, measure)
            b = results.cell(engine["name"], size, threads, measure)
            found = ratio(a.rounds, b.rounds) if a and b else None
            if found is None:
                columns.append(_none(results, (engine["name"], size, threads)))
            else:
                low_high = " ({:.2f} to {:.2f})".format(*found.interval) if found.interval else ""
                columns.append(f"{found.value:.2f}{low_high}")
        yield _row(engine["label"], *columns)


def _failures(
    results: Results, size: str, threads: int, engines: Sequence[dict[str, Any]]
) -> Iterator[str]:
    for engine in engines:
        reason = results.failure(engine["name"], size, threads)
        if reason:
            yield ""
            yield f"{engine['label']} failed: {' '.join(reason.split())[:300]}"


def _tail(results: Results) -> Iterator[str]:
    record = results.record
    versions = {visit["engine"]: visit["version"] for visit in record["visits"]}
    for engine in record["engines"]:
        if engine["name"] in versions:
            yield f"- {engine['label']}: {versions[engine['name']]}"
    dropped = sum(not sample["clean"] for sample in record["samples"])
    yield ""
    yield (
        f"{dropped} of {len(record['samples'])} samples saw other processes take more than "
        f"{FOREIGN_LIMIT:.1%} of the CPU time and were measured again. Behind a speed is its share "
        "of the roof: of reading every weight once a step, or of its multiplications, whichever "
        "takes longer at the rates above. Behind a ratio is its 95% interval."
    )


def _row(*columns: str) -> str:
    return f"| {' | '.join(columns)} |"


if __name__ == "__main__":
    print(report(json.loads(Path(sys.argv[1]).read_text())), end="")
