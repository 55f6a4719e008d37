"""The command `gpt2fast generate`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from gpt2fast.cli.sampling import add_sampling_options, sampling_options
from gpt2fast.cli.terminal import (
    INTERRUPTED,
    PROGRAM,
    UsageError,
    add_model_options,
    load_model,
    megabytes,
    note,
    read_text,
)

if TYPE_CHECKING:
    from gpt2fast.completion import Completion
    from gpt2fast.stream import Stream


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=generate)
    command.add_argument(
        "prompt", nargs="?", help="the text to continue; - or none reads it from stdin"
    )
    command.add_argument("--file", metavar="F", help="read the prompt from a file")
    add_model_options(command)
    add_sampling_options(command)
    command.add_argument(
        "--logprobs", type=int, metavar="K", help="with --json: of each token and K alternatives"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object at the end")
    command.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        help="print the prompt too; default: on a terminal",
    )
    command.add_argument("--quiet", action="store_true", help="no summary on stderr")


def generate(arguments: argparse.Namespace) -> int:
    """Write the continuation of the prompt to stdout; return the exit status."""
    from gpt2fast.sampling import Options

    options = sampling_options(arguments)
    if arguments.logprobs is not None:
        if not arguments.json:
            raise UsageError("--logprobs goes with --json")
        options["logprobs"] = arguments.logprobs
    chosen = Options(**options)  # a bad one is refused before the model is loaded
    prompt = read_text("prompt", arguments.prompt, arguments.file)
    with load_model(arguments, quiet=arguments.quiet) as model:
        if chosen.is_search:
            completion = model.generate(prompt, **options)
            if not arguments.json:
                _begin(arguments, prompt)
                sys.stdout.write(completion.text)
            status = 0
        else:
            completion, status = _stream(arguments, prompt, model.stream(prompt, **options))
        _finish(completion, as_json=arguments.json)
        if not arguments.quiet:
            note(_summary(completion))
    return status


def _begin(arguments: argparse.Namespace, prompt: str) -> None:
    """Print the prompt, if asked to; stdout then takes any text."""
    out = sys.stdout
    if hasattr(out, "reconfigure"):
        out.reconfigure(errors="replace")
    if arguments.echo or (arguments.echo is None and out.isatty()):
        out.write(prompt)
        out.flush()


def _stream(arguments: argparse.Namespace, prompt: str, stream: Stream) -> tuple[Completion, int]:
    """Print the text as it is written; return it and the exit status."""
    if not arguments.json:
        _begin(arguments, prompt)
    status = 0
    try:
        for chunk in stream:
            if not arguments.json and chunk.text:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        stream.close()
        status = INTERRUPTED
    return stream.completion, status


def _finish(completion: Completion, *, as_json: bool) -> None:
    """End the line of text, or print the object."""
    if not as_json:
        print(flush=True)
        return
    content = {
        "text": completion.text,
        "tokens": completion.tokens,
        "prompt_tokens": completion.prompt_tokens,
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "timings": asdict(completion.timings),
    }
    content |= {
        name: getattr(completion, name)
        for name in ("logprobs", "score")
        if getattr(completion, name) is not None
    }
    print(json.dumps(content), flush=True)


def _summary(completion: Completion) -> str:
    from gpt2fast.memory import peak_bytes

    timings = completion.timings
    n_prompt, n_new = len(completion.prompt_tokens), len(completion.tokens)
    parts = [
        f"prompt {n_prompt} tokens{_rate(n_prompt, timings.prompt_seconds)}",
        f"generated {n_new} tokens{_rate(n_new - 1, timings.decode_seconds)}",
        completion.finish_reason,
        f"seed {completion.seed}",
    ]
    peak = peak_bytes()
    if peak:
        parts.append(f"peak memory {megabytes(peak)}")
    return f"{PROGRAM}: " + ", ".join(parts)


def _rate(n: int, seconds: float) -> str:
    return f" at {n / seconds:,.0f}/s" if n > 0 and seconds > 0 else ""
