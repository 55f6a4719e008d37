"""The presets: what they set, what goes before them, and what they are for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import gpt2fast
from gpt2fast.presets import PRESETS
from gpt2fast.sampling import Options

README = Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_options(name: str) -> None:
    """Catches a preset that is not applied, or that changes what it does not name."""
    chosen, plain = Options(preset=name), Options()
    named = Options(**PRESETS[name])
    for option in vars(plain):
        if option != "preset":
            assert getattr(chosen, option) == getattr(named, option)
    assert {o for o in vars(plain) if getattr(chosen, o) != getattr(plain, o)} - {"preset"}


@pytest.mark.parametrize("name", PRESETS)
def test_options_given_go_before_the_preset(name: str) -> None:
    """Catches a given option that a preset overrides, a default's value too."""
    given: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.0}
    chosen = Options(preset=name, **given)
    assert {option: getattr(chosen, option) for option in given} == given


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


PROMPTS = ["The king said to his", "There was once a poor", "When the sun rose", "The old witch"]


def repetition(texts: Sequence[gpt2fast.Completion]) -> float:
    grams = [tuple(c.tokens[i : i + 4]) for c in texts for i in range(len(c.tokens) - 3)]
    return 1 - len(set(grams)) / len(grams)


@pytest.mark.parametrize(
    ("preset", "without"),
    [
        ("deterministic", {"temperature": 0}),
        ("balanced", {}),
        ("story", {}),
        ("code", {"temperature": 0.6, "top_p": 0.95}),
    ],
)
def test_presets_repeat_less(model: gpt2fast.Model, preset: str, without: dict[str, Any]) -> None:
    """Catches a preset that does not do what it was chosen for."""
    options: dict[str, Any] = {"max_new_tokens": 250, "seed": 7, "ignore_eot": True}
    got = repetition(model.generate(PROMPTS, preset=preset, **options))
    plain = repetition(model.generate(PROMPTS, **without, **options))
    assert got < plain
    assert got == repetition(model.generate(PROMPTS, preset=preset, **options))


def test_the_table_has_them_all() -> None:
    """Catches a preset without its measured repetition in the documentation."""
    rows = re.findall(r"^\| `(\w+)` \| [\d.]+ \| [\d.]+ \|", README.read_text("utf-8"), re.M)
    assert rows == list(PRESETS)
