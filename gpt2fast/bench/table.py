"""A run, and the comparison of two, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpt2fast.bench.compare import Change
from gpt2fast.bench.series import Run, Series

_UNITS = {"tokens/s": (1.0, "tokens/s"), "seconds": (1e3, "ms"), "bytes": (1e-6, "MB")}
_UNITS["of the roof"] = (100.0, "%")


def run_lines(run: Run) -> Iterator[str]:
    """Yield what was measured where, then a row per quantity, with its share of the roof."""
    facts, model = run.machine, run.model
    yield f"gpt2fast {facts['version']}, {facts['target']}; {facts['cpu']}, {facts['cpus']} CPUs"
    yield (
        f"{model['name']}: {model['dtype']}, {model['parameters']:,} parameters; weights "
        f"{model['weights_bytes'] / 1e6:,.1f} MB, keys and values "
        f"{model['cache_bytes_per_token']:,} bytes a token, buffers "
        f"{model['workspace_bytes'] / 1e6:,.1f} MB"
    )
    yield ""
    shares = {one.key[:2]: one for one in run.series if one.unit == "of the roof"}
    rows = [("threads", "", "median", "95% interval", "share of the roof", "rounds", "")]
    for one in run.series:
        if one.unit != "of the roof":
            share = shares.get(one.key[:2])
            note = "DISTURBED" * (one.disturbed or (share is not None and share.disturbed))
            rows.append(
                (_threads(one), one.name, _amount(one.median, one.unit), _interval(one),
                 _share(share), str(len(one.values)), note)
            )  # fmt: skip
    yield from aligned(rows)
    dropped = sum(one.dropped for one in run.series if one.unit != "of the roof")
    if dropped:
        yield ""
        yield f"{dropped} measurements do not count, because other processes used the CPUs"
    if any(one.disturbed for one in run.series):
        yield ""
        yield "DISTURBED: other processes used the CPUs in every round; do not quote these"


def change_lines(first: Run, second: Run, changes: Sequence[Change]) -> Iterator[str]:
    """Yield how the two runs differ in facts, then a row per quantity that both have."""
    for name in ("model", "machine"):
        one, other = getattr(first, name), getattr(second, name)
        for fact in sorted(one.keys() | other.keys()):
            if one.get(fact) != other.get(fact):
                yield f"{name}: {fact} is {_fact(one.get(fact))}, then {_fact(other.get(fact))}"
    yield ""
    rows = [("threads", "", "first", "second", "second / first", "")]
    for change in changes:
        one, two = change.first, change.second
        interval = "({:.3f} to {:.3f})".format(*change.interval) if change.interval else ""
        name = f"{one.name}, share" if one.unit == "of the roof" else one.name
        rows.append(
            (_threads(one), name, _amount(one.median, one.unit), _amount(two.median, two.unit),
             f"{change.ratio:.3f} {interval}".rstrip(), change.verdict)
        )  # fmt: skip
    yield from aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()


def _threads(one: Series) -> str:
    return str(one.threads or "")


def _amount(value: float, unit: str) -> str:
    scale, name = _UNITS[unit]
    return f"{_digits(value * scale)} {name}"


def _interval(one: Series) -> str:
    scale = _UNITS[one.unit][0]
    return " to ".join(_digits(end * scale) for end in one.interval or ())


def _share(share: Series | None) -> str:
    return f"{share.median:.0%} of {share.roof.replace('_', ' ')}" if share else ""


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _fact(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.encode("ascii", "backslashreplace").decode()[:100]
