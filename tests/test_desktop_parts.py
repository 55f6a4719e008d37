"""The parts of the writing program that need no window."""

from __future__ import annotations

import math
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

import gpt2fast
from gpt2fast.desktop.colours import LEVELS, level
from gpt2fast.desktop.pace import Pace
from gpt2fast.desktop.prompt import joined, prompt_of, reach, whole_words
from gpt2fast.desktop.settings import Settings
from gpt2fast.desktop.sources import is_model
from gpt2fast.desktop.spans import Span, spans, utf16_length
from gpt2fast.desktop.textfile import MAX_BYTES, Form, read_text, write_text


def letters(text: str) -> list[int]:
    """A tokenizer with a token for each character."""
    return list(map(ord, text))


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "none"},
        {"length": 0},
        {"length": 201},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": math.nan},
    ],
)
def test_settings_out_of_range(given: dict[str, float]) -> None:
    """Catches a setting that the model would refuse in the middle of the work."""
    with pytest.raises(ValueError, match=next(iter(given))):
        Settings(**given)  # type: ignore[arg-type]


def test_settings_are_options() -> None:
    """Catches a setting that `generate` does not know, and a length that small contexts lack."""
    model = gpt2fast.load()
    for temperature in (0.0, 0.001, 0.9, 2.0):
        options = Settings("story", temperature).options
        assert model.generate("Once", max_new_tokens=1, **options).tokens
    assert [Settings(length=24).room(n) for n in (512, 40, 8, 1)] == [24, 20, 4, 1]


def test_prompt_begins_alike_while_one_writes() -> None:
    """Catches a prompt whose beginning moves with each key, which the model reads from anew."""
    n_ctx, room, text = 64, 16, "".join(chr(97 + i % 26) for i in range(3000))
    before, changes = None, 0
    for n in range(1, len(text)):
        start = reach(n, n_ctx)
        found = prompt_of(text[start:n], letters, n_ctx, room)
        assert 0 < len(found.tokens) <= n_ctx - room
        assert len(found.tokens) >= min(n, n_ctx - room - n_ctx // 4 + 1)
        assert text[:n].endswith("".join(map(chr, found.tokens)))
        begin = start + found.n_dropped
        changes, before = changes + (before != begin), begin
    assert changes <= 2 + len(text) / (n_ctx // 4) * 1.1


@pytest.mark.parametrize("text", ["", " ", "a", "a ", "a  "])
def test_prompt_leaves_out_one_space(text: str) -> None:
    """Catches a prompt that ends in a space, and more than one space that is lost."""
    found = prompt_of(text, letters, 64, 8)
    assert "".join(map(chr, found.tokens)) + " " * found.after_space == text
    assert found.after_space == text.endswith(" ")


@pytest.mark.parametrize("n_ctx", [2, 3, 5, 8])
def test_prompt_of_tiny_contexts(n_ctx: int) -> None:
    """Catches an empty prompt where the context has room for few tokens."""
    found = prompt_of("abcdefghij", letters, n_ctx, Settings().room(n_ctx))
    assert 0 < len(found.tokens) <= n_ctx - Settings().room(n_ctx)


def test_joined() -> None:
    """Catches a space that stands twice, or is lost."""
    assert joined(" word", after_space=True) == "word"
    assert joined(" word", after_space=False) == " word"
    assert joined("\nword", after_space=True) == "\nword"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" the king's daugh", " the king's"),
        (" said he.", " said he."),
        (" and ", " and "),
        (" word", " word"),
        ("\n\nOnce upon", "\n\nOnce"),
        ("", ""),
    ],
)
def test_whole_words(text: str, kept: str) -> None:
    """Catches an alternative that ends within a word, and one of which nothing is left."""
    assert whole_words(text) == (kept if kept.strip() else text)


def test_pace() -> None:
    """Catches a rate that counts the prompt's time, or remembers what is long past."""
    pace = Pace()
    assert pace.shown == ""
    pace.add(3, 10.0)  # after a long prompt
    assert pace.rate == 0
    pace.add(5, 10.5)
    assert pace.rate == 10
    for i in range(1, 100):
        pace.add(2, 10.5 + i / 10)
    assert pace.rate == pytest.approx(20)
    assert pace.shown == "20 tokens/s"


