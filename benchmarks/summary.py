"""The table that ends a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from benchmarks.measure import Result
from gpt2fast.bench.cpu_clock import FOREIGN_LIMIT
from gpt2fast.bench.roofline import RoofMeter

_COLUMNS = ("benchmark", "time", "rate", "roof", "share", "others", "rounds", "")


def lines(results: Sequence[Result], roofs: RoofMeter, facts: dict[str, Any]) -> Iterator[str]:
    """Yield machine, roofs, one line per benchmark, and what others did to the CPUs meanwhile."""
    kept = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    yield f"{facts['cpu']}, {facts['cpus']} CPUs, {kept}; {facts['compiler']}"
    yield ""
    yield from _roof_lines(roofs)
    rows = [(result.module, _row(result)) for result in results]
    cells = [_COLUMNS, *(row for _, row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
    for module, group in groupby(rows, key=lambda pair: pair[0]):
        yield ""
        yield _aligned((module, *_COLUMNS[1:]), widths)
        for _, row in group:
            yield _aligned(row, widths)
    yield ""
    yield from _disturbance(results)


def _roof_lines(roofs: RoofMeter) -> Iterator[str]:
    for (target, threads), found in sorted(roofs.found.items()):
        rates = []
        for name, label, unit in (
            ("read_anonymous", "read", "GB/s"),
            ("read_mapped", "read of a mapped file", "GB/s"),
            ("int8_dot", "int8 dot", "GOPS"),
            ("float32_fma", "float32", "GFLOPS"),
        ):
            values = [rate for one in found if (rate := getattr(one, name) / 1e9)]
            if values:
                rates.append(f"{label} {min(values):.4g} to {max(values):.4g} {unit}")
        yield f"roofs, {target}, {threads} thread{'s' * (threads > 1)}: {', '.join(rates)}"


def _row(result: Result) -> tuple[str, ...]:
    info = result.info
    kept = info["rounds_run"] - info["rounds_dropped"]
    notes = []
    if "share_with_cache" in info:
        notes.append(f"with keys and values {info['share_with_cache']:.1%}")
    if info["baseline_seconds"]:
        notes.append(f"net of {_time(info['baseline_seconds'])}")
    if "roofs" in info and info["roofs"]["disturbed"]:
        notes.append("ROOFS DISTURBED")
    if not kept:
        notes.append("NO CLEAN ROUND")
    return (
        result.name,
        _time(result.seconds),
        _rate(info),
        info.get("roof", "-"),
        f"{info['share']:.1%}" if "share" in info else "-",
        "?" if info["foreign_cpu"] is None else f"{info['foreign_cpu']:.0%}",
        f"{kept}/{info['rounds_run']}",
        ", ".join(notes),
    )


def _rate(info: dict[str, Any]) -> str:
    if "rate" in info:
        return f"{info['rate']:.4g} {info['unit']}"
    if "roof" not in info:
        return "-"
    if info["roof"] == "memory":
        return f"{info['bytes'] / info['seconds'] / 1e9:.4g} GB/s"
    return f"{info['operations'] / info['seconds'] / 1e9:.4g} GOPS"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds * 1e6:.4g} us"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *middle, last = (
        cell.ljust(width) if i in (0, 3, len(widths) - 1) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join((first, *middle, last)).rstrip()


def _disturbance(results: Sequence[Result]) -> Iterator[str]:
    run = sum(result.info["rounds_run"] for result in results)
    dropped = sum(result.info["rounds_dropped"] for result in results)
    spoilt = [r for r in results if r.info["rounds_dropped"] == r.info["rounds_run"]]
    yield (
        f"{dropped} of {run} rounds saw others take more than {FOREIGN_LIMIT:.1%} of the CPU time "
        "and were dropped;"
    )
    yield f"{len(spoilt)} benchmarks have no other rounds and report these: do not quote them."
