"""The command `gpt2fast chat`: write a story with the model, or talk to it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpt2fast.cli.sampling import add_sampling_options, sampling_options
from gpt2fast.cli.terminal import UsageError, add_model_options, load_model, note


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=chat)
    command.description = (
        "Write a story with the model, or talk to it. GPT-2 is no assistant: it goes on with a "
        "text, and in a dialogue it plays the other part."
    )
    add_model_options(command)
    command.add_argument("--prompt", metavar="TEXT", help="what the text begins with")
    command.add_argument(
        "--file",
        metavar="F",
        help="a text, or a saved transcript, to go on with; options given here go before its own",
    )
    command.add_argument(
        "--dialogue", action="store_true", help="take turns: your lines, the model's lines"
    )
    command.add_argument("--you", metavar="NAME", help="your name in a dialogue; default: You")
    command.add_argument("--bot", metavar="NAME", help="the model's name; default: Bot")
    command.add_argument(
        "--plain", action="store_true", help="do not use prompt_toolkit, which the extra chat has"
    )
    command.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    add_sampling_options(command, searches=False)


def chat(arguments: argparse.Namespace) -> int:
    """Run the loop; return the exit status."""
    from gpt2fast.cli.chat.loop import Loop
    from gpt2fast.cli.chat.state import Chat, checked, checked_names
    from gpt2fast.cli.chat.terminal import show

    options = checked(sampling_options(arguments))
    names = None
    if arguments.dialogue or arguments.you is not None or arguments.bot is not None:
        names = (arguments.you or "You", arguments.bot or "Bot")
    if arguments.prompt is not None and arguments.file is not None:
        raise UsageError("give --prompt or --file, not both")
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with load_model(arguments, quiet=arguments.quiet) as model:
        text = Chat(model, options, names)
        if arguments.file is not None:
            text.load(Path(arguments.file))
            text.set_options(text.options | options)
            if names is not None:
                yours, models = text.names or names
                text.names = checked_names((arguments.you or yours, arguments.bot or models))
        elif arguments.prompt:
            text.begin(arguments.prompt)
        loop = Loop(text, plain=arguments.plain, quiet=arguments.quiet)
        if loop.reader.interactive:
            if not arguments.quiet:
                note(f"{arguments.model}: an empty line lets it go on; /help, /quit")
            show(text.text and text.text.removesuffix("\n") + "\n")
        loop.run()
    return 0
