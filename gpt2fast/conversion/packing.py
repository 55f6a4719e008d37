"""The packing of a checkpoint: the bytes of the packed file, piece by piece, and its receipt.

Each tensor of the source is read once, for its hash, its error, its packing and the comparison with
float32. The header comes first in the file but holds what is known at the end: `header` gives its
length before `chunks` ran, its content after.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import Checkpoint, SourceFile
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
from gpt2fast.checkpoints.receipt import Fidelity, Receipt
from gpt2fast.config import CheckpointError
from gpt2fast.conversion.quantization import pack_matrix
from gpt2fast.threads import thread_count

if TYPE_CHECKING:
    from gpt2fast.tokenizer import Tokenizer

Progress = Callable[[int, int], object]

_FLOAT16_OVERFLOW = 65520  # rounds to infinity
_LONGEST = -1234567890123456.0  # a float that takes as many characters as a rounded one can


class Packing:
    """One conversion: the layout, the receipt, and the packed bytes in the order of the layout.

    With `compare`, the packed weights are compared with the float32 ones on a text.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: str, progress: Progress | None, *, compare: bool = True
    ) -> None:
        self._checkpoint = checkpoint
        self._progress = progress
        self._started = time.monotonic()
        self._threads = thread_count(None)
        self.config = checkpoint.config
        self.dtype = dtype
        self.name = checkpoint.name
        tokenizer = _tokenizer(checkpoint)
        self._tokenizer = _tokenizer_tensors(checkpoint, tokenizer)
        sizes = {name: len(content) for name, content in self._tokenizer.items()}
        self.entries = layout(checkpoint.config, dtype, sizes)
        self.nbytes = max(entry.stored.end for entry in self.entries.values())
        shapes = self.config.tensor_shapes().values()
        self._done, self._total = 0, 4 * sum(map(math.prod, shapes))
        self._fingerprint = hashlib.sha256()
        self._errors = {name: _LONGEST for name in self.entries if is_matrix(name)}
        files = (SourceFile(path.name, 1 << 63, "", "0" * 64) for path in checkpoint.files)
        self.receipt = Receipt(checkpoint.name, tuple(files), dtype, self._errors)
        self._comparison = None
        if compare:
            from gpt2fast.conversion.comparison import Comparison
            from gpt2fast.conversion.passage import RANDOM_IDS, passage

            ids, text = passage(self.config, tokenizer)
            self._comparison = Comparison(self.config, dtype, ids, text, self._threads)
            longest = Fidelity(len(ids), RANDOM_IDS, *[_LONGEST] * 4)
            self.receipt = dataclasses.replace(self.receipt, fidelity=longest)

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the data piece by piece; afterwards `receipt` and `fingerprint` are final."""
        for name, entry in self.entries.items():
            if name in self._tokenizer:
                piece = np.frombuffer(self._tokenizer[name], np.uint8)
            elif is_matrix(name):
                piece = self._matrix(name)
            else:
                piece = self._vector(name)
            yield self._hashed(piece)
            size = entry.stored.end - entry.stored.begin
            yield self._hashed(np.zeros(size - piece.nbytes, np.uint8))
            if name not in self._tokenizer:
                self._advance(4 * math.prod(entry.shape))
        self.receipt = dataclasses.replace(
            self.receipt,
            files=self._checkpoint.sources(),
            weight_error=self._errors,
            fidelity=None if self._comparison is None else self._comparison.result(),
            seconds=time.monotonic() - self._started,
        )

    def header(self, room: int = 0) -> bytes:
        """Return the header: with its final length before `chunks` ran, its content after."""
        header = encode_packed_header(
            self.config, self.dtype, self.name, self.entries, self.fingerprint, self.receipt, room
        )
        assert room in (0, len(header)), "the header must not grow into the data"
        return header

    @property
    def fingerprint(self) -> str:
        return self._fingerprint.hexdigest()

    def _hashed(self, piece: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._fingerprint.update(piece.data)
        return piece

    def _vector(self, name: str) -> NDArray[np.uint8]:
        values = self._read(name)
        if self._comparison is not None:
            self._comparison.add_vector(name, values)
        return values.reshape(-1).astype("<f4", copy=False).view(np.uint8)

    def _matrix(self, name: str) -> NDArray[np.uint8]:
        weight = self._read(name)
        if name == "wte.weight":
            self._check_tied(weight)
        weight = np.ascontiguousarray(weight.T if is_conv1d(name) else weight)  # [n_out, n_in]
        try:
            packed, self._errors[name] = pack_matrix(weight, self.dtype, self._threads)
        except ValueError as error:
            raise CheckpointError(f"{self._where(name)}: {error}") from None
        if self._comparison is not None:
            exact = packed
            if self.dtype != "float32":
                exact, _ = pack_matrix(weight, "float32", self._threads)
            self._comparison.add_matrix(name, {"float32": exact, self.dtype: packed})
        return packed

    def _read(self, name: str) -> NDArray[np.float32]:
        try:
            weight = self._checkpoint.read(name)
        except OSError as error:
            if error.errno is not None and error.filename is None:  # as from a failing disk
                error.filename = self._where(name)
            raise
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
        return f"{self._checkpoint.where}: tensor {name}"

    def _advance(self, n_bytes: int) -> None:
        self._done += n_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """Return the checkpoint's tokenizer: None if it comes without vocabulary."""
    files = checkpoint.tokenizer_files
    if not files.keys() & {"vocab.json", "merges.txt", "tokenizer.json"}:
        return None
    from gpt2fast.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.from_files(files)
    except ValueError as error:
        reason = str(error)
        for name, original in checkpoint.original_names.items():
            reason = reason.replace(name, original)
        raise CheckpointError(f"{checkpoint.where}: tokenizer: {reason}") from error
    checkpoint.config.check_tokenizer(tokenizer.n_vocab, checkpoint.where)
    return tokenizer


def _tokenizer_tensors(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> dict[str, bytes]:
    tensors = {} if tokenizer is None else {TABLE: tokenizer.to_table()}
    files = checkpoint.tokenizer_files
    return tensors | {FILE_PREFIX + name: content for name, content in files.items()}


def check_dtype(dtype: object) -> None:
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")


def pack(
    checkpoint: Checkpoint, dtype: str = "int8", progress: Progress | None = None
) -> PackedModel:
    """Pack an open checkpoint in memory, as the bytes that `convert` writes.

    Without the comparison with float32, so that a small model loads at once. Raises
    CheckpointError.
    """
    check_dtype(dtype)
    packing = Packing(checkpoint, dtype, progress, compare=False)
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
