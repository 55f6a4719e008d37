"""What `load` opens: a packed file, or a checkpoint, here or on the Hub, that is converted first.

A converted model lies in the cache. There it is opened if it is sound, else made, by one process
while the others wait. See `sources` for what a source may be and `cache` for the files.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt2fast.cache import (
    Origin,
    cache_directory,
    cache_path,
    lock_path,
    write_origin,
)
from gpt2fast.checkpoints import Checkpoint, open_checkpoint
from gpt2fast.checkpoints.packed import PackedModel, open_packed
from gpt2fast.config import CheckpointError
from gpt2fast.conversion.convert import write_packed
from gpt2fast.conversion.packing import Packing, check_dtype, pack
from gpt2fast.hub import Access
from gpt2fast.locks import exclusive
from gpt2fast.memory import Limit
from gpt2fast.progress import Progress, announce
from gpt2fast.sources import (
    Source,
    check_local,
    download,
    is_packed,
    local_path,
    on_hub,
    open_downloaded,
)

IN_MEMORY_BELOW = 64_000_000  # bytes of weights; less is not worth a file in the cache


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How a model is to be opened: the options of `load_packed`."""

    dtype: str | None
    mmap: bool
    verify: bool
    directory: Path
    progress: Progress | None
    limit: Limit | None

    def open(self, path: Path) -> PackedModel:
        if self.limit is not None:
            headers = open_packed(path)
            self.limit.check(path, headers.config, headers.dtype, headers.nbytes)
            headers.close()
        if self.verify:
            announce(self.progress, f"checking {path.name}")
        return open_packed(path, mmap=self.mmap, verify=self.verify, progress=self.progress)


def load_packed(
    source: Source,
    *,
    dtype: str | None = None,
    mmap: bool = True,
    verify: bool = False,
    cache_dir: Source | None = None,
    progress: Progress | None = None,
    access: Access | None = None,
    limit: Limit | None = None,
) -> PackedModel:
    """Return a packed model from a bundled name, a file, a directory, or a model of the Hub.

    A checkpoint with 64 MB of weights or more is converted once into the cache directory
    (`cache_dir`, by default that of `cache.cache_directory`) and opened from there until one of its
    files changes; a smaller one is packed in memory. `dtype` None is int8 for a checkpoint, and the
    file's own for a packed file. `mmap` false reads the file into memory; `verify` checks a packed
    file's content. `access` is for models of the Hub. Raises ValueError for another dtype than a
    packed file has and for bad options, CheckpointError for bad files and for what does not exist,
    MemoryError beyond `limit`, OSError if the network, the disk or the cache fails.
    """
    if dtype is not None:
        check_dtype(dtype)
    for name, value in (("mmap", mmap), ("verify", verify)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; allowed: True or False")
    directory = cache_directory() if cache_dir is None else Path(cache_dir)
    wanted = _Wanted(dtype, mmap, verify, directory, progress, limit)
    access = access or Access()
    path = local_path(source)
    if path is None:
        return _from_hub(source, access, wanted)
    check_local(source, access)
    if is_packed(path):
        return _packed(path, wanted)
    with open_checkpoint(path) as checkpoint:
        identity = checkpoint.identity()
        return _converted(checkpoint, identity, Origin(os.path.abspath(path)), wanted)


def _packed(path: Path, wanted: _Wanted) -> PackedModel:
    model = wanted.open(path)
    if wanted.dtype not in (None, model.dtype):
        raise ValueError(
            f"{path} is packed as {model.dtype}: dtype must be {model.dtype!r} or None, got "
            f"{wanted.dtype!r}"
        )
    return model


def _from_hub(source: Source, access: Access, wanted: _Wanted) -> PackedModel:
    """Open the converted model of what the Hub has now; download it if there is none."""
    found = on_hub(source, access, wanted.directory)
    identity = found.identity()
    path = cache_path(found.name, wanted.dtype or "int8", identity, wanted.directory)
    with suppress(OSError, CheckpointError):
        return wanted.open(path)
    downloaded = download(found, access, wanted.progress)
    if is_packed(downloaded):
        return _packed(downloaded, wanted)
    with open_downloaded(found, downloaded) as checkpoint:
        origin = Origin(found.repo, found.revision, found.commit)
        return _converted(checkpoint, identity, origin, wanted)


def _converted(
    checkpoint: Checkpoint, identity: str, origin: Origin, wanted: _Wanted
) -> PackedModel:
    """Open the converted model of the cache; make it first if it is missing or damaged."""
    dtype = wanted.dtype or "int8"
    if wanted.limit is not None:
        n_bytes = Packing(checkpoint, dtype, None, compare=False).nbytes
        wanted.limit.check(checkpoint.where, checkpoint.config, dtype, n_bytes)
    path = cache_path(checkpoint.name, dtype, identity, wanted.directory)
    if checkpoint.nbytes < IN_MEMORY_BELOW:
        announce(wanted.progress, f"packing {checkpoint.name} as {dtype}")
        return pack(checkpoint, dtype, wanted.progress)
    with suppress(OSError, CheckpointError):
        return wanted.open(path)
    try:
        wanted.directory.mkdir(parents=True, exist_ok=True)
        announce(wanted.progress, f"waiting for another process that packs {checkpoint.name}")
        with exclusive(lock_path(path), wanted.progress) as tell:
            with suppress(OSError, CheckpointError):
                return wanted.open(path)  # somebody else made it in the meantime
            announce(wanted.progress, f"packing {checkpoint.name} as {dtype}")
            write_origin(path, origin)
            write_packed(checkpoint, path, dtype, _both(wanted.progress, tell))
            return wanted.open(path)
    except OSError as error:
        if error.filename in map(os.fspath, checkpoint.files):
            raise  # it is not the cache that failed
        raise OSError(
            error.errno,
            f"cannot keep the converted model ({error.strerror or error}); set GPT2FAST_CACHE to a "
            "directory with room",
            os.fspath(wanted.directory),
        ) from error


def _both(progress: Progress | None, tell: Progress) -> Progress:
    def report(done: int, total: int) -> None:
        tell(done, total)
        if progress is not None:
            progress(done, total)

    return report
