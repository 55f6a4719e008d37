"""Hostile session files: a CheckpointError that names file and reason, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_safetensors import HOSTILE
from hostile_sessions import CASES, SESSION, forged, resealed
from packed_files import FIXTURES

import gpt2fast


@pytest.fixture(scope="module")
def small() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load(FIXTURES / "v1-int8.safetensors", threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize("name", CASES)
def test_hostile_session(name: str, small: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a file that is taken for a session of this model and is none."""
    change, expected = CASES[name]
    sealed = "damaged" in expected or "sha256" in name
    path = forged(tmp_path / "session", change if sealed else resealed(change))
    before = small.memory.caches
    with pytest.raises(gpt2fast.CheckpointError, match=expected) as caught:
        small.restore(path)
    assert str(caught.value).startswith(str(path))
    del caught
    assert small.memory.caches == before


@pytest.mark.parametrize("name", HOSTILE)
def test_malformed_header(name: str, small: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a reader of sessions that believes a header before it is checked."""
    path = tmp_path / "session"
    path.write_bytes(HOSTILE[name][0])
    with pytest.raises(gpt2fast.CheckpointError, match="session"):
        small.restore(path)


def test_every_truncation(small: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a cut at which the rest passes for a session."""
    content, path = SESSION.read_bytes(), tmp_path / "session"
    for end in range(0, len(content), 13):
        path.write_bytes(content[:end])
        with pytest.raises(gpt2fast.CheckpointError):
            small.restore(path)


def test_every_flipped_byte(small: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a byte of the data that nothing guards, and another error than CheckpointError."""
    content, path = SESSION.read_bytes(), tmp_path / "session"
    start = 8 + int.from_bytes(content[:8], "little")
    sound = small.restore(SESSION).tokens
    for at in range(0, len(content), 7):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        try:
            assert small.restore(path).tokens == sound
        except gpt2fast.CheckpointError:
            continue
        assert at < start, at  # spaces, or a name: the header still says the same
