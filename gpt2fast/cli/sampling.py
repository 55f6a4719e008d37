"""The options of generation on the command line: how they are written, and what they become."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gpt2fast.cli.terminal import UsageError

# Name on the command line, type, metavar, help; what is None is left to `Options`.
_Row = tuple[str, Callable[[str], Any], str, str]
_DRAW: tuple[_Row, ...] = (
    ("--preset", str, "NAME", "deterministic, balanced, story or code; other options go before it"),
    ("--temperature", float, "T", "0 is greedy; default: 0.8"),
    ("--top-k", int, "K", "keep the K likeliest tokens"),
    ("--typical-p", float, "P", "keep this share of probability, nearest to the expected surprise"),
    ("--top-p", float, "P", "keep this share of probability; default: 0.9"),
    ("--min-p", float, "P", "keep what has this share of the likeliest's"),
    ("--mirostat-tau", float, "BITS", "hold the surprise near this, instead of the last four"),
    ("--mirostat-eta", float, "RATE", "how fast mirostat corrects; default: 0.1"),
    ("--seed", int, "S", "default: a fresh one"),
)
_SEARCH: tuple[_Row, ...] = (
    ("--num-beams", int, "N", "look for the likeliest text with this many beams"),
    ("--length-penalty", float, "X", "of beams, above 1 for longer texts; default: 1"),
    ("--penalty-alpha", float, "A", "contrastive search among the --top-k; 0.6 is usual"),
)
_RULES: tuple[_Row, ...] = (
    ("--repetition-penalty", float, "X", "divide the logits of tokens of the text by this"),
    ("--presence-penalty", float, "X", "subtract from the logits of tokens of the text"),
    ("--frequency-penalty", float, "X", "the same for each occurrence"),
    ("--penalty-window", int, "N", "look at this many of the last tokens; default: all"),
    ("--no-repeat-ngram", int, "N", "no N tokens stand twice"),
    ("--dry-multiplier", float, "X", "penalise what prolongs a repetition"),
    ("--dry-base", float, "X", "how the penalty grows with its length; default: 1.75"),
    ("--dry-allowed-length", int, "N", "what length is penalised first; default: 2"),
)
_ENDS: tuple[_Row, ...] = (
    ("--max-new-tokens", int, "N", "default: 128"),
    ("--min-new-tokens", int, "N", "do not end before"),
    ("--overflow", str, "HOW", "past the context: error, truncate or stride; default: error"),
    ("--stride", int, "N", "drop so many tokens when the context is full; default: half of it"),
    ("--deadline", float, "SECONDS", "end the text as it is after this time"),
)


def _ids(text: str) -> list[int]:
    """Return the token ids of "1,2,3"."""
    return [int(token) for token in text.split(",")]


def _bias(text: str) -> tuple[int, float]:
    """Return id and amount of "5=-1.5"."""
    token, amount = text.split("=")
    return int(token), float(amount)


_ids.__name__, _bias.__name__ = "token ids", "ID=AMOUNT"  # as argparse names what it refuses


def add_sampling_options(command: argparse.ArgumentParser, *, searches: bool = True) -> None:
    """Add the options of generation to a command; without searches, if it shows words at once."""
    draw = command.add_argument_group("how tokens are drawn")
    _add(draw, _DRAW)
    if searches:
        what = "what texts are looked for, instead; printed at the end"
        _add(command.add_argument_group(what), _SEARCH)
    rules = command.add_argument_group("what tokens are preferred")
    _add(rules, _RULES)
    rules.add_argument(
        "--dry-breaker",
        dest="dry_breakers",
        action="append",
        metavar="TEXT",
        help='no repetition spans a token with this; may be repeated; default: newline : " *',
    )
    rules.add_argument(
        "--logit-bias",
        action="append",
        type=_bias,
        metavar="ID=X",
        help="add to the logit of a token, -inf rules it out; may be repeated",
    )
    rules.add_argument(
        "--bad-tokens",
        action="append",
        type=_ids,
        metavar="ID,..",
        help="never draw this token, or complete this sequence; may be repeated",
    )
    rules.add_argument(
        "--forced-tokens", type=_ids, metavar="ID,..", help="begin the new text with these"
    )
    ends = command.add_argument_group("where the text ends")
    _add(ends, _ENDS)
    ends.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be repeated"
    )
    ends.add_argument("--stop-tokens", type=_ids, metavar="ID,..", help="end at these tokens")
    ends.add_argument(
        "--ignore-eot", action="store_true", help="do not end at <|endoftext|>", default=None
    )


def _add(group: argparse._ArgumentGroup, rows: tuple[_Row, ...]) -> None:
    for name, kind, metavar, text in rows:
        group.add_argument(name, type=kind, metavar=metavar, help=text)


_NAMES = [row[0][2:].replace("-", "_") for row in (*_DRAW, *_SEARCH, *_RULES, *_ENDS)]
_NAMES += ["dry_breakers", "bad_tokens", "forced_tokens", "stop", "stop_tokens", "ignore_eot"]

# Of texts that are shown as they are written.
STREAM_NAMES = {*_NAMES, "logit_bias"} - {row[0][2:].replace("-", "_") for row in _SEARCH}


def sampling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `generate` that were given."""
    given = {name: getattr(arguments, name, None) for name in _NAMES}
    options = {name: value for name, value in given.items() if value is not None}
    if arguments.logit_bias is not None:
        options["logit_bias"] = dict(arguments.logit_bias)
        if len(options["logit_bias"]) < len(arguments.logit_bias):
            raise UsageError("--logit-bias names a token twice")
    return options
