"""The fixture `measure`: times a call in rounds between two measurements of the roofs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpt2fast import _core
from gpt2fast.bench.cpu_clock import FOREIGN_LIMIT, CpuClock
from gpt2fast.bench.roofline import RoofMeter, Roofs, Work


@dataclass(frozen=True)
class Result:
    """One line of the summary; `info` is what the JSON says under `extra_info`."""

    module: str
    name: str
    seconds: float
    info: dict[str, Any]


class Watched:
    """A call that looks at the CPU clock at the beginning of each round of `calls`."""

    def __init__(self, call: Callable[[], object], calls: int) -> None:
        self._call = call
        self._calls = calls
        self._made = 0
        self._clocks: list[CpuClock] = []

    def __call__(self) -> None:
        if self._made % self._calls == 0:
            self._clocks.append(CpuClock.now())
        self._made += 1
        self._call()

    def foreign(self, rounds: int) -> list[float | None]:
        """Return the share of CPU time that others took, round by round."""
        clocks = [*self._clocks, CpuClock.now()][: rounds + 1]  # pytest-benchmark adds a call
        return [a.foreign(b) for a, b in pairwise(clocks)]


class Measure:
    """Times a call; what it found goes into the benchmark's JSON and the summary."""

    def __init__(
        self,
        benchmark: Any,  # pytest-benchmark's fixture, which has no types
        roofs: RoofMeter,
        results: list[Result],
        *,
        rounds: int,
        round_seconds: float,
    ) -> None:
        self._benchmark = benchmark
        self._roofs = roofs
        self._results = results
        self._rounds = rounds
        self._round_seconds = round_seconds

    @property
    def enabled(self) -> bool:
        """Whether anything is timed; with --benchmark-disable, calls are made once."""
        return bool(self._benchmark.enabled)

    def __call__(
        self,
        call: Callable[[], object],
        work: Work | None = None,
        *,
        threads: int = 1,
        per_call: float = 0,
        unit: str = "",
        path: Path | None = None,
        baseline: Callable[[], object] | None = None,
    ) -> None:
        """Time `call`, which does `work` and so many `per_call` of a `unit`.

        `path` is a file whose mapped bytes the memory roof takes in. The time of `baseline` is
        subtracted: what the call needs besides the work.
        """
        benchmark = self._benchmark
        if not self.enabled:
            benchmark.pedantic(call)
            return
        roofs = self._roofs.measure(threads, path) if work else None
        besides = self._median(baseline) if baseline else 0.0
        calls = self._calls(call)
        watched = Watched(call, calls)
        benchmark.pedantic(watched, rounds=self._rounds, iterations=calls)
        foreign = watched.foreign(self._rounds)
        if baseline:
            besides = (besides + self._median(baseline)) / 2
        if roofs:
            roofs = roofs.best(self._roofs.measure(threads, path))
        info = benchmark.extra_info
        info.update(target=_core.target(), threads=threads)
        info.update(self._drop_disturbed(foreign))
        seconds = benchmark.stats.stats.median - besides
        info.update(seconds=seconds, baseline_seconds=besides)
        if per_call:
            info.update(rate=per_call / seconds, unit=unit)
        if work and roofs:
            info.update(_shares(work, roofs, seconds))
        module = benchmark.fullname.partition("::")[0].rpartition("test_")[2].removesuffix(".py")
        name = benchmark.name.removeprefix("test_")
        self._results.append(Result(module, name, seconds, dict(info)))

    def _calls(self, call: Callable[[], object]) -> int:
        """Return how many calls take as long as a round should."""
        call()
        calls = 1
        while True:
            start = time.perf_counter()
            for _ in range(calls):
                call()
            taken = time.perf_counter() - start
            if taken > self._round_seconds / 8:
                return max(1, math.ceil(calls * self._round_seconds / taken))
            calls *= 4

    def _median(self, call: Callable[[], object]) -> float:
        calls = self._calls(call)
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(calls):
                call()
            rounds.append((time.perf_counter() - start) / calls)
        return statistics.median(rounds)

    def _drop_disturbed(self, foreign: list[float | None]) -> dict[str, Any]:
        """Leave the rounds in which others let the CPUs alone; all of them if there is none."""
        data: list[float] = self._benchmark.stats.stats.data
        known = [share for share in foreign if share is not None]
        clean = [
            seconds
            for seconds, share in zip(data, foreign, strict=True)
            if share is None or share <= FOREIGN_LIMIT
        ]
        facts = {
            "foreign_cpu": statistics.mean(known) if known else None,
            "rounds_run": len(data),
            "rounds_dropped": len(data) - len(clean),
        }
        if clean:
            data[:] = clean
        return facts


def _shares(work: Work, roofs: Roofs, seconds: float) -> dict[str, Any]:
    bound, roof = roofs.bound(work)
    shares = {
        "bytes": work.bytes,
        "operations": work.operations,
        "roofs": asdict(roofs),
        "roof": roof,
        "share": bound / seconds,
    }
    if work.cache_bytes:
        shares["cache_bytes"] = work.cache_bytes
        shares["share_with_cache"] = (work.bytes + work.cache_bytes) / roofs.read / seconds
    return shares
