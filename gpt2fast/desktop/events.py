"""What the writer's thread tells the window. Each event carries the number of its job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpt2fast.desktop.offers import Offer
from gpt2fast.desktop.spans import Span


@dataclass(frozen=True)
class Event:
    """Something that a job did."""

    job: int


@dataclass(frozen=True)
class Loading(Event):
    """A model is being loaded: bytes done of the bytes of this stage."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Opened(Event):
    """A model is ready and has taken the place of the one before."""

    source: str
    name: str
    facts: str


@dataclass(frozen=True)
class Offered(Event):
    """The alternatives have grown, by n_tokens altogether."""

    offers: list[Offer]
    n_tokens: int


@dataclass(frozen=True)
class Wrote(Event):
    """Text that goes on with the draft."""

    text: str
    n_tokens: int


@dataclass(frozen=True)
class Scored(Event):
    """How probable the text from `start` on was."""

    start: int
    spans: list[Span]


@dataclass(frozen=True)
class Ended(Event):
    """The job is over, by itself or because it was stopped."""


@dataclass(frozen=True)
class Failed(Event):
    """The job is over with an error; what it was about, and why."""

    what: str
    why: str


Report = Callable[[Event], object]
