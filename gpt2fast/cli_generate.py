"""The command `gpt2fast generate`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast.cli_sampling import sampling_options
from gpt2fast.cli_terminal import (
    INTERRUPTED,
    PROGRAM,
    UsageError,
    hub_options,
    megabytes,
    note,
    progress_line,
)
from gpt2fast.memory import peak_bytes
from gpt2fast.model import load
from gpt2fast.sampling import Options

if TYPE_CHECKING:
    from gpt2fast.stream import Stream


def generate(arguments: argparse.Namespace) -> int:
    """Write the continuation of the prompt to stdout; return the exit status."""
    options = sampling_options(arguments)
    if arguments.logprobs is not None:
        if not arguments.json:
            raise UsageError("--logprobs goes with --json")
        options["logprobs"] = arguments.logprobs
    Options(**options)  # a bad one is refused before the model is loaded
    prompt = _prompt(arguments)
    progress = None if arguments.quiet else progress_line(f"loading {arguments.model}")
    with load(
        arguments.model,
        dtype=arguments.dtype,
        threads=arguments.threads,
        progress=progress,
        **hub_options(arguments),
    ) as model:
        stream = model.stream(prompt, **options)
        out = sys.stdout
        if hasattr(out, "reconfigure"):
            out.reconfigure(errors="replace")
        if not arguments.json and (arguments.echo or (arguments.echo is None and out.isatty())):
            out.write(prompt)
            out.flush()
        status = 0
        try:
            for chunk in stream:
                if not arguments.json and chunk.text:
                    out.write(chunk.text)
                    out.flush()
        except KeyboardInterrupt:
            stream.close()
            status = INTERRUPTED
        _finish(stream, as_json=arguments.json)
        if not arguments.quiet:
            note(_summary(stream))
    return status


def _finish(stream: Stream, *, as_json: bool) -> None:
    """End the line of text, or print the object."""
    if not as_json:
        print(flush=True)
        return
    completion = stream.completion
    content = {
        "text": completion.text,
        "tokens": completion.tokens,
        "prompt_tokens": completion.prompt_tokens,
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "timings": asdict(completion.timings),
    }
    if completion.logprobs is not None:
        content["logprobs"] = completion.logprobs
    print(json.dumps(content), flush=True)


def _prompt(arguments: argparse.Namespace) -> str:
    """Return the prompt from the argument, a file or stdin, less one newline at its end."""
    if arguments.file is not None:
        if arguments.prompt is not None:
            raise UsageError("give a prompt or --file, not both")
        data, where = Path(arguments.file).read_bytes(), arguments.file
    elif arguments.prompt is None and sys.stdin.isatty():
        raise UsageError(f'no prompt: {PROGRAM} generate "Once upon a time", or - for stdin')
    elif arguments.prompt is None or arguments.prompt == "-":
        data, where = sys.stdin.buffer.read(), "stdin"
    else:
        return str(arguments.prompt)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8: byte {error.start}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _summary(stream: Stream) -> str:
    completion = stream.completion
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
