"""The options of generation: their defaults, their ranges, and the errors that name them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from gpt2fast._generate import CancelFlag

MAX_NEW_TOKENS = 128  # unless asked otherwise, and no more than the context has room for
TEMPERATURE_MIN, TEMPERATURE_MAX = 1e-6, 1e6


class GenerateOptions(TypedDict, total=False):
    """The options of `generate` and `stream` as keyword arguments; see `Options`."""

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    ignore_eot: bool
    deadline: float | None
    cancel: CancelFlag | None
    overflow: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say how a text is drawn and where it ends. Raises ValueError for a value out of range.

    Filters act in this order: temperature, top_k, top_p, min_p. Between equally likely tokens the
    lower id comes first; one token is always kept.

    - max_new_tokens: 1 or more; None is 128, or what the context has room for if that is less
    - temperature: 0 takes the likeliest token; else 1e-6 to 1e6, below 1 for likelier text
    - top_k: keep the k likeliest tokens; 0 keeps all
    - top_p: keep the likeliest tokens that together have this probability; above 0, 1 keeps all
    - min_p: keep what has at least this share of the likeliest's probability; 0 to 1, 0 keeps all
    - seed: 0 to 2**64 - 1; None draws a fresh one, which the completion tells
    - stop: one string or several that end the text; they are not part of it
    - stop_tokens: ids that end the text, besides <|endoftext|>
    - ignore_eot: do not end at <|endoftext|>
    - deadline: seconds, above 0, after which the text ends as it is
    - cancel: a `CancelFlag` by which any thread can end the text
    - overflow: what happens if the text could outgrow the context; "error": it is refused
    """

    max_new_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.9
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_tokens: Sequence[int] = ()
    ignore_eot: bool = False
    deadline: float | None = None
    cancel: CancelFlag | None = None
    overflow: str = "error"

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            self._set(
                "max_new_tokens", integer("max_new_tokens", self.max_new_tokens, 1, 2**31 - 1)
            )
        temperature = number("temperature", self.temperature)
        if temperature != 0 and not TEMPERATURE_MIN <= temperature <= TEMPERATURE_MAX:
            raise _out_of_range("temperature", self.temperature, "0, or 1e-06 to 1e+06")
        self._set("temperature", temperature)
        self._set("top_k", integer("top_k", self.top_k, 0, 2**31 - 1))
        self._set("top_p", number("top_p", self.top_p))
        if not 0 < self.top_p <= 1:
            raise _out_of_range("top_p", self.top_p, "above 0 and at most 1")
        self._set("min_p", number("min_p", self.min_p))
        if not 0 <= self.min_p <= 1:
            raise _out_of_range("min_p", self.min_p, "0 to 1")
        if self.seed is not None:
            self._set("seed", integer("seed", self.seed, 0, 2**64 - 1))
        self._set("stop", _strings("stop", self.stop))
        self._set("stop_tokens", _ids("stop_tokens", self.stop_tokens))
        if not isinstance(self.ignore_eot, bool):
            raise _out_of_range("ignore_eot", self.ignore_eot, "True or False")
        if self.deadline is not None:
            self._set("deadline", number("deadline", self.deadline))
            if not self.deadline > 0:
                raise _out_of_range("deadline", self.deadline, "seconds above 0, or None")
        if self.cancel is not None and not isinstance(self.cancel, CancelFlag):
            raise _out_of_range("cancel", self.cancel, "a gpt2fast.CancelFlag, or None")
        if self.overflow != "error":
            raise _out_of_range("overflow", self.overflow, "'error'")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _out_of_range(name: str, value: object, allowed: str) -> ValueError:
    got = repr(value)
    return ValueError(
        f"{name} is {got if len(got) <= 60 else got[:57] + '...'}; allowed: {allowed}"
    )


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return the value as an int; raise ValueError unless it is an integer from low to high."""
    allowed = f"an integer from {low} to {high}"
    if isinstance(value, bool):
        raise _out_of_range(name, value, allowed)
    try:
        result = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _out_of_range(name, value, allowed) from None
    if not low <= result <= high:
        raise _out_of_range(name, value, allowed)
    return result


def number(name: str, value: object) -> float:
    """Return the value as a float; raise ValueError unless it is a finite number."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise _out_of_range(name, value, "a finite number")
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise _out_of_range(name, value, "a finite number")
    return result


def _strings(name: str, value: object) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    allowed = "a string, or strings, none empty"
    if not isinstance(strings, Sequence) or isinstance(strings, (bytes, bytearray)):
        raise _out_of_range(name, value, allowed)
    if not all(isinstance(string, str) and string for string in strings):
        raise _out_of_range(name, value, allowed)
    return tuple(strings)


def _ids(name: str, value: object) -> tuple[int, ...]:
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__iter__"):
        raise _out_of_range(name, value, "token ids")
    return tuple(integer(name, token, 0, 2**31 - 1) for token in value)
