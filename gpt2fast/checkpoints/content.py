"""The content of a packed file: what opening does not read, checked byte by byte.

Opening compares sizes and offsets and trusts the rest, because no weight can lead outside a buffer.
Here every byte is read once, from start to end, a MiB at a time: the fingerprint, and in each
tensor what `FORMAT.md` demands of it. `gpt2fast verify` and `load(verify=True)` end here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.layout import FILE_PREFIX, TABLE, Entry, is_tokenizer
from gpt2fast.config import CheckpointError, Config

Bytes = NDArray[np.uint8]
Read = Callable[[int], Bytes]  # the next so many bytes
Progress = Callable[[int, int], object]

_SLAB = 1 << 20
_BLOCK, _WEIGHTS = 4224, 4096  # bytes of an int8 block of 64 outputs x 64 inputs, without scales
_LARGEST_F16 = 0x7BFF  # what is above is infinite, NaN or negative
_MAX_TOKENIZER = 256 << 20  # bytes; a tokenizer.json of 250,000 tokens has 30 MB


def check_content(
    config: Config,
    entries: Mapping[str, Entry],
    fingerprint: str,
    read: Read,
    size: int,
    path: Path,
    progress: Progress | None = None,
) -> None:
    """Check the data of a packed file, all `size` bytes, which `read` gives from the start.

    `entries` is what the header was found to agree with. `progress` is called with the bytes done
    and `size`. Raises CheckpointError naming the first tensor that is not as it must be, or saying
    that the data is not what the fingerprint was made of.
    """
    digest = hashlib.sha256()
    done = 0
    tokenizer: dict[str, bytearray] = {}

    def pieces(n_bytes: int, unit: int) -> Iterator[Bytes]:
        """Read n_bytes in slabs of whole units."""
        nonlocal done
        slab = max(_SLAB // unit, 1) * unit
        for start in range(0, n_bytes, slab):
            piece = read(min(slab, n_bytes - start))
            digest.update(piece.data)
            done += piece.nbytes
            yield piece
            if progress is not None:
                progress(done, size)

    for name, entry in entries.items():
        n_bytes = entry.stored.end - entry.stored.begin
        if is_tokenizer(name):
            if n_bytes > _MAX_TOKENIZER:
                raise CheckpointError(f"{path}: tensor {name} has more than {_MAX_TOKENIZER} bytes")
            tokenizer[name] = bytearray()
        unit, check = _check_of(entry)
        first = 0
        for piece in pieces(n_bytes, unit):
            if problem := check(piece, first, entry):
                raise CheckpointError(f"{path}: tensor {name}: {problem}")
            first += piece.nbytes // unit
            if name in tokenizer:
                tokenizer[name] += piece.data
        if name in tokenizer:
            del tokenizer[name][entry.shape[0] :]
    for _ in pieces(size - done, 1):
        pass  # of tensors that a later version added: hashed, not known
    if digest.hexdigest() != fingerprint:
        raise CheckpointError(
            f"{path}: the data is not what was written: its sha256 is {digest.hexdigest()}, the "
            f"fingerprint {fingerprint}"
        )
    _check_tokenizer(config, {name: bytes(content) for name, content in tokenizer.items()}, path)


def slabs_of_file(file: BufferedReader, start: int, path: Path) -> Read:
    """Return what reads an open file from `start` on, always into the same buffer."""
    file.seek(start)
    buffer = np.empty(0, np.uint8)

    def read(n_bytes: int) -> Bytes:
        nonlocal buffer
        if buffer.size < n_bytes:
            buffer = np.empty(n_bytes, np.uint8)
        piece = buffer[:n_bytes]
        try:
            n_read = file.readinto(piece.data)
        except OSError as error:  # of a failing disk, say; as a mapping it would be a signal
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        if n_read != n_bytes:
            raise CheckpointError(f"{path} was truncated while it was read")
        return piece

    return read


def slabs_of_memory(data: Bytes) -> Read:
    """Return what reads bytes that are in memory."""
    position = 0

    def read(n_bytes: int) -> Bytes:
        nonlocal position
        position += n_bytes
        return data[position - n_bytes : position]

    return read


Check = Callable[[Bytes, int, Entry], str | None]


def _check_of(entry: Entry) -> tuple[int, Check]:
    """Return the bytes of the units in which a tensor is checked, and the check."""
    packed = len(entry.stored.shape) == 3
    if entry.stored.dtype == "U8":
        return (_BLOCK, _int8) if packed else (1, _bytes)
    if entry.stored.dtype == "F16":
        return 2 * 64, _panels
    return (4 * 64, _panels) if packed else (4, _floats)


def _int8(piece: Bytes, first: int, entry: Entry) -> str | None:
    """Check blocks of int8 weights, the first of them number `first` of the matrix."""
    n_out, n_in = entry.shape
    blocks = piece.reshape(-1, _BLOCK)
    number = np.arange(first, first + len(blocks))
    row, column = np.divmod(number, -(-n_in // 64))
    weights = blocks[:, :_WEIGHTS]
    scales = blocks[:, _WEIGHTS:].view("<u2")  # [block, output]
    if not weights.min():
        at = int(weights.min(axis=1).argmin())
        return f"a weight of block [{row[at]}, {column[at]}] is the byte 0, which stands for none"
    if scales.max() > _LARGEST_F16:
        at, output = np.argwhere(scales > _LARGEST_F16)[0]
        value = float(scales[at, output : output + 1].view("<f2")[0])
        return (
            f"the scale of output {64 * row[at] + output}, inputs from {64 * column[at]}, is "
            f"{value}, not a finite number >= 0"
        )
    zero = scales == 0
    if not zero[row == n_out // 64, n_out % 64 :].all():
        return f"the scale of an output after the last, {n_out - 1}, is not 0"
    if zero.any():
        where, output = np.nonzero(zero)
        cells = weights.reshape(-1, 16, 64, 4)
        if (cells[where, :, output] != 128).any():
            return "a weight is not the byte 128 where its scale is 0"
    if n_in % 64:
        inputs = 4 * np.arange(16)[:, None, None] + np.arange(4)
        after = np.broadcast_to(inputs >= n_in % 64, (16, 64, 4)).reshape(-1)
        if (weights[column == n_in // 64][:, after] != 128).any():
            return f"a weight of an input after the last, {n_in - 1}, is not the byte 128"
    return None


def _panels(piece: Bytes, first: int, entry: Entry) -> str | None:
    """Check floats of matrices: one input's weights to 64 outputs side by side, [rows, 64]."""
    n_out, n_in = entry.shape
    if (bad := _not_finite(piece, entry)) is not None:
        row, column = divmod(bad, 64)
        output, given = divmod(first + row, n_in)
        return f"the weight of output {64 * output + column}, input {given}, is NaN or infinite"
    rows = piece.view("<u2" if entry.stored.dtype == "F16" else "<u4").reshape(-1, 64)
    start = max(n_out // 64 * n_in - first, 0)  # of the last outputs, if they do not fill 64
    if n_out % 64 and rows[start:, n_out % 64 :].any():
        return f"the weight of an output after the last, {n_out - 1}, is not 0"
    return None


def _floats(piece: Bytes, first: int, entry: Entry) -> str | None:
    """Check vectors and positions."""
    if (bad := _not_finite(piece, entry)) is not None:
        return f"element {first + bad} is NaN or infinite"
    return _padding(piece.view("<u4"), math.prod(entry.shape) - first)


def _bytes(piece: Bytes, first: int, entry: Entry) -> str | None:
    """Check the tokenizer's tensors."""
    return _padding(piece, entry.shape[0] - first)


def _not_finite(piece: Bytes, entry: Entry) -> int | None:
    """Return the index of the first NaN or infinity."""
    if entry.stored.dtype == "F16":  # NumPy's isfinite takes ten times as long
        finite = (piece.view("<u2") & 0x7C00) != 0x7C00
    else:
        finite = np.isfinite(piece.view("<f4"))
    return None if finite.all() else int(finite.argmin())


def _padding(values: NDArray[np.unsignedinteger], end: int) -> str | None:
    return "its padding is not zero" if values[max(end, 0) :].any() else None


def _check_tokenizer(config: Config, tensors: Mapping[str, bytes], path: Path) -> None:
    """Check that the table is readable, fits the vocabulary and is what the files give."""
    from gpt2fast.tokenizer import Tokenizer

    files = {n.removeprefix(FILE_PREFIX): content for n, content in tensors.items() if n != TABLE}
    if TABLE not in tensors:
        if files.keys() & {"vocab.json", "merges.txt", "tokenizer.json"}:
            raise CheckpointError(f"{path}: tensor {TABLE} is missing beside the tokenizer's files")
        return
    try:
        stored = Tokenizer.from_table(tensors[TABLE])
        given = Tokenizer.from_files(files)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    config.check_tokenizer(stored.n_vocab, path)
    if stored.to_table() != given.to_table():
        raise CheckpointError(
            f"{path}: tensor {TABLE} is not what the tokenizer's files beside it give"
        )
