"""What a model would take of disk and memory, known from headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpt2fast.cache import cache_directory, cache_path
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.packed import open_packed
from gpt2fast.conversion.packing import Packing, check_dtype
from gpt2fast.hub import Access, HubModel
from gpt2fast.memory import (
    PAGE,
    cache_bytes,
    check_cache_dtype,
    default_cache_dtype,
    workspace_bytes,
)
from gpt2fast.ranges import integer
from gpt2fast.sources import Source, download, is_packed, local_path, on_hub, open_downloaded
from gpt2fast.threads import thread_count


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that a model will take: the packed file, and of memory the rest.

    `weights` are all tensors, mapped (shared between processes, and the system may drop them) or in
    memory; `cache` the keys and values of one text of `n_ctx` tokens; `workspace` the buffers of
    one call, which are kept for the next.
    """

    dtype: str
    n_ctx: int
    file: int
    weights: int
    cache: int
    cache_per_token: int
    workspace: int

    @property
    def memory(self) -> int:
        """Weights, cache and workspace: what `max_memory` limits."""
        return self.weights + self.cache + self.workspace


def estimate(
    source: Source,
    *,
    dtype: str | None = None,
    n_ctx: int | None = None,
    cache_dtype: str | None = None,
    threads: int | None = None,
) -> Estimate:
    """Return what a model would take of disk and memory; only headers are read, and small files.

    `source` as in `load`, but nothing is downloaded: a model of the Hub must be there. `dtype` None
    is int8, or a packed file's own; `file` is the size of a packed file, for a checkpoint of the
    one that `convert` would write. `n_ctx` is the length of a text in tokens, None the longest.
    `cache_dtype` and `threads` (those of prompts) as in `load`. Raises as `load` does.

    >>> import gpt2fast
    >>> gpt2fast.estimate("tales").weights < 5_100_000
    True
    """
    if dtype is not None:
        check_dtype(dtype)
    check_cache_dtype(cache_dtype)
    n_threads = thread_count(threads)
    path, found = local_path(source), None
    if path is None:
        path, found = _of_hub(source, dtype or "int8")
    if is_packed(path):
        model = open_packed(path)  # maps it, and reads the header
        if dtype not in (None, model.dtype):
            raise ValueError(
                f"{path} is packed as {model.dtype}: dtype must be {model.dtype!r} or None, got "
                f"{dtype!r}"
            )
        config, dtype, file, weights = model.config, model.dtype, path.stat().st_size, model.nbytes
        model.close()
    else:
        dtype = dtype or "int8"
        with open_downloaded(found, path) if found else open_checkpoint(path) as checkpoint:
            packing = Packing(checkpoint, dtype, None)
            config, weights = checkpoint.config, packing.nbytes
            file = len(packing.header()) + weights
    n_tokens = config.n_ctx if n_ctx is None else integer("n_ctx", n_ctx, 1, config.n_ctx)
    cache_dtype = cache_dtype or default_cache_dtype(dtype)
    return Estimate(
        dtype=dtype,
        n_ctx=n_tokens,
        file=file,
        weights=weights,
        cache=cache_bytes(config, cache_dtype, n_tokens),
        cache_per_token=cache_bytes(config, cache_dtype, PAGE) // PAGE,
        workspace=workspace_bytes(config, dtype, n_threads),
    )


def _of_hub(source: Source, dtype: str) -> tuple[Path, HubModel]:
    """Return what is here of a model of the Hub: converted, or as downloaded."""
    access, directory = Access(local_files_only=True), cache_directory()
    found = on_hub(source, access, directory)
    converted = cache_path(found.name, dtype, found.identity(), directory)
    return converted if converted.exists() else download(found, access, None), found
