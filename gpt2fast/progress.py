"""Telling a caller how far a long operation is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Is called with the work done and the whole work, in bytes; a new whole is a new stage."""


def announce(progress: Progress | None, stage: str) -> None:
    """Name the stage that begins to a progress that can be told: one with a method `stage`."""
    tell = getattr(progress, "stage", None)
    if callable(tell):
        tell(stage)
