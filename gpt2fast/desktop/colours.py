"""The colours of probability: nothing where the model expected the word, warmer the less it did.

One ramp of lightness and warmth, so that it is read without telling red from green.
"""

from __future__ import annotations

from typing import NamedTuple


class Level(NamedTuple):
    """Words of at least this probability, their name, and what lies under them."""

    probability: float
    name: str
    light: str | None
    dark: str | None

    def colour(self, dark: bool) -> str | None:
        """Return the background, as #rrggbb, for a light or a dark page."""
        return self.dark if dark else self.light


LEVELS = (
    Level(0.2, "expected", None, None),
    Level(0.02, "plausible", "#fdf2c8", "#45401f"),
    Level(0.002, "unusual", "#fbd38d", "#74501a"),
    Level(0.0, "surprising", "#f4a08f", "#a8473c"),
)


def level(probability: float) -> Level:
    """Return the level of a probability."""
    return next(found for found in LEVELS if probability >= found.probability)
