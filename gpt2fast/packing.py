"""The packing of a checkpoint: the bytes of the packed file, piece by piece, and its receipt.

One tensor of the source is in memory at a time; its packed bytes come in slabs of rows. The header
comes first in the file but holds the fingerprint of what follows: `header` gives its length before
`chunks` ran, its content after.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import Checkpoint
from gpt2fast.checkpoints.packed import (
    DTYPES,
    FILE_PREFIX,
    TABLE,
    PackedModel,
    aligned,
    encode_packed_header,
    is_conv1d,
    is_matrix,
    layout,
)
from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.config import CheckpointError

Progress = Callable[[int, int], object]

_SLAB = 1 << 20  # weights packed at once, so that the copies stay at a few MiB
_FLOAT16_OVERFLOW = 65520  # rounds to infinity


class Packing:
    """One conversion: the layout, the receipt, and the packed bytes in the order of the layout."""

    def __init__(self, checkpoint: Checkpoint, dtype: str, progress: Progress | None) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._started = time.monotonic()
        self._done = 0
        shapes = checkpoint.config.tensor_shapes().values()
        self._total = 4 * sum(map(math.prod, shapes)) + sum(map(os.path.getsize, checkpoint.files))
        self.config = checkpoint.config
        self.dtype = dtype
        self.name = checkpoint.name
        self._tokenizer = _tokenizer_tensors(checkpoint)
        sizes = {name: len(content) for name, content in self._tokenizer.items()}
        self.entries = layout(checkpoint.config, dtype, sizes)
        self.nbytes = max(entry.stored.end for entry in self.entries.values())
        self._fingerprint = hashlib.sha256()
        longest = -1.234e-300  # as many characters as a rounded error can have
        files = checkpoint.hash_files(self._advance)
        errors = {name: longest for name in self.entries if is_matrix(name)}
        self.receipt = Receipt(checkpoint.name, files, dtype, errors)

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the data piece by piece; afterwards `receipt` and `fingerprint` are final."""
        errors: dict[str, float] = {}
        for name, entry in self.entries.items():
            if name in self._tokenizer:
                pieces = iter((np.frombuffer(self._tokenizer[name], np.uint8),))
            elif is_matrix(name):
                pieces = self._matrix(name, errors)
            else:
                pieces = iter((self._read(name).reshape(-1).astype("<f4").view(np.uint8),))
            size = 0
            for piece in pieces:
                yield self._hashed(piece)
                size += piece.nbytes
            yield self._hashed(np.zeros(entry.stored.end - entry.stored.begin - size, np.uint8))
        self._checkpoint.check_unchanged()
        seconds = time.monotonic() - self._started
        self.receipt = dataclasses.replace(self.receipt, weight_error=errors, seconds=seconds)

    def header(self, room: int = 0) -> bytes:
        """Return the header: with its final length before `chunks` ran, its content after."""
        return encode_packed_header(
            self.config, self.dtype, self.name, self.entries, self.fingerprint, self.receipt, room
        )

    @property
    def fingerprint(self) -> str:
        return self._fingerprint.hexdigest()

    def _hashed(self, piece: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._fingerprint.update(piece.data)
        return piece

    def _matrix(self, name: str, errors: dict[str, float]) -> Iterator[NDArray[np.uint8]]:
        """Pack a matrix in slabs of output rows, whose bytes follow each other in every format."""
        from gpt2fast import _core

        weight = self._read(name)
        if is_conv1d(name):
            weight = weight.T  # [n_out, n_in], as a view
        elif name == "wte.weight":
            self._check_tied(weight)
        n_out, n_in = weight.shape
        rows = max(64, _SLAB // n_in // 64 * 64)
        squares = difference = 0.0
        for start in range(0, n_out, rows):
            slab = np.ascontiguousarray(weight[start : start + rows])
            try:
                packed = _core.pack(slab, self.dtype)
            except ValueError as error:
                raise CheckpointError(f"{self._where(name)}: {error}") from None
            yield packed
            if self.dtype != "float32":
                restored = _core.unpack(packed, self.dtype, *slab.shape)
                squares += float(np.square(slab, dtype=np.float64).sum())
                difference += float(np.square(slab - restored, dtype=np.float64).sum())
        relative = math.sqrt(difference / squares) if squares else 0.0
        errors[name] = float(f"{relative:.4g}")

    def _read(self, name: str) -> NDArray[np.float32]:
        weight = self._checkpoint.read(name)
        if not np.isfinite(weight).all():
            nan, infinite = int(np.isnan(weight).sum()), int(np.isinf(weight).sum())
            raise CheckpointError(
                f"{self._where(name)}: {nan} NaN and {infinite} infinite of {weight.size} weights"
            )
        if self.dtype == "float16" and is_matrix(name):
            largest = max(-float(weight.min()), float(weight.max()))
            if largest >= _FLOAT16_OVERFLOW:
                raise CheckpointError(
                    f"{self._where(name)} has a weight of size {largest:g}, float16 ends at 65504: "
                    "use dtype 'float32' or 'int8'"
                )
        self._advance(weight.nbytes)
        return weight

    def _check_tied(self, wte: NDArray[np.float32]) -> None:
        """A tied checkpoint may repeat the token table as output head, but not contradict it."""
        if not self.config.tie_word_embeddings or "lm_head.weight" not in self._checkpoint.names():
            return
        if not np.array_equal(self._checkpoint.read("lm_head.weight"), wte):
            raise CheckpointError(
                f"{self._where('lm_head.weight')} differs from wte.weight, but the "
                "configuration ties them: set tie_word_embeddings to false if the head is separate"
            )

    def _where(self, name: str) -> str:
        return f"{self._checkpoint.files[0].parent}: tensor {name}"

    def _advance(self, n_bytes: int) -> None:
        self._done += n_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _tokenizer_tensors(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the tokenizer's tensors: none for a checkpoint that comes without vocabulary."""
    files = checkpoint.tokenizer_files
    tensors = {FILE_PREFIX + name: content for name, content in files.items()}
    if not files.keys() & {"vocab.json", "merges.txt", "tokenizer.json"}:
        return tensors
    from gpt2fast.tokenizer import Tokenizer

    directory = checkpoint.files[0].parent
    try:
        tokenizer = Tokenizer.from_files(files)
    except ValueError as error:
        raise CheckpointError(f"{directory}: tokenizer: {error}") from error
    checkpoint.config.check_tokenizer(tokenizer.n_vocab, directory)
    return {TABLE: tokenizer.to_table(), **tensors}


def check_dtype(dtype: object) -> None:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")


def pack(
    checkpoint: Checkpoint, dtype: str = "int8", progress: Progress | None = None
) -> PackedModel:
    """Pack an open checkpoint in memory, as the bytes that `convert` writes.

    Raises CheckpointError.
    """
    check_dtype(dtype)
    packing = Packing(checkpoint, dtype, progress)
    data = aligned(packing.nbytes)
    position = 0
    for piece in packing.chunks():
        data[position : position + piece.nbytes] = piece
        position += piece.nbytes
    return PackedModel(
        packing.config,
        dtype,
        packing.name,
        packing.entries,
        data,
        packing.fingerprint,
        packing.receipt,
    )
