"""The sampler against NumPy, and its random numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast import _core, _generate

Row = NDArray[np.float32]
FILTERS: dict[str, dict[str, Any]] = {
    "temperature": {},
    "top_k": {"top_k": (1, 2, 5, 50, 300)},
    "top_p": {"top_p": (1e-9, 0.1, 0.5, 0.9, 0.999)},
    "min_p": {"min_p": (1e-6, 0.01, 0.2, 1.0)},
    "typical_p": {"typical_p": (1e-9, 0.1, 0.5, 0.9, 0.999)},
    "mirostat": {"mirostat_tau": (1e-9, 0.1, 1.0, 3.0, 20.0, 100.0)},
    "all": {
        "top_k": (3, 40, 300),
        "typical_p": (0.2, 0.9, 1.0),
        "top_p": (0.3, 0.95),
        "min_p": (0.001, 0.1),
    },
}


def exact(
    row: Row,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    mirostat_tau: float = 0.0,
) -> dict[int, int]:
    """The kept tokens and their masses, as sampling is specified, by sorting."""
    if temperature == 0:
        return {int(np.argmax(row)): 2**30}
    scale = np.float32(1 / temperature)
    weights, _ = _core.exp_sum(row, float(row.max()), float(scale))
    masses = np.floor(np.asarray(weights, np.float64) * 2**30).astype(np.int64)
    ranking = np.lexsort((np.arange(row.size), -np.asarray(weights)))
    ranking = ranking[masses[ranking] > 0]
    if mirostat_tau:
        power = _core.exp(np.array([-2 * mirostat_tau * np.log(2)], np.float32))[0]
        least = int(np.ceil(float(power) * float(masses.sum())))
        ranking = ranking[masses[ranking] >= min(max(least, 1), 2**30)]
    if top_k:
        ranking = ranking[:top_k]
    if typical_p < 1:
        few = 0 < top_k < row.size // 32  # then the loop has these alone before it
        ids = np.sort(ranking) if few else np.arange(row.size)
        kept = ids[typical(np.where(np.isin(ids, ranking), masses[ids], 0), typical_p)]
        ranking = ranking[np.isin(ranking, kept)]
    if top_p < 1:
        ranking = ranking[beginning(masses[ranking], top_p)]
    least = int(np.ceil(min_p * float(masses[ranking].max())))
    ranking = ranking[masses[ranking] >= max(1, least)]
    return {int(token): int(masses[token]) for token in ranking}


def beginning(masses: NDArray[np.int64], part: float) -> slice:
    """The shortest beginning that holds this share of the masses."""
    sums = np.cumsum(masses)
    target = max(1, int(np.ceil(part * float(sums[-1]))))
    return slice(int(np.searchsorted(sums, target)) + 1)


def typical(masses: NDArray[np.int64], part: float) -> NDArray[np.int64]:
    """Positions of what typical_p keeps, in float32 as the loop computes it."""
    logs = np.asarray(_core.log(np.maximum(masses, 1).astype(np.float32)))
    mean = _core.sum(masses.astype(np.float32) / np.float32(masses.sum()) * logs)
    order = np.lexsort((np.arange(masses.size), np.abs(logs - np.float32(mean))))
    order = order[masses[order] > 0]
    return order[beginning(masses[order], part)]


def random_row(rng: np.random.Generator) -> Row:
    """Logits of any width, spread and number; some with ties, some with tokens ruled out."""
    n = int(rng.integers(1, 700))
    row = (rng.normal(rng.normal(0, 30), rng.choice([0.001, 0.3, 3, 30]), n)).astype(np.float32)
    if rng.random() < 0.3:
        row = np.round(row)
    if rng.random() < 0.3:
        row[rng.random(n) < rng.random()] = -np.inf
        row[rng.integers(n)] = rng.normal()
    return row


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_what_sorting_keeps(name: str) -> None:
    """Catches a wrong token kept or dropped, or a wrong mass, in 1,000 rows per filter."""
    rng = np.random.default_rng(7)
    for _ in range(1000):
        row = random_row(rng)
        options: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
        options |= {option: rng.choice(values).item() for option, values in FILTERS[name].items()}
        options["temperature"] = float(rng.choice([0.01, 0.7, 1.0, 5.0, 100.0]))
        expected = exact(row, **options)
        assert _generate.filtered(row, **options) == expected
        assert expected


@pytest.mark.parametrize("top_k", [0, 40, 25_000])
def test_filters_on_a_whole_vocabulary(top_k: int) -> None:
    """Catches errors that need a row of GPT-2's size: buckets, blocks, both ways to apply top_k."""
    rng = np.random.default_rng(1)
    n = 50_257
    rows = [rng.normal(-35, 2.5, n), rng.uniform(1, 2, n), np.zeros(n), np.linspace(-10, 10, n)]
    rows.append(np.where(np.arange(n) == 77, 30, rng.normal(0, 2, n)))
    rows.append(rng.normal(0, 1e30, n))
    others: tuple[dict[str, float], ...]
    others = ({}, {"top_p": 0.9}, {"min_p": 0.05}, {"typical_p": 0.9, "top_p": 0.9, "min_p": 0.05})
    for row, temperature, other in itertools.product(rows, (0.8, 100), others):
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, **other}
        logits = row.astype(np.float32)
        assert _generate.filtered(logits, **options) == exact(logits, **options)


