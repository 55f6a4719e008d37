"""The loop of `gpt2fast chat`: lines in, commands done, the model's words out."""

from __future__ import annotations

import argparse
import re
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from gpt2fast.cli.chat import terminal
from gpt2fast.cli.chat.state import Chat
from gpt2fast.cli.chat.terminal import show, unescaped
from gpt2fast.cli.sampling import add_sampling_options, sampling_options
from gpt2fast.cli.terminal import PROGRAM, UsageError, note
from gpt2fast.presets import PRESETS

ERRORS = (UsageError, ValueError, OSError, MemoryError, ArithmeticError, RuntimeError)


class Command(NamedTuple):
    """A command of the loop: its method, its arguments and what it does."""

    method: str
    arguments: str
    text: str


COMMANDS = {
    "retry": Command("retry", "", "let the model write its last words anew"),
    "undo": Command("undo", "", "take back the last words, the model's and yours before them"),
    "edit": Command("edit", "[TEXT]", "change the last words, or put TEXT in their place"),
    "add": Command("add", "TEXT", "add to the text, and let the model wait"),
    "show": Command("show", "", "show the whole text"),
    "clear": Command("clear", "", "begin anew"),
    "save": Command("save", "FILE", "write a transcript (FILE.json), or the text"),
    "load": Command("load", "FILE", "take a transcript, or a text, in place of this one"),
    "preset": Command("preset", "[NAME]", f"draw as a preset does: {', '.join(PRESETS)}"),
    "set": Command("set", "[OPTION [VALUE]]", "show the options of generation, or set one"),
    "unset": Command("unset", "OPTION", "give an option its default"),
    "help": Command("help", "", "show this"),
    "quit": Command("quit", "", "leave; so does Ctrl-D"),
}


