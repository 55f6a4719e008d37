"""A text that a person and the model write in turns: the state behind `gpt2fast chat`.

The text is the turns, and nothing else. What the model reads is encoded anew from them each time;
the session keeps what did not change, so to retry, undo or edit costs only the end of the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast._generate import window_start
from gpt2fast.atomic import replacing
from gpt2fast.cli.sampling import STREAM_NAMES
from gpt2fast.generation.plan import window_stride
from gpt2fast.sampling import Options

if TYPE_CHECKING:
    from gpt2fast.model import Model

YOU, MODEL, TEXT = "you", "model", "text"  # who wrote a turn; TEXT stands before a dialogue
LARGEST_FILE = 1 << 24  # bytes of a transcript
FORMAT = 1
_OVERFLOW: dict[str, Any] = {"overflow": "stride"}  # unless the options say otherwise
_NO_SPACE_BEFORE = ".,;:!?)]}'\"\u2019\u201d"


@dataclass(frozen=True)
class Turn:
    """What one of them wrote at once."""

    author: str
    text: str


class Chat:
    """A story, or with `names` of the person and the model a dialogue."""

    def __init__(
        self, model: Model, options: dict[str, Any], names: tuple[str, str] | None = None
    ) -> None:
        """Begin with an empty text. Raises ValueError for a bad option or name."""
        self.model = model
        self.turns: list[Turn] = []
        self.set_options(options)
        self.names = names and checked_names(names)
        self._session = model.session(**_OVERFLOW)
        self._replies = 0

    @property
    def text(self) -> str:
        """All of it, as the model reads it."""
        if self.names is None:
            return "".join(turn.text for turn in self.turns)
        heads = {YOU: f"{self.names[0]}: ", MODEL: f"{self.names[1]}: ", TEXT: ""}
        return "".join(f"{heads[turn.author]}{turn.text}\n" for turn in self.turns)

    def set_options(self, options: dict[str, Any]) -> None:
        """Write with these options from now on. Raises ValueError, and changes nothing."""
        window_stride(Options(**_OVERFLOW | checked(options)), self.model.config.n_ctx)
        self.options = options

    def begin(self, text: str) -> None:
        """Put a text before the first turn."""
        self.turns = [Turn(TEXT, text)]

    def say(self, text: str) -> None:
        """Add what the person writes; in a story a space goes between words."""
        before = self.text[-1:]
        if self.names is None:
            apart = before.isspace() or text[:1].isspace() or text[:1] in _NO_SPACE_BEFORE
            text = text if apart or not before else f" {text}"
        self.turns.append(Turn(YOU, text.rstrip(" ")))

    def reply(self) -> Iterator[str]:
        """Yield the model's turn as it is written; closing ends it, and it stays as it is then.

        Raises as `Session.stream` does, and then no turn is added.
        """
        options = _OVERFLOW | self.options
        if options.get("seed") is not None:  # another text each time, the same in each run
            options["seed"] = (options["seed"] + self._replies) % 2**64
        prompt = self.text
        if self.names is not None:
            prompt += f"{self.names[1]}:"
            ends = tuple(f"\n{name}:" for name in self.names)
            options["stop"] = (*Options(**options).stop, *ends)
        self._read(prompt)
        texts: list[str] = []
        self._replies += 1
        try:
            with closing(self._session.stream(**options)) as stream:
                for chunk in stream:
                    texts.append(chunk.text)
                    yield chunk.text
        finally:
            text = "".join(texts)
            if self.names is not None:
                text = text.strip()
            if text:
                self.turns.append(Turn(MODEL, text))

    def _read(self, text: str) -> None:
        """Let the session hold this text, keeping what it begins with."""
        ids = self.model.tokenizer.encode(text)
        if not ids:
            eot = self.model.tokenizer.eot
            if eot is None:
                raise ValueError("the text is empty and the model has no <|endoftext|> to begin at")
            ids = [eot]
        held = self._session.tokens
        differ = (i for i, (a, b) in enumerate(zip(ids, held, strict=False)) if a != b)
        same = next(differ, min(len(ids), len(held)))
        self._session.truncate(same)
        if ids[same:]:
            self._session.append(ids[same:])

    def drop_reply(self) -> None:
        """Remove the model's last turn. Raises ValueError if the text does not end with one."""
        if not self.turns or self.turns[-1].author != MODEL:
            raise ValueError("the text does not end with the model's words")
        del self.turns[-1]

    def undo(self) -> None:
        """Remove the last turns, the model's and what was said before it. ValueError if none."""
        if not self.turns:
            raise ValueError("there is nothing to undo")
        last = self.turns.pop()
        if last.author == MODEL and self.turns and self.turns[-1].author == YOU:
            del self.turns[-1]

    def edit(self, text: str) -> None:
        """Replace the last turn. Raises ValueError if there is none."""
        if not self.turns:
            raise ValueError("there is nothing to edit")
        self.turns[-1] = Turn(self.turns[-1].author, text)

    def budget(self) -> tuple[int, int, int]:
        """Return the tokens that are read, those there is room for, those no longer read."""
        n, n_ctx = len(self.model.tokenizer.encode(self.text)), self.model.config.n_ctx
        stride = window_stride(Options(**_OVERFLOW | self.options), n_ctx)
        dropped = window_start(n, n_ctx, stride)
        return n - dropped, n_ctx, dropped

    def save(self, path: Path) -> None:
        """Write a transcript if the name ends with .json, else the text; all of it or nothing."""
        if path.suffix == ".json":
            content = {
                "gpt2fast_chat": FORMAT,
                "fingerprint": self.model.fingerprint,
                "names": self.names,
                "options": self.options,
                "turns": [asdict(turn) for turn in self.turns],
            }
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        else:
            text = self.text
        with replacing(path) as file:
            file.write(text.encode("utf-8", "replace"))

    def load(self, path: Path) -> None:
        """Take turns, names and options of a transcript, or the text of another file.

        Raises ValueError, and changes nothing, if it is neither; OSError.
        """
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ValueError(f"{path} has more than {LARGEST_FILE:,} bytes")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: byte {error.start}") from None
        if path.suffix != ".json":
            self.turns = [Turn(TEXT, text)] if text else []
            return
        try:
            turns, names, options = transcript(json.loads(text))
            self.set_options(options)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            what = "not JSON" if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(f"{path} is no transcript of gpt2fast chat: {what}") from None
        self.turns, self.names = turns, names


