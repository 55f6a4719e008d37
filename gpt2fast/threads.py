"""How many threads to use: what the affinity mask, the container and the environment allow."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpt2fast.ranges import integer

MAX_THREADS = 256  # what the core takes: kMaxThreads of csrc/thread_pool.h


def thread_count(threads: object, environ: Mapping[str, str] = os.environ) -> int:
    """Return the threads asked for; None is GPT2FAST_THREADS, or else all CPUs, at most 256.

    Raises ValueError unless it is an integer from 1 to 256.
    """
    if threads is not None:
        return integer("threads", threads, 1, MAX_THREADS)
    given = environ.get("GPT2FAST_THREADS", "")
    if not given:
        return min(available_cpus(), MAX_THREADS)
    return integer("GPT2FAST_THREADS", int(given) if given.isdecimal() else given, 1, MAX_THREADS)


def available_cpus(root: Path = Path("/")) -> int:
    """Return the CPUs this process may use: its affinity, or the quota of its cgroup if less."""
    if sys.version_info >= (3, 13):
        cpus = os.process_cpu_count() or 1
    elif sys.platform == "linux":
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return max(1, min([cpus, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota, in CPUs, of every cgroup (v1 or v2) around this process."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            folders = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            folders = [mount / controllers, mount / "cpu"]
        else:
            continue
        below = Path(path.strip("/"))
        for folder in folders:
            for group in (below, *below.parents):
                quota = _quota(folder / group)
                if quota > 0:
                    yield quota


def _quota(group: Path) -> float:
    """Return the quota of one cgroup in CPUs; 0 if it has none."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return 0
