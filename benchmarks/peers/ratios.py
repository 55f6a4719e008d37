"""From samples to medians, and to ratios with intervals."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2fast.bench.bootstrap import DRAWS, interval, medians

Rounds = dict[int, list[float]]  # the rates of every round


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
    interval: tuple[float, float] | None
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


def ratio(our_cell: Cell, their_cell: Cell) -> Ratio | None:
    """Return the median of the rounds' ratios; None if they have no round in common.

    The interval is a bootstrap's: rounds are drawn with replacement, and within a drawn round its
    samples, ours and theirs.
    """
    ours, theirs = our_cell.rounds, their_cell.rounds
    disturbed = our_cell.disturbed or their_cell.disturbed
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    paired = [statistics.median(ours[r]) / statistics.median(theirs[r]) for r in common]
    value = statistics.median(paired)
    if len(common) == 1:
        return Ratio(value, None, disturbed)
    generator = np.random.default_rng(0)
    quotients = np.stack(  # (rounds, draws): each round drawn again and again
        [medians(ours[r], generator) / medians(theirs[r], generator) for r in common]
    )
    picked = generator.integers(0, len(common), (len(common), DRAWS))
    drawn = np.median(np.take_along_axis(quotients, picked, 0), axis=0)
    return Ratio(value, interval(drawn), disturbed)