class _Quiet(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class Loop:
    """Reads lines: commands, or words to which the model replies."""

    def __init__(self, chat: Chat, *, plain: bool = False, quiet: bool = False) -> None:
        self.chat, self._quiet = chat, quiet
        self.reader = terminal.reader([*COMMANDS], self.state, plain=plain)
        self._dropped = 0

    def run(self) -> None:
        """Go on until the input ends, or /quit."""
        interactive = self.reader.interactive
        while True:
            try:
                if not self.take(self.reader.read(self.prompt() if interactive else "")):
                    return
            except EOFError:
                if interactive:
                    show("\n")
                return
            except KeyboardInterrupt:
                if not interactive:
                    raise
                note("\n/quit or Ctrl-D leaves")
            except BrokenPipeError:
                raise
            except ERRORS as error:
                if not interactive:
                    raise
                note(f"{PROGRAM}: {' '.join(str(error).split()) or type(error).__name__}")

    def take(self, line: str) -> bool:
        """Do what a line says; tell whether to go on."""
        if not line.startswith("/") or line.startswith("//"):
            self.answer(unescaped(line.removeprefix("/")))
            return True
        name, _, argument = line[1:].partition(" ")
        found = [full for full in COMMANDS if full.startswith(name)] if name else []
        if name not in COMMANDS and len(found) != 1:
            raise UsageError(f"there is no command /{name}; /help lists them")
        command = COMMANDS[name if name in COMMANDS else found[0]]
        if argument and not command.arguments:
            raise UsageError(f"/{name} takes no argument, got {argument!r}")
        if command.method == "quit":
            return False
        getattr(self, command.method)(argument.strip() if command.method != "add" else argument)
        return True

    def answer(self, text: str) -> None:
        """Add the words of the person, if any, and write the model's."""
        before = list(self.chat.turns)
        if text:
            self.chat.say(text)
        try:
            self.write()
        except ERRORS:
            if self.chat.turns[len(before) + bool(text) :] == []:
                self.chat.turns = before
            raise

    def write(self) -> None:
        """Show the model's words as they come; Ctrl-C ends them."""
        interactive, names = self.reader.interactive, self.chat.names
        if names is not None and interactive:
            show(f"{names[1]}:")
        begun = names is None or interactive
        try:
            with closing(self.chat.reply()) as texts:  # type: ignore[type-var]
                for text in texts:
                    shown = text if begun else text.lstrip()
                    begun = begun or bool(shown)
                    show(shown)
        except KeyboardInterrupt:
            if not interactive:
                raise
        show("\n")
        dropped = self.chat.budget()[2]
        if dropped > self._dropped and not self._quiet:
            note(f"{PROGRAM}: the context is full; the first {dropped} tokens are read no more")
        self._dropped = dropped

    def prompt(self) -> str:
        """Return what stands before the cursor."""
        n, n_ctx, _ = self.chat.budget()
        who = "" if self.chat.names is None else f"{self.chat.names[0]}: "
        return f"[{n}/{n_ctx}] > {who}"

    def state(self) -> str:
        """Return the line below the cursor."""
        n, n_ctx, dropped = self.chat.budget()
        options = " ".join(f"{name}={value}" for name, value in self.chat.options.items())
        kept = f"{n} of {n_ctx} tokens" + (f", {dropped} read no more" if dropped else "")
        return f" {kept}   {options}   /help"

    def retry(self, _: str) -> None:
        before = list(self.chat.turns)
        self.chat.drop_reply()
        try:
            self.write()
        finally:
            if len(self.chat.turns) < len(before):  # nothing came in its place
                self.chat.turns = before

    def undo(self, _: str) -> None:
        self.chat.undo()
        self.end()

    def edit(self, argument: str) -> None:
        turns = self.chat.turns
        if not argument and turns:
            if not self.reader.can_edit:
                raise UsageError("/edit needs the new TEXT here")
            try:
                argument = self.reader.read("edit: ", terminal.escaped(turns[-1].text))
            except EOFError:  # leaves the words, not the chat
                show("\n")
                return
            self.chat.edit(unescaped(argument))
        else:
            self.chat.edit(unescaped(argument))
        self.end()

    def add(self, argument: str) -> None:
        if not argument:
            raise UsageError("/add needs a TEXT")
        self.chat.say(unescaped(argument))

    def show(self, _: str) -> None:
        show(self.chat.text.removesuffix("\n") + "\n")

    def end(self) -> None:
        """Say how the text ends now, to somebody who sits there."""
        if self.reader.interactive and not self._quiet:
            end = self.chat.text[-60:].strip().replace("\n", " ")
            note(f"{PROGRAM}: the text ends: ...{end}" if end else f"{PROGRAM}: the text is empty")

    def clear(self, _: str) -> None:
        self.chat.turns = []

    def save(self, argument: str) -> None:
        self.chat.save(_path(argument))

    def load(self, argument: str) -> None:
        self.chat.load(_path(argument))
        self.end()

    def preset(self, argument: str) -> None:
        if argument:
            self._set({"preset": argument})
        else:
            show("\n".join(PRESETS) + "\n")

    def set(self, argument: str) -> None:
        if not argument:
            rows = [f"{name} = {value!r}" for name, value in self.chat.options.items()]
            show("\n".join(rows or ["every option has its default"]) + "\n")
            return
        name, value = _ASSIGNMENT.fullmatch(argument).groups()  # type: ignore[union-attr]
        parser = _Quiet(add_help=False, allow_abbrev=False)
        add_sampling_options(parser, searches=False)
        option = "--" + name.lstrip("-").replace("_", "-")
        given = [f"{option}={unescaped(value)}"] if value else [option]
        self._set(sampling_options(parser.parse_args(given)))

    def unset(self, argument: str) -> None:
        name = argument.lstrip("-").replace("-", "_")
        if name not in self.chat.options:
            raise UsageError(f"{argument or 'no option'} was not set; /set shows what was")
        self.chat.set_options({key: x for key, x in self.chat.options.items() if key != name})

    def _set(self, options: dict[str, Any]) -> None:
        self.chat.set_options(self.chat.options | options)

    def help(self, _: str) -> None:
        rows = [f"/{name} {row.arguments}".ljust(24) + row.text for name, row in COMMANDS.items()]
        show("\n".join([_HELP, *rows]) + "\n")


_HELP = r"""What you type is added to the text, and the model goes on; an empty line lets it go on.
Ctrl-C ends its words. \n stands for a newline, // for a / at the beginning of a line."""

_ASSIGNMENT = re.compile(r"([^\s=]*)\s*=?\s*(.*)", re.DOTALL)  # of /set: NAME VALUE, NAME = VALUE


def _path(argument: str) -> Path:
    if not argument:
        raise UsageError("name a file")
    return Path(argument).expanduser()
