"""What `load` opens: a bundled name, a packed file, or a checkpoint that is converted first."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from gpt2fast.cache import cache_directory, cache_path
from gpt2fast.checkpoints import Checkpoint
from gpt2fast.checkpoints.packed import PackedModel, open_packed
from gpt2fast.config import CheckpointError
from gpt2fast.convert import write_packed
from gpt2fast.packing import Progress, check_dtype, pack
from gpt2fast.sources import BUNDLED, Source, open_source

IN_MEMORY_BELOW = 64_000_000  # bytes of weights; less is not worth a file in the cache


def load_packed(
    source: Source,
    *,
    dtype: str | None = None,
    mmap: bool = True,
    verify: bool = False,
    cache_dir: Source | None = None,
    progress: Progress | None = None,
) -> PackedModel:
    """Return a packed model from a bundled name, a packed file, or a checkpoint directory.

    A checkpoint with 64 MB of weights or more is converted once into the cache directory
    (`cache_dir`, by default that of `cache.cache_directory`) and opened from there until one of its
    files changes; a smaller one is packed in memory. `dtype` None is int8 for a checkpoint, and the
    file's own for a packed file. `mmap` false reads the file into memory; `verify` checks its
    content. Raises ValueError for another dtype than a packed file has, CheckpointError for bad
    files.
    """
    if dtype is not None:
        check_dtype(dtype)
    for name, value in (("mmap", mmap), ("verify", verify)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; allowed: True or False")
    path = Path(source)
    if isinstance(source, str) and source in BUNDLED:
        path = Path(__file__).parent / "models" / BUNDLED[source]
        if not path.exists():
            raise CheckpointError(f"{path} is missing: this gpt2fast is not installed completely")
    if path.is_file():
        model = open_packed(path, mmap=mmap, verify=verify, progress=progress)
        if dtype not in (None, model.dtype):
            raise ValueError(
                f"{path} is packed as {model.dtype}: dtype must be {model.dtype!r} or None, got "
                f"{dtype!r}"
            )
        return model
    with open_source(path) as checkpoint:
        if checkpoint.nbytes < IN_MEMORY_BELOW:
            return pack(checkpoint, dtype or "int8", progress)
        directory = cache_directory() if cache_dir is None else Path(cache_dir)
        return _cached(checkpoint, dtype or "int8", mmap, verify, directory, progress)


def _cached(
    checkpoint: Checkpoint,
    dtype: str,
    mmap: bool,
    verify: bool,
    directory: Path,
    progress: Progress | None,
) -> PackedModel:
    """Open the converted model of the cache; make it first if it is missing or damaged."""
    path = cache_path(checkpoint, dtype, directory)
    with suppress(OSError, CheckpointError):
        return open_packed(path, mmap=mmap, verify=verify, progress=progress)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_packed(checkpoint, path, dtype, progress)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot keep the converted model ({error.strerror or error}); set GPT2FAST_CACHE to a "
            "directory with room",
            os.fspath(directory),
        ) from error
    return open_packed(path, mmap=mmap, verify=verify)
