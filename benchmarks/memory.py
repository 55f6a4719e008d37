"""What a packed model takes: its file, its memory, and the time until it can be used.

    python -m benchmarks.memory [FILE] [--threads N] [--rounds N]

FILE is a packed model; without one, a random 1.5B in int8 is made in the cache folder, once. Times
are medians; every process starts afresh, and its imports do not count. Linux only: /proc tells.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import gpt2fast
from benchmarks.models import Library, default_folder
from gpt2fast.checkpoints.packed import open_packed

N_TOKENS = 32
WARM = """
import sys, time, gpt2fast, gpt2fast.resources
path, threads = sys.argv[1], int(sys.argv[2])
gpt2fast.load().generate([7], max_new_tokens=1)  # all that is imported on the way
start = time.perf_counter()
model = gpt2fast.load(path, threads=threads)
loaded = time.perf_counter()
model.generate([7], max_new_tokens=1, seed=1)
print(loaded - start, time.perf_counter() - start)
"""
PEAK = """
import sys, gpt2fast
model = gpt2fast.load(sys.argv[1], threads=int(sys.argv[2]))
model.generate([7], max_new_tokens=int(sys.argv[3]), ignore_eot=True, seed=1)
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(1024 * int(peak))
"""
SHARE = """
import sys, gpt2fast
model = gpt2fast.load(sys.argv[1], threads=int(sys.argv[2]))
model.generate([7], max_new_tokens=2, ignore_eot=True, seed=1)
print("ready", flush=True)
sys.stdin.readline()
for line in open("/proc/self/smaps_rollup"):
    if line.startswith(("Rss:", "Pss:")):
        print(line.split()[1], flush=True)
sys.stdin.readline()
"""


def main() -> None:
    """Read the options and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = options.file or Library(default_folder()).packed("gpt2-xl", "int8")
    report(path, options.threads, options.rounds)


def report(path: Path, threads: int, rounds: int) -> None:
    """Print one line per fact."""
    size, known = path.stat().st_size, gpt2fast.estimate(path, n_ctx=N_TOKENS)
    print(f"file: {size:,} bytes; weights {known.weights:,}, keys and values of {N_TOKENS} tokens")
    print(f"  {known.cache:,}, work buffers at most {known.workspace:,}")
    read_to_end(path)
    warm = [run(WARM, path, threads) for _ in range(rounds)]
    print(f"warm: load {median(warm, 0) * 1e3:.1f} ms, load to first token {median(warm, 1):.3f} s")
    [peak] = run(PEAK, path, threads, N_TOKENS)
    print(
        f"peak memory after {N_TOKENS} tokens: {peak / 1e6:,.0f} MB, "
        f"{(peak - size) / 1e6:,.0f} MB more than the file"
    )
    for number, (rss, pss) in enumerate(shared(path, threads), 1):
        print(f"process {number} of 2: Rss {rss / 1e6:,.0f} MB, Pss {pss / 1e6:,.0f} MB")
    cold(path, threads, rounds)
    start = time.perf_counter()
    open_packed(path, verify=True)
    seconds = time.perf_counter() - start
    print(f"verify, warm: {seconds:.2f} s, {size / seconds / 1e6:,.0f} MB/s")


def cold(path: Path, threads: int, rounds: int) -> None:
    """Print the time to a first token when the file is on the disk only, beside reading it."""
    reading, first = [], []
    for _ in range(rounds):
        drop(path)
        reading.append(read_to_end(path))
        drop(path)
        first.append(run(WARM, path, threads)[1])
    ratio = statistics.median(first) / statistics.median(reading)
    print(
        f"cold: first token {statistics.median(first):.2f} s, reading the file "
        f"{statistics.median(reading):.2f} s, ratio {ratio:.2f}"
    )


def drop(path: Path) -> None:
    """Make the system forget the pages of a file, which no process may have mapped."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_to_end(path: Path) -> float:
    """Read a file from start to end and return the seconds."""
    buffer = bytearray(1 << 20)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def run(code: str, path: Path, *arguments: int) -> list[float]:
    """Return the numbers that a process prints."""
    command = [sys.executable, "-P", "-c", code, str(path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def shared(path: Path, threads: int) -> list[tuple[int, int]]:
    """Return Rss and Pss of two processes that both have the model in use."""
    command = [sys.executable, "-P", "-c", SHARE, str(path), str(threads)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = []
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        rss, pss = (1024 * int(process.stdout.readline()) for _ in range(2))
        found.append((rss, pss))
    for process in processes:
        process.communicate("end\n")
    return found


def median(rows: list[list[float]], column: int) -> float:
    """Return the median of one column."""
    return statistics.median(row[column] for row in rows)


if __name__ == "__main__":
    main()
