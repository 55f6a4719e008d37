"""Whether gpt2fast became slower: ratios of now beside those of benchmarks/baseline.json.

    python -m benchmarks.guard [--threads 1 2] [--engines int8 | avx2] [--rounds N] [--update]

The ratios are shares of the roof, and speeds over those of a peer, because they drift less than
speeds do; they belong to a CPU model, a target and a number of threads. Rounds are interleaved. A
ratio whose 95% bootstrap interval lies wholly below 0.9 of the baseline has fallen. Exit status: 0;
1 if one has fallen or gpt2fast failed; 2 if nothing could be judged. `--update` writes what was
measured into the baseline; `--smoke` does one round of the smallest model and judges nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.engines import Engine, Places, chosen
from benchmarks.peers.plan import Case, Plan
from benchmarks.peers.prepare import prepare
from benchmarks.peers.ratios import Ratio, resampled
from benchmarks.peers.results import Results
from benchmarks.peers.run import Comparison
from benchmarks.random_checkpoints import SIZES
from gpt2fast.bench.table import aligned
from gpt2fast.threads import available_cpus

BASELINE = Path(__file__).with_name("baseline.json")
LIMIT = 0.9  # of the baseline; what lies wholly below has fallen
_MEASURES = ("decode32", "prompt512")

Ratios = dict[str, float]
Baseline = dict[str, dict[str, dict[str, Ratios]]]  # by CPU model, target and threads


@dataclass(frozen=True)
class Judged:
    """A ratio of now and that of the baseline; None is what there is not."""

    name: str
    threads: int
    now: Ratio | None
    then: float | None

    @property
    def verdict(self) -> str:
        if self.now is None:
            return "not measured"
        if self.now.disturbed:
            return "disturbed: says nothing"
        if self.now.interval is None:
            return "one round: says nothing"
        if self.then is None:
            return "no baseline"
        return "FALLEN" if self.now.interval[1] < LIMIT * self.then else "ok"


def judged(record: dict[str, Any], baseline: Baseline) -> Iterator[Judged]:
    """Yield each ratio that a run of the peers' comparison has, or that the baseline has."""
    results, facts = Results(record, resampled), record["machine"]
    for size, threads, engines in results.cases():
        [ours] = [engine for engine in engines if engine["ours"]]
        target = ours["target"] or facts["target"]
        known = baseline.get(facts["cpu"], {}).get(target, {}).get(str(threads), {})
        found: dict[str, Ratio | None] = {}
        for measure in results.measures(size, threads, scaling=False):
            name = f"{size} {measure}"
            found[f"{name}, share of the roof"] = results.share(ours, size, threads, measure)
            for peer in engines:
                if not peer["ours"]:
                    ratio = results.ratio(ours["name"], peer["name"], size, threads, measure)
                    found[f"{name} over {peer['name']}"] = ratio
        same_size = [name for name in known if name.split()[0] == size]
        for name in dict.fromkeys([*found, *same_size]):
            yield Judged(name, threads, found.get(name), known.get(name))


def updated(record: dict[str, Any], baseline: Baseline) -> Baseline:
    """Return the baseline with the ratios of a run; those that say nothing leave it as it was."""
    cpu = record["machine"]["cpu"]
    [ours] = [engine for engine in record["engines"] if engine["ours"]]
    target = ours["target"] or record["machine"]["target"]
    new: Baseline = json.loads(json.dumps(baseline))
    for one in judged(record, baseline):
        if one.now and one.now.interval and not one.now.disturbed:
            by_threads = new.setdefault(cpu, {}).setdefault(target, {})
            by_threads.setdefault(str(one.threads), {})[one.name] = round(one.now.value, 4)
    return new


def status(rows: list[Judged], failures: list[str]) -> int:
    """Return the exit status."""
    verdicts = [row.verdict for row in rows]
    if failures or "FALLEN" in verdicts:
        return 1
    return 0 if "ok" in verdicts else 2


