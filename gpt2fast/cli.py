"""The command line: `gpt2fast generate | chat | write | score | info | bench | convert | ...`.

Results go to stdout, everything else to stderr. Exit status: 0; 1 if something failed; 2 for bad
usage or a bad option; 130 after Ctrl-C, with what was written so far; 141 if the reader went away.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from gpt2fast.cli_terminal import (
    INTERRUPTED,
    PROGRAM,
    READER_GONE,
    UsageError,
    add_hub_options,
    discard,
    hub_options,
    megabytes,
    note,
    progress_line,
)


class _Parser(argparse.ArgumentParser):
    """Reports a bad option in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    _open_closed_streams()
    parsed = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return command(parsed)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        discard(sys.stdout)
        return READER_GONE
    except UsageError as error:
        return _fail(error, 2)
    except (ValueError, OSError, MemoryError, ArithmeticError, RuntimeError) as error:
        from gpt2fast.config import CheckpointError

        bad_option = isinstance(error, ValueError) and not isinstance(error, CheckpointError)
        return _fail(error, 2 if bad_option else 1)


def _fail(error: Exception, status: int) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    note(f"{PROGRAM}: error: {message}")
    return status


def _open_closed_streams() -> None:
    """Give the process the standard streams that its parent closed, so that they lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = _Parser(prog=PROGRAM, description="GPT-2 on the CPU.")
    top.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    generate = commands.add_parser("generate", help="continue a text")
    generate.set_defaults(run=_generate)
    generate.add_argument(
        "prompt", nargs="?", help="the text to continue; - or none reads it from stdin"
    )
    generate.add_argument("--file", metavar="F", help="read the prompt from a file")
    _add_model_options(generate)
    from gpt2fast.cli_sampling import add_sampling_options

    add_sampling_options(generate)
    generate.add_argument(
        "--logprobs", type=int, metavar="K", help="with --json: of each token and K alternatives"
    )
    generate.add_argument("--json", action="store_true", help="print one JSON object at the end")
    generate.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        help="print the prompt too; default: on a terminal",
    )
    generate.add_argument("--quiet", action="store_true", help="no summary on stderr")

    from gpt2fast import cli_write

    cli_write.add_options(commands.add_parser("write", help="a window to write in"))

    from gpt2fast import cli_chat

    chat = commands.add_parser("chat", help="write a story with a model, or talk to it")
    _add_model_options(chat)
    cli_chat.add_options(chat)

    from gpt2fast import cli_score

    score = commands.add_parser("score", help="show how likely a text is, token by token")
    cli_score.add_options(score)
    _add_model_options(score)

    info = commands.add_parser("info", help="show a model and how it runs here")
    info.set_defaults(run=_info)
    info.add_argument("model", nargs="?", default="tales", help=_MODEL_HELP)
    _add_load_options(info)

    from gpt2fast import cli_bench

    cli_bench.add_options(commands.add_parser("bench", help="measure how fast it is"), _MODEL_HELP)

    from gpt2fast import cli_convert

    cli_convert.add_options(commands.add_parser("convert", help="pack a checkpoint into one file"))

    from gpt2fast import cli_models

    cli_models.add_options(commands.add_parser("models", help="list or remove converted models"))

    from gpt2fast import cli_verify

    cli_verify.add_options(commands.add_parser("verify", help="check the content of packed files"))
    return top


_MODEL_HELP = (
    'the bundled "tales", a packed file, a checkpoint, or a model of the Hugging Face Hub such as '
    "gpt2 or ORGANISATION/NAME; default: tales"
)


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default="tales", metavar="M", help=_MODEL_HELP)
    _add_load_options(command)


def _add_load_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dtype", help="float32, float16 or int8; default: int8, or the file's")
    command.add_argument("--threads", type=int, metavar="N", help="default: all CPUs")
    add_hub_options(command)


def _version() -> str:
    from gpt2fast import __version__

    return __version__


def _generate(arguments: argparse.Namespace) -> int:
    from gpt2fast.cli_generate import generate

    return generate(arguments)


def _info(arguments: argparse.Namespace) -> int:
    from gpt2fast import _core
    from gpt2fast.model import load

    with load(
        arguments.model,
        dtype=arguments.dtype,
        threads=arguments.threads,
        progress=progress_line(f"loading {arguments.model}"),
        **hub_options(arguments),
    ) as model:
        config, memory = model.config, model.memory
        rows = {
            "model": str(arguments.model),
            "dtype": model.dtype,
            "shape": f"{config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
            f"context {config.n_ctx}, vocabulary {config.n_vocab}",
            "parameters": f"{parameters(config):,}",
            "fingerprint": model.fingerprint,
            "target": f"{model.target} (supported: "
            + ", ".join(name for name, missing in _core.supported().items() if not missing)
            + ")",
            "threads": str(model.threads),
            "memory": f"weights {megabytes(memory.weights)}, cache "
            f"{memory.cache_per_token:,} bytes per token, {megabytes(memory.cache)} when full",
        }
        receipt = model.receipt
    for name, value in rows.items():
        print(f"{name:<12} {value}")
    print(receipt)
    return 0


def parameters(config: object) -> int:
    """Return the number of weights of a model of this shape."""
    import math

    from gpt2fast.config import Config

    assert isinstance(config, Config)
    return sum(math.prod(shape) for shape in config.tensor_shapes().values())
