"""The command `gpt2fast score`: how likely a text is, as a table, an object or a page."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from gpt2fast.cli.terminal import (
    UsageError,
    add_model_options,
    load_model,
    progress_line,
    read_text,
)

if TYPE_CHECKING:
    from gpt2fast.scoring.score import Score


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=score)
    command.description = (
        "Say how likely the model finds each token of a text: its log-probability, its rank among "
        "all tokens (0 is the likeliest) and the entropy of the prediction, in nats."
    )
    command.add_argument("text", nargs="?", help="the text; - or none reads it from stdin")
    command.add_argument("--file", metavar="F", help="read the text from a file")
    command.add_argument("--context", metavar="TEXT", help="what stands before it, not scored")
    command.add_argument(
        "--bos",
        action="store_true",
        help="put <|endoftext|> before everything, so that the first token is scored too",
    )
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON object")
    shown.add_argument(
        "--html", action="store_true", help="print a page with the text coloured by rank"
    )
    shown.add_argument(
        "--perplexity",
        action="store_true",
        help="print the perplexity only, of a text of any length",
    )
    command.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="with --perplexity: from window to window; default: 512",
    )
    add_model_options(command)


def score(arguments: argparse.Namespace) -> int:
    """Print the score of the text; return the exit status."""
    if arguments.stride is not None and not arguments.perplexity:
        raise UsageError("--stride goes with --perplexity")
    if arguments.perplexity and (arguments.context is not None or arguments.bos):
        raise UsageError("--perplexity takes neither --context nor --bos")
    # A corpus is read as it is.
    text = read_text("text", arguments.text, arguments.file, whole=arguments.perplexity)
    with load_model(arguments) as model:
        if arguments.perplexity:
            shown = progress_line("reading")
            print(model.perplexity(text, stride=arguments.stride, progress=shown))
            return 0
        found = model.score(text, context=arguments.context or "", bos=arguments.bos)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8" if arguments.html else None, errors="replace")
        if arguments.html:
            from gpt2fast.scoring.html import page

            print(page(found, str(arguments.model)), end="")
        elif arguments.json:
            print(json.dumps(content(found)))
        else:
            _print_table(found)
    return 0


def _print_table(found: Score) -> None:
    """Print a line for each token, then the perplexity."""
    print(f"{'logprob':>9} {'rank':>6} {'entropy':>8}  token")
    pieces = found.pieces or [""] * len(found.tokens)
    for i, token in enumerate(found.tokens):
        numbers = f"{'-':>9} {'-':>6} {'-':>8}"
        if found.ranks[i] >= 0:
            numbers = f"{found.logprobs[i]:9.4f} {found.ranks[i]:6} {found.entropies[i]:8.4f}"
        print(f"{numbers}  {token} {json.dumps(pieces[i], ensure_ascii=False)}")
    print(f"perplexity {found.perplexity:.6g}")


def content(found: Score) -> dict[str, Any]:
    """Return a score as JSON has it: null where something is not known."""
    return {
        "tokens": found.tokens,
        "pieces": found.pieces,
        "logprobs": [_number(value) for value in found.logprobs.tolist()],
        "ranks": [rank if rank >= 0 else None for rank in found.ranks.tolist()],
        "entropies": [_number(value) for value in found.entropies.tolist()],
        "likeliest": [token if token >= 0 else None for token in found.likeliest.tolist()],
        "likeliest_pieces": found.likeliest_pieces,
        "logprob": found.logprob,
        "perplexity": _number(found.perplexity),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
