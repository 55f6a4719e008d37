"""95% intervals of medians by the bootstrap.

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: what was measured is
drawn again and again with replacement. The draws are the same in every call.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
Floats = NDArray[np.float64]


def medians(values: Sequence[float], generator: np.random.Generator) -> Floats:
    """Return the median of each of DRAWS draws with replacement."""
    picked = generator.integers(0, len(values), (len(values), DRAWS))
    found: Floats = np.median(np.array(values, np.float64)[picked], axis=0)
    return found


def interval(drawn: Floats) -> tuple[float, float]:
    """Return what 95% of the draws lie in."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def of_median(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of a median; None of a single value, which does not vary."""
    if len(values) < 2:
        return None
    return interval(medians(values, np.random.default_rng(0)))


def of_ratio(
    above: Sequence[float], below: Sequence[float]
) -> tuple[float, tuple[float, float] | None]:
    """Return the ratio of the medians of two runs, and its interval; None if one is single."""
    ratio = statistics.median(above) / statistics.median(below)
    if min(len(above), len(below)) < 2:
        return ratio, None
    generator = np.random.default_rng(0)
    return ratio, interval(medians(above, generator) / medians(below, generator))