def table(rows: list[Judged]) -> Iterator[str]:
    """Yield a line per ratio."""
    cells = [("threads", "ratio", "now", "95% interval", "baseline", "")]
    for row in rows:
        now = interval = "-"
        if row.now:
            now = f"{row.now.value:.3f}"
            if row.now.interval:
                interval = "{:.3f} to {:.3f}".format(*row.now.interval)
        then = "-" if row.then is None else f"{row.then:.3f}"
        cells.append((str(row.threads), row.name, now, interval, then, row.verdict))
    yield from aligned(cells)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    cpus = available_cpus()
    add("--threads", type=int, nargs="+", metavar="N", help="default: 1 and 2")
    add("--engines", choices=("int8", "avx2"), default="int8", help="default: %(default)s")
    add("--peers", nargs="*", metavar="ENGINE", help="default: the baseline's, or the first one")
    add("--size", choices=SIZES, default="gpt2", help="default: %(default)s")
    add("--rounds", type=int, default=7, help="default: %(default)s")
    add("--cache", type=Path, default=Places.default(), help="of the peers; default: %(default)s")
    add("--baseline", type=Path, default=BASELINE, help="default: benchmarks/baseline.json")
    add("--update", action="store_true", help="write the baseline instead of judging")
    add("--smoke", action="store_true", help="one round of distilgpt2; judges nothing")
    options = parser.parse_args(arguments)
    options.threads = list(dict.fromkeys(options.threads or range(1, min(2, cpus) + 1)))
    for n in options.threads:
        if not 1 <= n <= cpus:
            parser.error(f"--threads {n}: 1 to {cpus} are allowed, the CPUs there are")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: 1 or more is allowed")
    if options.smoke:
        options.size, options.rounds = "distilgpt2", 1
    return options


def _read(path: Path) -> Baseline:
    """Return a baseline, empty if there is no file; ends the program for any other file."""
    if not path.exists():
        return {}
    try:
        found: Baseline = json.loads(path.read_text())
        ratios = (r for cpu in found.values() for target in cpu.values() for r in target.values())
        sound = all(0 < value < 1e6 for one in ratios for value in one.values())
    except (ValueError, AttributeError, TypeError, OSError) as error:
        sys.exit(f"{path} is no baseline: {error}")
    return found if sound else sys.exit(f"{path} is no baseline: a ratio is not above 0")


def _engines(places: Places, options: argparse.Namespace, baseline: Baseline) -> list[Engine]:
    """Return ours, prepared, and the peers that were asked for, or that are there and known."""
    engines = chosen([options.engines])
    ours = [engine for engine in engines if engine.ours]
    if prepare(places, [options.size], ours):
        sys.exit("gpt2fast's model could not be made")
    peers = {engine.name: engine for engine in engines if not engine.ours}
    if options.peers is None:
        there = [
            peer
            for peer in peers.values()
            if places.python(peer.environment).exists()
            and places.model(peer, options.size).exists()
        ]
        known = [peer for peer in there if f" over {peer.name}" in json.dumps(baseline)]
        return ours + (known or there[:1])
    for name in options.peers:
        if name not in peers:
            sys.exit(f"--peers: {name!r} is not one of {', '.join(peers)}")
    return ours + [peers[name] for name in options.peers]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the ratios, and return the exit status."""
    options = _options(arguments)
    baseline = _read(options.baseline)
    places = Places(options.cache)
    engines = _engines(places, options, baseline)
    cases = [Case(options.size, n, _MEASURES) for n in options.threads]
    plan = Plan(cases, engines, options.rounds, places, options.baseline.parent, None)
    comparison = Comparison(plan)
    print(f"about {comparison.minutes():.0f} minutes on free CPUs", file=sys.stderr)
    comparison.run()
    record = comparison.record
    rows = list(judged(record, baseline))
    print("\n".join(table(rows)))
    ours = {engine.name for engine in engines if engine.ours}
    failures = [str(f["reason"]) for f in record["failures"] if f["engine"] in ours]
    for failure in failures:
        print(f"gpt2fast failed: {failure}")
    if options.update and not failures:
        text = json.dumps(updated(record, baseline), indent=1, sort_keys=True)
        options.baseline.write_text(text + "\n")
        return 0
    return int(bool(failures)) if options.smoke else status(rows, failures)


if __name__ == "__main__":
    sys.exit(main())
