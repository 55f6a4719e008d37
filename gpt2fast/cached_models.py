"""The models of the cache: what is there, and removing it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2fast.atomic import sweep
from gpt2fast.cache import (
    Origin,
    cache_path,
    is_cache_file,
    lock_path,
    origin_path,
    read_origin,
)
from gpt2fast.checkpoints.packed import open_packed
from gpt2fast.config import CheckpointError
from gpt2fast.hub import HubModel, known_models
from gpt2fast.locks import try_lock

_SETTLED = 10  # seconds after which a temporary file that nobody holds was left by a dead process


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A converted model: `size` in bytes, `made` in seconds since 1970.

    `state` is "current"; "replaced", if its source was converted again since; "source gone"; or
    "unreadable", for a damaged file or one of another format version.
    """

    path: Path
    name: str
    dtype: str
    size: int
    made: float
    origin: Origin | None
    state: str

    def called(self, name: str) -> bool:
        """Tell whether a user may mean this model: by name, source or file name."""
        source = None if self.origin is None else self.origin.source
        return name in (self.name, source, self.path.name, os.fspath(self.path))


def cached_models(directory: Path) -> list[CachedModel]:
    """Return the models of a cache directory, the newest first; none if it does not exist."""
    try:
        paths = [path for path in directory.iterdir() if is_cache_file(path)]
    except FileNotFoundError:
        return []
    found = []
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # removed in the meantime
        found.append(_described(path, status))
    found.sort(key=lambda model: (-model.made, model.path))
    known = known_models(directory)
    return [_judged(model, found, known) for model in found]


def _described(path: Path, status: os.stat_result) -> CachedModel:
    name, dtype = re.sub("-[0-9a-f]{32}$", "", path.stem).rsplit("-", 1)
    state = "current"
    try:
        packed = open_packed(path)
        name, dtype = packed.name, packed.dtype
        packed.close()
    except (OSError, CheckpointError):
        state = "unreadable"
    return CachedModel(path, name, dtype, status.st_size, status.st_mtime, read_origin(path), state)


def _judged(model: CachedModel, found: list[CachedModel], known: list[HubModel]) -> CachedModel:
    origin = model.origin
    if model.state != "current" or origin is None:
        return model
    state = "current"
    if origin.commit is not None:
        answers = [answer for answer in known if answer.repo == origin.source]
        directory, dtype = model.path.parent, model.dtype
        expected = {cache_path(a.name, dtype, a.identity(), directory) for a in answers}
        if answers and model.path not in expected:
            state = "replaced"
    else:
        same = [m for m in found if (m.origin, m.dtype) == (origin, model.dtype)]
        if model is not same[0]:
            state = "replaced"
        elif not os.path.exists(origin.source):
            state = "source gone"
    return replace(model, state=state)


def remove(models: list[CachedModel]) -> None:
    """Remove models of the cache; who has one mapped keeps it. Raises OSError."""
    for model in models:
        model.path.unlink(missing_ok=True)
        origin_path(model.path).unlink(missing_ok=True)


def remove_debris(directory: Path) -> None:
    """Remove what dead processes left: temporary files, locks, notes on models never made.

    Raises OSError.
    """
    sweep(directory, _SETTLED)
    for lock in directory.glob("*.lock"):
        if is_cache_file(lock.with_suffix(".safetensors")):
            _nobody_makes(lock)
    for note in directory.glob("*.json"):
        path = note.with_suffix(".safetensors")
        if is_cache_file(path) and not path.exists() and _nobody_makes(lock_path(path)):
            note.unlink(missing_ok=True)


def _nobody_makes(lock: Path) -> bool:
    """Remove a lock file unless a process holds it; tell whether none does."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        free = try_lock(descriptor)
        if free:
            lock.unlink(missing_ok=True)
    except OSError:  # no locks on this file system, or no right to remove it
        return False
    finally:
        os.close(descriptor)
    return free
