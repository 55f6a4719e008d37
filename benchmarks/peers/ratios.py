"""From samples to medians, and to ratios with intervals.

Two kinds of interval, because few rounds need another one than many: `student` holds with two
rounds and widens with what the machine drifted between them; `resampled` is a bootstrap, which
assumes nothing of how rounds vary, but of three or four rounds has seen too little and is too
narrow (of 174 ratios in two runs of three rounds, 18 were apart by it, none by `student`).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2fast.bench import bootstrap

Rounds = dict[int, list[float]]  # the rates of every round
Pair = tuple[list[float], list[float]]  # the rates of ours and of theirs in one round
Bounds = tuple[float, float]
Interval = Callable[[Sequence[Pair]], Bounds]

# Student's t at 97.5%, by degrees of freedom from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Cell:
    """Median of the rounds' medians, the lowest and the highest of these, and the rounds.

    `disturbed` says that no sample was free of others, and these are of the disturbed ones.
    """

    median: float
    low: float
    high: float
    rounds: Rounds
    disturbed: bool


@dataclass(frozen=True)
class Ratio:
    """Ours over theirs, paired by round, and its 95% interval (None with one round).

    `disturbed` if one of the two is.
    """

    value: float
    interval: Bounds | None
    disturbed: bool


def cell(samples: Iterable[dict[str, Any]]) -> Cell | None:
    """Return what the samples of one engine and measure say; None if there are none."""
    samples = list(samples)
    clean = [sample for sample in samples if sample["clean"]]
    rounds: Rounds = defaultdict(list)
    for sample in clean or samples:
        rounds[sample["round"]].append(sample["rate"])
    if not rounds:
        return None
    medians = [statistics.median(rates) for rates in rounds.values()]
    return Cell(
        statistics.median(medians), min(medians), max(medians), dict(rounds), disturbed=not clean
    )


def student(pairs: Sequence[Pair]) -> Bounds:
    """Return Student's interval of the mean of the rounds' log ratios, as ratios.

    Logs, because a ratio varies by factors. It holds the median of up to six rounds always, of more
    unless they are far from symmetric.
    """
    logs = [math.log(quotient) for quotient in _quotients(pairs)]
    middle = statistics.fmean(logs)
    width = _t(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle - width), math.exp(middle + width)


def resampled(pairs: Sequence[Pair]) -> Bounds:
    """Return the bootstrap's interval of the median of the rounds' ratios.

    Rounds are drawn with replacement, and within a drawn round its samples, ours and theirs.
    """
    generator = np.random.default_rng(0)
    quotients = np.stack(  # (rounds, draws): each round drawn again and again
        [
            bootstrap.medians(ours, generator) / bootstrap.medians(theirs, generator)
            for ours, theirs in pairs
        ]
    )
    picked = generator.integers(0, len(pairs), (len(pairs), bootstrap.DRAWS))
    return bootstrap.interval(np.median(np.take_along_axis(quotients, picked, 0), axis=0))


def ratio(our_cell: Cell, their_cell: Cell, interval: Interval = student) -> Ratio | None:
    """Return the median of the rounds' ratios; None if they have no round in common."""
    common = sorted(our_cell.rounds.keys() & their_cell.rounds.keys())
    if not common:
        return None
    pairs = [(our_cell.rounds[r], their_cell.rounds[r]) for r in common]
    return Ratio(
        statistics.median(_quotients(pairs)),
        interval(pairs) if len(pairs) > 1 else None,
        our_cell.disturbed or their_cell.disturbed,
    )


def _quotients(pairs: Sequence[Pair]) -> list[float]:
    return [statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs]


def _t(freedom: int) -> float:
    """Return Student's t at 97.5%; past the table by its expansion around the normal's quantile.

    Abramowitz and Stegun, 26.7.5, two terms: right to 0.001 from 10 degrees of freedom on.
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
