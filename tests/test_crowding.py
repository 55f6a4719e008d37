"""How many threads steps get while other processes take the processors."""

from __future__ import annotations

from gpt2fast._core import Crowding

STEP = 0.004


def steps(
    crowding: Crowding, asked: int, busy: int, n: int, time: float
) -> tuple[float, list[int]]:
    """Do n steps from a time on, of which those on more than `busy` threads wait for half of them.

    Returns the time after them and how many threads each had.
    """
    used = []
    for _ in range(n):
        threads = crowding.threads(asked, time)
        time += STEP
        crowding.note(asked, threads, STEP / 2 if threads > busy else 0.0, STEP, time)
        used.append(threads)
    return time, used


def test_nobody_else() -> None:
    """Catches threads that are taken away without need."""
    assert steps(Crowding(), 4, 4, 20, 100.0)[1] == [4] * 20


def test_one_delay_means_nothing() -> None:
    """Catches a thread lost to a single interruption, as any system has them."""
    crowding, time = Crowding(), 7.0
    for _ in range(10):
        crowding.note(2, 2, STEP, STEP, time)
        time, used = steps(crowding, 2, 2, 6, time)
        assert used == [2] * 6


def test_a_taken_processor() -> None:
    """Catches steps that keep waiting, or that ask for the thread again at every step."""
    time, used = steps(Crowding(), 2, 1, 1000, 0.0)
    assert used[:6] == [2, 2, 1, 1, 1, 1]
    assert used.count(2) < 30  # two at first, one after each of the ever longer pauses
    assert 1000 - used.count(2) == used.count(1)
    assert time > 3.9


def test_it_is_given_back() -> None:
    """Catches a thread that stays away after the others have gone."""
    crowding = Crowding()
    time, _ = steps(crowding, 2, 1, 500, 0.0)
    time, used = steps(crowding, 2, 2, 60, time)
    assert used[-8:] == [2] * 8
    assert steps(crowding, 2, 2, 100, time)[1] == [2] * 100


def test_several_taken_processors() -> None:
    """Catches a number that stops at one thread less, or falls below one."""
    assert min(steps(Crowding(), 8, 5, 400, 0.0)[1]) == 5
    assert min(steps(Crowding(), 3, 0, 400, 0.0)[1]) == 1


def test_one_thread_is_left_alone() -> None:
    """Catches a single thread that is taken for one that waits."""
    crowding = Crowding()
    for i in range(9):
        crowding.note(1, 1, STEP, STEP, i * STEP)
    assert crowding.threads(1, 9 * STEP) == 1
    assert crowding.threads(2, 9 * STEP) == 2
