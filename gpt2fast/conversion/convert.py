"""Conversion of a checkpoint into one packed file."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from gpt2fast.atomic import replacing
from gpt2fast.cache import packed_path
from gpt2fast.checkpoints import Checkpoint
from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.config import CheckpointError
from gpt2fast.conversion.packing import Packing, Progress, check_dtype
from gpt2fast.hub import Access
from gpt2fast.progress import announce
from gpt2fast.sources import Source, open_source


def convert(
    source: Source,
    destination: Source,
    *,
    dtype: str = "int8",
    progress: Progress | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Receipt:
    """Convert a checkpoint, or a model of the Hub, into one packed file; return its receipt.

    `destination` is the file, or an existing directory for a file `<name>-<dtype>.safetensors`.
    `dtype` is 'float32', 'float16' or 'int8'. `progress` is called with the work done and the whole
    work, in bytes read, and before that, if there is a download, in bytes downloaded. `revision`,
    `token` and `local_files_only` as in `load`. An existing destination is replaced at the end, in
    one step; on any error it stays as it was. Raises ValueError for a bad option, CheckpointError
    for a source that is not a sound GPT-2 (naming file, tensor and reason) or that contains the
    destination, OSError if the network fails or the destination cannot be written.
    """
    check_dtype(dtype)
    access = Access(revision, token, local_files_only)
    with open_source(source, access, progress) as checkpoint:
        destination = packed_path(Path(destination), checkpoint.name, dtype)
        announce(progress, f"packing {checkpoint.name} as {dtype}")
        return write_packed(checkpoint, destination, dtype, progress)


def write_packed(
    checkpoint: Checkpoint, path: Path, dtype: str, progress: Progress | None
) -> Receipt:
    """Pack an open checkpoint into a file, in one step; see `convert`."""
    for file in checkpoint.files:
        with suppress(FileNotFoundError):
            if path.samefile(file):
                raise CheckpointError(f"{path} belongs to the source: name another destination")
    try:
        with replacing(path) as out:
            packing = Packing(checkpoint, dtype, progress)
            room = len(packing.header())
            _check_space(path, room + packing.nbytes)
            out.seek(room)
            for piece in packing.chunks():
                out.write(piece.data)
            out.seek(0)
            out.write(packing.header(room))
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as when the disk is full
            error.filename = os.fspath(path)
        raise
    return packing.receipt


def _check_space(path: Path, needed: int) -> None:
    """Raise OSError now if the disk has no room, rather than after a minute's work."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return  # the file system does not tell
    if free < needed:
        reason = f"no space left: the file takes {needed:,} bytes, {free:,} are free"
        raise OSError(errno.ENOSPC, reason, os.fspath(path))
