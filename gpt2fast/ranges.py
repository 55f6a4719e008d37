"""Checks of option values: what they may be, and the errors that name them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from gpt2fast._generate import CancelFlag

MAX_INT = 2**31 - 1


def out_of_range(name: str, value: object, allowed: str) -> ValueError:
    """Return the error that says what an option got and what is allowed."""
    got = repr(value)
    return ValueError(
        f"{name} is {got if len(got) <= 60 else got[:57] + '...'}; allowed: {allowed}"
    )


def integer(name: str, value: object, low: int, high: int) -> int:
    """Return the value as an int; raise ValueError unless it is an integer from low to high."""
    allowed = f"an integer from {low} to {high}"
    if isinstance(value, bool):
        raise out_of_range(name, value, allowed)
    try:
        result = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise out_of_range(name, value, allowed) from None
    if not low <= result <= high:
        raise out_of_range(name, value, allowed)
    return result


def number(name: str, value: object) -> float:
    """Return the value as a float; raise ValueError unless it is a finite number."""
    result = _float(value)
    if not math.isfinite(result):
        raise out_of_range(name, value, "a finite number")
    return result


def between(name: str, value: object, low: float, high: float) -> float:
    """Return the value as a float; raise ValueError unless it is a number from low to high."""
    result = _float(value)
    if not low <= result <= high:
        raise out_of_range(name, value, f"a number from {low:g} to {high:g}")
    return result


def share(name: str, value: object) -> float:
    """Return the value as a float; raise ValueError unless it is above 0 and at most 1."""
    result = _float(value)
    if not 0 < result <= 1:
        raise out_of_range(name, value, "above 0 and at most 1")
    return result


def _float(value: object) -> float:
    """Return the value as a float, NaN if it is no number."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def flag(name: str, value: object) -> bool:
    """Return the value; raise ValueError unless it is True or False."""
    if not isinstance(value, bool):
        raise out_of_range(name, value, "True or False")
    return value


def cancel_flag(name: str, value: object) -> None:
    """Raise ValueError unless the value is a CancelFlag or None."""
    if value is not None and not isinstance(value, CancelFlag):
        raise out_of_range(name, value, "a gpt2fast.CancelFlag, or None")


def strings(name: str, value: object) -> tuple[str, ...]:
    """Return one string or several as a tuple; raise ValueError if one is empty or none."""
    found = (value,) if isinstance(value, str) else value
    allowed = "a string, or strings, none empty"
    if not isinstance(found, Sequence) or isinstance(found, (bytes, bytearray)):
        raise out_of_range(name, value, allowed)
    if not all(isinstance(string, str) and string for string in found):
        raise out_of_range(name, value, allowed)
    return tuple(found)


def ids(name: str, value: object) -> tuple[int, ...]:
    """Return token ids as a tuple; raise ValueError for anything else."""
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__iter__"):
        raise out_of_range(name, value, "token ids")
    return tuple(integer(name, token, 0, MAX_INT) for token in value)


def id_sequences(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    """Return ids, each of which may be a sequence of ids, as sequences; raise ValueError else."""
    allowed = "token ids, or sequences of token ids, none empty"
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__iter__"):
        raise out_of_range(name, value, allowed)
    found = []
    for item in value:
        several = hasattr(item, "__iter__")
        found.append(ids(name, item) if several else (integer(name, item, 0, MAX_INT),))
    if not all(found):
        raise out_of_range(name, value, allowed)
    return tuple(found)


def strings_or_ids(name: str, value: object) -> tuple[str | int, ...]:
    """Return strings and ids, or one string, as a tuple; raise ValueError if one is empty."""
    found = (value,) if isinstance(value, str) else value
    if not hasattr(found, "__iter__") or isinstance(found, (bytes, bytearray)):
        raise out_of_range(name, value, "strings, none empty, or token ids")
    return tuple(
        strings(name, item)[0] if isinstance(item, str) else integer(name, item, 0, MAX_INT)
        for item in found
    )


def biases(name: str, value: object) -> dict[int, float]:
    """Return {token: bias}; raise ValueError unless each is -infinity or from -1000 to 1000."""
    if not hasattr(value, "items"):
        raise out_of_range(name, value, "{token id: bias}")
    found = {}
    for token, bias in value.items():
        amount = _float(bias)
        if not (amount == -math.inf or -1000 <= amount <= 1000):
            raise out_of_range(f"{name}[{token!r}]", bias, "-1000 to 1000, or -inf")
        found[integer(name, token, 0, MAX_INT)] = amount
    return found
