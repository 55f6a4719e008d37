"""Where converted models are kept, and under which names."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from gpt2fast.checkpoints import Checkpoint
from gpt2fast.checkpoints.packed import FORMAT_VERSION


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


def cache_path(checkpoint: Checkpoint, dtype: str, directory: Path) -> Path:
    """Return the file for a checkpoint: another one as soon as one of its files changes."""
    key = hashlib.sha256(f"{FORMAT_VERSION}\n{dtype}\n{checkpoint.identity()}".encode()).hexdigest()
    return directory / _file_name(checkpoint.name, f"{dtype}-{key[:32]}")


def packed_path(destination: Path, name: str, dtype: str) -> Path:
    """Return the file that a destination means: itself, or `<name>-<dtype>` in a directory."""
    return destination / _file_name(name, dtype) if destination.is_dir() else destination


def _file_name(name: str, suffix: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:60] + f"-{suffix}.safetensors"
