"""Resolving a source: catches a wrong dtype let through, and a cache that is stale or misplaced."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer

from gpt2fast import loading
from gpt2fast.cache import cache_directory
from gpt2fast.config import CheckpointError, Config
from gpt2fast.conversion.convert import convert
from gpt2fast.hub import Access
from gpt2fast.loading import load_packed
from gpt2fast.sources import is_packed

CONFIG = hf_config()
TENSORS = random_tensors(Config.from_huggingface(CONFIG).tensor_shapes())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small checkpoint with tokenizer."""
    directory = write_checkpoint(tmp_path / "little", CONFIG, TENSORS)
    write_tokenizer(directory)
    return directory


@pytest.mark.parametrize(("dtype", "other"), [("int8", "float32"), ("float32", "int8")])
def test_dtype_of_a_packed_file(dtype: str, other: str, source: Path, tmp_path: Path) -> None:
    """Catches a packed file opened as another dtype, or an error that does not say which it has."""
    path = tmp_path / "p.safetensors"
    convert(source, path, dtype=dtype)
    with pytest.raises(ValueError, match=f"is packed as {dtype}: .* or None, got '{other}'"):
        load_packed(path, dtype=other)
    assert load_packed(path).dtype == dtype


@pytest.mark.parametrize("name", ["gpt-2", "./gpt2", "no/such/file.safetensors", "/no/gpt2", ""])
def test_nothing_there(name: str) -> None:
    """Catches an error that does not explain what a source may be."""
    for take in (load_packed, lambda name: convert(name, "never-written.safetensors")):
        with pytest.raises(CheckpointError, match=r"neither a bundled .*, nor an existing .* Hub"):
            take(name)


def test_revision_of_something_local(source: Path, tmp_path: Path) -> None:
    """Catches a revision that is ignored where there is none."""
    access = Access(revision="v2")
    for local in ("tales", source):
        with pytest.raises(ValueError, match="revision='v2' is for models of the Hugging Face Hub"):
            load_packed(local, access=access)
    with pytest.raises(ValueError, match="revision='v2' is for"):
        convert(source, tmp_path / "never", revision="v2")


def test_small_checkpoint_leaves_the_cache_alone(source: Path, tmp_path: Path) -> None:
    """Catches a file written for a checkpoint that packs in no time."""
    model = load_packed(source, cache_dir=tmp_path / "cache")
    assert model.path is None and model.dtype == "int8"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("start", [b"", b"GGUF\x03\0\0\0\0", b"\xff" * 8 + b"{"])
def test_what_is_packed(start: bytes, tmp_path: Path) -> None:
    """Catches a file of another format that is taken for ours because it speaks of us."""
    path = tmp_path / "file"
    path.write_bytes(start + b'"format":"gpt2fast"' * 10)
    assert is_packed(path) == start.endswith(b"{")
    assert not is_packed(tmp_path)


def test_file_of_weights(source: Path) -> None:
    """Catches a checkpoint that is another one when its file is named."""
    whole = load_packed(source)
    assert load_packed(source / "model.safetensors").fingerprint == whole.fingerprint
    assert whole.tokenizer_table is not None


def change_weights(source: Path) -> None:
    path = source / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def change_config(source: Path) -> None:
    path = source / "config.json"
    before = path.stat()
    content = path.read_text().replace('"gpt2"', '"gpt2" ').replace('"n_layer": 2', '"n_layer":2')
    path.write_text(content)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_tokenizer(source: Path) -> None:
    (source / "tokenizer_config.json").write_text("{}")


@pytest.mark.parametrize("change", [change_weights, change_config, change_tokenizer])
def test_cache(change: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a cache that is not used, shared between dtypes, or stale after a change."""
    monkeypatch.setattr(loading, "IN_MEMORY_BELOW", 0)
    cache = tmp_path / "cache"
    seen: list[int] = []

    def load(dtype: str | None = None) -> Path:
        seen.clear()
        model = load_packed(
            source, dtype=dtype, cache_dir=cache, progress=lambda done, _: seen.append(done)
        )
        assert model.path is not None and model.path.parent == cache
        assert model.dtype == (dtype or "int8")
        return model.path

    first = load()
    assert seen and first.name.startswith("little-int8-")
    assert load() == first and not seen
    assert load("float32") != first and seen
    change(source)
    assert load() != first and seen
    assert len(list(cache.glob("*.safetensors"))) == 3


def test_damaged_cache(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a damaged file of the cache that makes the checkpoint unusable."""
    monkeypatch.setattr(loading, "IN_MEMORY_BELOW", 0)
    path = load_packed(source, cache_dir=tmp_path / "cache").path
    assert path is not None
    os.truncate(path, 1000)
    model = load_packed(source, cache_dir=tmp_path / "cache", mmap=False)
    assert model.path == path and path.stat().st_size > 1000


def test_cache_without_room(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error of the cache that does not say what to do."""
    monkeypatch.setattr(loading, "IN_MEMORY_BELOW", 0)
    (tmp_path / "cache").write_bytes(b"a file, not a directory")
    with pytest.raises(OSError, match="set GPT2FAST_CACHE to a directory with room"):
        load_packed(source, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"GPT2FAST_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ("linux", {"GPT2FAST_CACHE": "~/c"}, "/home/u/c"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/gpt2fast"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/u/.cache/gpt2fast"),
        ("linux", {"GPT2FAST_CACHE": ""}, "/home/u/.cache/gpt2fast"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/home/u/Library/Caches/gpt2fast"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/gpt2fast"),
        ("win32", {}, "/home/u/AppData/Local/gpt2fast"),
    ],
)
def test_cache_directory(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cache in a place that the platform does not use for caches."""
    for name in ("GPT2FAST_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/u", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_directory() == Path(expected)
