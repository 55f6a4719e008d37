"""Text files: opened as UTF-8, saved as they were, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt2fast.atomic import replacing

MAX_BYTES = 5_000_000  # a shelf of novels; more would stall the window
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Form:
    """What of a file is not its text: the end of its lines, and whether a mark begins it."""

    newline: str = "\n"
    mark: bool = False


def read_text(path: Path) -> tuple[str, Form]:
    """Return a file's text, its lines ended by "\\n", and its form.

    Raises ValueError if it is not UTF-8 text or larger than 5 MB, OSError if it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES // 1_000_000} MB")
    if b"\0" in data:
        raise ValueError(f"{path.name} is not a text: byte {data.index(0)} is zero")
    mark = data.startswith(_MARK)
    try:
        text = data.removeprefix(_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + len(_MARK) * mark
        raise ValueError(f"{path.name} is not UTF-8 text: byte {at}") from None
    newline = "\r\n" if "\r\n" in text else "\n"
    return text.replace("\r\n", "\n").replace("\r", "\n"), Form(newline, mark)


def write_text(path: Path, text: str, form: Form) -> None:
    """Put a text in the place of a file, in one step. Raises OSError and leaves it as it was."""
    data = text.replace("\n", form.newline).encode("utf-8", "replace")
    with replacing(path) as file:
        file.write(_MARK * form.mark + data)