def test_spans_count_as_qt_does() -> None:
    """Catches colours that slip aside behind a character of two UTF-16 units or several tokens."""
    text = "a \U0001f600b \u00e9"
    pieces = [("a", math.nan), (" ", -1.0), ("", -1.0), ("\U0001f600", -2.0), ("b", -0.5)]
    found = spans([*pieces, (" \u00e9", 0.0)])
    units = text.encode("utf-16-le")
    assert utf16_length(text) == len(units) // 2
    words = [units[2 * span.start : 2 * span.end].decode("utf-16-le") for span in found]
    assert words == ["\U0001f600", "b", "\u00e9"]
    assert [span.probability for span in found] == [math.exp(-3), math.exp(-0.5), 1.0]
    assert spans([("a", math.nan)]) == []
    assert spans([(" x", 0.0)]) == [Span(1, 2, 1.0)]


def luminance(colour: str) -> float:
    """Of the contrast ratio of WCAG 2.1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(map(float.__mul__, linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_read(dark: bool) -> None:
    """Catches a shade on which text is hard to read, and two that look alike to the colour-blind:
    each is further from the page than the one before, in luminance alone.
    """
    text, page = (1.0, luminance("#2d2d2d")) if dark else (0.0, 1.0)
    shades = [luminance(shade) for found in LEVELS if (shade := found.colour(dark))]
    assert len(shades) == 3
    assert all((max(text, x) + 0.05) / (min(text, x) + 0.05) >= 4.5 for x in shades)
    ramp = [page, *shades]
    steps = [(max(a, b) + 0.05) / (min(a, b) + 0.05) for a, b in pairwise(ramp)]
    assert ramp == sorted(ramp, reverse=not dark)
    assert min(steps) > 1.1


def test_levels() -> None:
    """Catches a probability without a colour."""
    names = [level(p).name for p in (1.0, 0.2, 0.19, 0.02, 0.01, 0.002, 0.001, 0.0)]
    assert names == [found.name for found in LEVELS for _ in range(2)]


@pytest.mark.parametrize("name", ["a.safetensors", "b.GGUF", "pytorch_model.bin", "ckpt.pt"])
def test_models_by_name(name: str, tmp_path: Path) -> None:
    """Catches a model that would be opened as a text."""
    assert is_model(Path(name))
    assert is_model(tmp_path)
    assert not is_model(Path("story.txt"))


@pytest.mark.parametrize(
    "data",
    [b"", b"one\ntwo\n", b"one\r\ntwo", b"\xef\xbb\xbfmark\r\n", "caf\u00e9 \U0001f600".encode()],
)
def test_files_come_back_as_they_were(data: bytes, tmp_path: Path) -> None:
    """Catches a file that opening and saving changes."""
    path = tmp_path / "draft.txt"
    path.write_bytes(data)
    text, form = read_text(path)
    assert "\r" not in text and not text.startswith("\ufeff")
    write_text(path, text, form)
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["draft.txt"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xfeh\0i\0", "zero"),
        (b"abc\xff", "byte 3"),
        (b"\xef\xbb\xbfa\xff", "byte 4"),
        (b"a" * (MAX_BYTES + 1), "larger"),
    ],
)
def test_files_that_are_no_text(data: bytes, why: str, tmp_path: Path) -> None:
    """Catches a binary or huge file that would fill the page, or a message that says nothing."""
    path = tmp_path / "draft.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"draft\.txt .*{why}"):
        read_text(path)


def test_a_failed_save_keeps_the_file(tmp_path: Path) -> None:
    """Catches a save that empties the file first."""
    with pytest.raises(OSError, match="missing"):
        write_text(tmp_path / "missing" / "draft.txt", "text", Form())
    path = tmp_path / "draft.txt"
    write_text(path, "half a pair: \ud800", Form())
    assert path.read_text() == "half a pair: ?"


def test_reach_is_fast_enough() -> None:
    """Catches counting tokens so slowly that the window would wait: 12 characters a token."""
    model = gpt2fast.load()
    text = "a" * reach(10**6, model.config.n_ctx) or "a"
    worst = "a" * min(len(text), 12 * model.config.n_ctx)
    begun = time.perf_counter()
    prompt_of(worst, model.tokenizer.encode, model.config.n_ctx, 24)
    assert time.perf_counter() - begun < 0.05
