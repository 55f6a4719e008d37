"""Where converted models are kept, under which names, and what each was made from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gpt2fast.atomic import replacing
from gpt2fast.checkpoints.packed import FORMAT_VERSION
from gpt2fast.config import CheckpointError, parse_json

_OURS = re.compile(r".+-[a-z0-9]+-[0-9a-f]{32}\.safetensors")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model of the cache was made from: a path, or a revision of a model of the Hub."""

    source: str
    revision: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        if self.revision is None or self.commit is None:
            return self.source
        commit = self.commit[:7]
        revision = "" if self.revision == self.commit else f"{self.revision}, "
        return f"{self.source} ({revision}{commit})"


def cache_directory() -> Path:
    """Return the directory of converted models: `GPT2FAST_CACHE`, or the user's cache."""
    if chosen := os.environ.get("GPT2FAST_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "gpt2fast"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "gpt2fast"
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "gpt2fast"


def cache_path(name: str, dtype: str, identity: str, directory: Path) -> Path:
    """Return the file for a model: another one as soon as its identity changes."""
    key = hashlib.sha256(f"{FORMAT_VERSION}\n{dtype}\n{identity}".encode()).hexdigest()
    return directory / _file_name(name, f"{dtype}-{key[:32]}")


def packed_path(destination: Path, name: str, dtype: str) -> Path:
    """Return the file that a destination means: itself, or `<name>-<dtype>` in a directory."""
    return destination / _file_name(name, dtype) if destination.is_dir() else destination


def is_cache_file(path: Path) -> bool:
    """Tell whether a file is named as `cache_path` names them."""
    return _OURS.fullmatch(path.name) is not None


def _file_name(name: str, suffix: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:60] + f"-{suffix}.safetensors"


def lock_path(path: Path) -> Path:
    """Return the file that is locked while a model of the cache is made."""
    return path.with_suffix(".lock")


def origin_path(path: Path) -> Path:
    """Return the file that says what a model of the cache was made from."""
    return path.with_suffix(".json")


def write_origin(path: Path, origin: Origin) -> None:
    """Note what the model `path` of the cache is made from. Raises OSError."""
    with replacing(origin_path(path)) as file:
        file.write(json.dumps(asdict(origin)).encode())


def read_origin(path: Path) -> Origin | None:
    """Return what a model of the cache was made from, None if that is not known."""
    with suppress(OSError, CheckpointError):
        content = parse_json(origin_path(path).read_bytes(), str(path))
        match content:
            case {"source": str(source), "revision": None, "commit": None}:
                return Origin(source)
            case {"source": str(source), "revision": str(revision), "commit": str(commit)}:
                return Origin(source, revision, commit)
    return None
