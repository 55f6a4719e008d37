"""Tokens per second, as they come."""

from __future__ import annotations

from collections import deque

SECONDS = 2.0  # what the figure looks back on


class Pace:
    """The rate of the last two seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()  # when, and how many there were then

    def add(self, n_tokens: int, now: float) -> None:
        """Count tokens that came at a time in seconds; the first ones only start the clock."""
        total = self._seen[-1][1] if self._seen else 0
        self._seen.append((now, total + n_tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] >= SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Tokens per second; 0 before anything can be said."""
        if len(self._seen) < 2:
            return 0.0
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - begin) if end > begin else 0.0

    @property
    def shown(self) -> str:
        """The rate for people; nothing before anything can be said."""
        rate = self.rate
        if rate <= 0:
            return ""
        return f"{rate:,.0f} tokens/s" if rate >= 10 else f"{rate:.1f} tokens/s"
