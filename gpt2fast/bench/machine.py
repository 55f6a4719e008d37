"""Facts about the machine and the build."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import gpt2fast
from gpt2fast import _core
from gpt2fast.threads import available_cpus

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def facts() -> dict[str, Any]:
    """Return what a reader needs to compare one run with another."""
    supported = _core.supported()
    return {
        "version": gpt2fast.__version__,
        "cpu": cpu_model(),
        "cpus": available_cpus(),
        "caches": caches(),
        "memory_bytes": _memory(),
        "target": _core.target(),
        "targets": [name for name, missing in supported.items() if not missing],
        "compiler": compiler(),
    }


def cpu_model() -> str:
    """Return the CPU's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def caches() -> dict[str, str]:
    """Return the size of each cache of the first CPU, and how many CPUs share it; {} if unknown."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size, shared = (
                (folder / name).read_text().strip()
                for name in ("level", "type", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found[f"L{level}{suffix}"] = f"{size} (CPUs {shared})"
    return found


def compiler() -> str:
    """Return what compiled the core, as the compiler left it in the module; "unknown" if not."""
    content = Path(_core.__file__).read_bytes()
    found = re.search(rb"(GCC: \([^)\0]*\) [\d.]+|clang version [\d.]+)", content)
    return found[1].decode() if found else "unknown"


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
