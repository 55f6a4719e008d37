"""What differs between two runs beyond the noise of their rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpt2fast.bench import bootstrap
from gpt2fast.bench.series import UNITS, Run, Series

_BYTES = 0.01  # of a process's memory: what differs from one start to the next


@dataclass(frozen=True)
class Change:
    """The same quantity in two runs: the ratio of medians, second over first, and its interval."""

    first: Series
    second: Series
    ratio: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """What the interval says: all of it above 1, all below, or neither."""
        if self.first.disturbed or self.second.disturbed:
            return "disturbed: says nothing"
        if self.first.unit == "bytes":  # one value each
            low, high = self.ratio - _BYTES, self.ratio + _BYTES
        elif self.interval is None:
            return "one round: says nothing"
        else:
            low, high = self.interval
        if low <= 1 <= high:
            return "no difference beyond noise"
        return "better" if (low > 1) == UNITS[self.first.unit] else "worse"


def changes(first: Run, second: Run) -> Iterator[Change]:
    """Yield what both runs measured, in the order of the first."""
    others = {one.key: one for one in second.series}
    for one in first.series:
        other = others.get(one.key)
        if other:
            yield Change(one, other, *bootstrap.of_ratio(other.values, one.values))
