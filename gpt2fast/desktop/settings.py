"""How the model is to write: the few options that the window shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2fast.presets import PRESETS
from gpt2fast.ranges import integer, out_of_range

ALTERNATIVES = 3
LENGTH_MAX = 200  # tokens of one alternative
TEMPERATURE_MAX = 2.0  # beyond, there are no words left


def preset_temperature(preset: str) -> float:
    """Return the temperature that a preset comes with."""
    return float(PRESETS[preset]["temperature"])


@dataclass(frozen=True)
class Settings:
    """A preset of gpt2fast, the temperature in its place, and the tokens of an alternative.

    temperature: 0 (greedy) to 2; length: 1 to 200. Raises ValueError for anything else.
    """

    preset: str = "balanced"
    temperature: float = 0.8
    length: int = 24

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise out_of_range("preset", self.preset, ", ".join(PRESETS))
        integer("length", self.length, 1, LENGTH_MAX)
        if not 0 <= self.temperature <= TEMPERATURE_MAX:
            raise out_of_range("temperature", self.temperature, f"0 to {TEMPERATURE_MAX}")

    def room(self, n_ctx: int) -> int:
        """Return the new tokens of one request: at most half of the context."""
        return max(1, min(self.length, n_ctx // 2))

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `generate`, less the number of tokens."""
        temperature = 0.0 if self.temperature < 0.01 else self.temperature
        return {"preset": self.preset, "temperature": temperature}