def test_masses_are_the_softmax() -> None:
    """Catches an oracle that shares the sampler's error: compares with a float64 softmax."""
    row = np.random.default_rng(3).normal(0, 3, 5000).astype(np.float32)
    for temperature in (0.5, 1.0, 2.0):
        expected = np.exp((row.astype(np.float64) - row.max()) / temperature)
        kept = _generate.filtered(row, temperature=temperature)
        masses = np.array([kept.get(token, 0) for token in range(row.size)]) / 2**30
        assert np.all(np.abs(masses - expected) <= 2.0**-30 + 1e-5 * expected)


def test_greedy_takes_the_highest_and_lowest_id() -> None:
    """Catches a tie that goes to another id than the lowest, and -0.0 taken for less than 0.0."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        row = random_row(rng)
        assert _generate.filtered(row, temperature=0) == {int(np.argmax(row)): 2**30}
    zeros = np.array([-1, -0.0, 0.0, -0.0], np.float32)
    assert _generate.sample(zeros, 2**64 - 1, temperature=0) == 1


def test_ties_go_to_the_lower_id() -> None:
    """Catches filters that choose among equal logits by chance."""
    row = np.zeros(10, np.float32)
    assert list(_generate.filtered(row, top_k=3)) == [0, 1, 2]
    assert list(_generate.filtered(row, top_p=0.45)) == [0, 1, 2, 3, 4]
    assert len(_generate.filtered(row, min_p=1.0)) == 10


def test_one_token_is_always_kept() -> None:
    """Catches filters that together leave nothing to draw."""
    row = np.array([0, 3, 1, 2.9], np.float32)
    for options in ({"top_p": 1e-30}, {"min_p": 1.0}, {"top_k": 1}):
        assert list(_generate.filtered(row, **options)) == [1]
    assert list(_generate.filtered(row, temperature=1e-6, top_k=1, top_p=1e-9, min_p=1)) == [1]


def test_ruled_out_tokens_are_never_drawn() -> None:
    """Catches minus infinity taken for a small probability."""
    row = np.full(100, -np.inf, np.float32)
    row[[17, 60]] = [1.0, -5.0]
    for options in ({}, {"top_k": 50}, {"top_p": 0.9999}, {"top_k": 2, "temperature": 1e6}):
        assert set(_generate.filtered(row, **options)) <= {17, 60}
    assert _generate.sample(row, 0) == 17
    assert _generate.sample(row, 2**64 - 1) == 60


@pytest.mark.parametrize("options", [{"temperature": 0}, {}, {"top_k": 2}, {"top_p": 0.5}])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_rows_that_are_not_finite_raise(bad: float, options: dict[str, Any]) -> None:
    """Catches NaN or infinity drawn from as if nothing had happened, at every place of a row."""
    for n, at in ((1, 0), (20, 0), (20, 13), (67, 66)):
        row = np.ones(n, np.float32)
        row[at] = bad
        with pytest.raises(FloatingPointError):
            _generate.sample(row, 0, **options)
    with pytest.raises(FloatingPointError):
        _generate.sample(np.full(5, -np.inf, np.float32), 0, **options)


def test_draw_splits_the_interval_by_probability() -> None:
    """Catches a draw whose bounds are off by one at either end."""
    row = np.array([-np.inf, 0, -np.inf, 0, -np.inf], np.float32)
    for random, token in ((0, 1), (2**63 - 1, 1), (2**63, 3), (2**64 - 1, 3)):
        assert _generate.sample(row, random) == token
    wide = np.zeros(1000, np.float32)
    for token in (0, 63, 64, 500, 999):
        assert _generate.sample(wide, -(-token * 2**64 // 1000)) == token
        assert _generate.sample(wide, ((token + 1) * 2**64 - 1) // 1000) == token


def test_draws_follow_the_distribution() -> None:
    """Catches a biased draw: chi-square of 100,000 draws at 1 in 10,000."""
    row = np.random.default_rng(11).normal(0, 1.5, 40).astype(np.float32)
    workspace = _generate.Workspace(row.size)
    counts = np.zeros(row.size)
    for position in range(100_000):
        random = _generate.random(1234, 0, position)
        counts[_generate.sample(row, random, workspace, temperature=0.9, top_p=0.97)] += 1
    kept = _generate.filtered(row, temperature=0.9, top_p=0.97)
    expected = np.array([kept.get(token, 0) for token in range(row.size)], np.float64)
    expected *= 100_000 / expected.sum()
    assert counts[expected == 0].sum() == 0
    chosen = expected > 0
    chi_square = float(((counts - expected)[chosen] ** 2 / expected[chosen]).sum())
    degrees = int(chosen.sum()) - 1
    # Wilson and Hilferty: the quantile of chi-square at 3.719 standard deviations, 1 in 10,000.
    bound = degrees * (1 - 2 / (9 * degrees) + 3.719 * np.sqrt(2 / (9 * degrees))) ** 3
    assert chi_square < bound


def test_sampler_is_the_same_on_every_target(target: str) -> None:
    """Catches a target whose exponentials or maxima differ in a bit."""
    row = np.random.default_rng(2).normal(-30, 3, 50_257).astype(np.float32)
    every = ({"top_p": 0.95}, {"typical_p": 0.9}, {"mirostat_tau": 3.0})
    active = [_generate.filtered(row, temperature=0.8, **options) for options in every]
    _core.force_target("scalar")
    assert active == [_generate.filtered(row, temperature=0.8, **options) for options in every]
    _core.force_target(target)


def test_sampler_does_not_see_where_the_row_lies() -> None:
    """Catches a result that depends on alignment or on what a work space held before."""
    rng = np.random.default_rng(4)
    workspace = _generate.Workspace(2000)
    for _ in range(100):
        row = random_row(rng)
        drawn = _generate.sample(row, 2**63, top_k=20, top_p=0.9)
        shifted = np.empty(row.size + 1, np.float32)[1:]
        shifted[:] = row
        assert _generate.sample(shifted, 2**63, workspace, top_k=20, top_p=0.9) == drawn


def test_philox_is_philox() -> None:
    """Catches a generator that is not Philox4x32-10: the vectors of its authors (Random123)."""
    ones = 0xFFFFFFFF
    vectors = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in vectors:
        assert _generate.philox4x32(counter, key) == expected


def test_random_bits_are_keyed_by_seed_sample_and_position() -> None:
    """Catches a change of the key, which would change every seeded text."""
    assert _generate.random(0, 0, 0) == 0xE169C58D6627E8D5
    seed = 0x299F31D0A4093822
    words = _generate.philox4x32((7, 3, 0, 0), (0xA4093822, 0x299F31D0))
    assert _generate.random(seed, 3, 7) == words[0] | words[1] << 32
    drawn = {_generate.random(*key) for key in itertools.product(range(9), range(9), range(9))}
    assert len(drawn) == 9**3