def transcript(content: Any) -> tuple[list[Turn], tuple[str, str] | None, dict[str, Any]]:
    """Return turns, names and options of a file. Raises ValueError for what does not belong."""
    if not isinstance(content, dict) or content.get("gpt2fast_chat") != FORMAT:
        raise ValueError(f"gpt2fast_chat must be {FORMAT}")
    turns = content.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("turns must be a list of objects")
    found = [Turn(turn.get("author", ""), turn.get("text", "")) for turn in turns]
    for turn in found:
        if turn.author not in (YOU, MODEL, TEXT) or not isinstance(turn.text, str):
            raise ValueError(f"a turn has an author, {YOU}, {MODEL} or {TEXT}, and a text")
    options, names = content.get("options", {}), content.get("names")
    if not isinstance(options, dict):
        raise ValueError("options must be an object")
    if isinstance(options.get("logit_bias"), dict):
        options["logit_bias"] = {int(token): x for token, x in options["logit_bias"].items()}
    return found, None if names is None else checked_names(names), checked(options)


def checked(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options. Raises ValueError for one that is unknown or out of range."""
    for name in options:
        if name not in STREAM_NAMES:
            raise ValueError(f"{name} is no option of a chat")
    Options(**_OVERFLOW | options)
    return options


def checked_names(names: object) -> tuple[str, str]:
    """Return the names of a dialogue. Raises ValueError unless they are two short lines."""
    if not isinstance(names, (list, tuple)) or len(names) != 2:
        raise ValueError(f"names are {names!r}; allowed: two, yours and the model's")
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > 100 or "\n" in name:
            raise ValueError(f"a name is {name!r}; allowed: 1 to 100 characters, no newline")
    if names[0] == names[1]:
        raise ValueError(f"both names are {names[0]!r}; allowed: two different ones")
    return names[0], names[1]
