"""What the CPUs did while something was measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

FOREIGN_LIMIT = 0.075  # of all CPU time; what was measured while others took more is dropped

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # of /proc/stat: user, nice, system, irq, softirq and stolen


@dataclass(frozen=True)
class CpuClock:
    """CPU seconds so far: of the whole machine, and of this process and its children."""

    wall: float
    busy: float | None
    own: float

    @staticmethod
    def now() -> CpuClock:
        times = os.times()
        own = time.process_time() + times.children_user + times.children_system
        return CpuClock(time.perf_counter(), _busy(), own)

    def foreign(self, later: CpuClock, child: float = 0.0) -> float | None:
        """Return the share of all CPU time until `later` that others took; None if unknown.

        `child` is the CPU seconds of a process of ours that still runs.
        """
        if self.busy is None or later.busy is None:
            return None
        others = (later.busy - self.busy) - (later.own - self.own) - child
        return max(0.0, others / (later.wall - self.wall) / (os.cpu_count() or 1))


def _busy() -> float | None:
    """Return the seconds that the CPUs of the machine were busy or stolen; only Linux tells."""
    try:
        with _STAT.open() as file:
            ticks = file.readline().split()[1:]
    except OSError:
        return None
    return sum(int(ticks[i]) for i in _BUSY if i < len(ticks)) / os.sysconf("SC_CLK_TCK")
