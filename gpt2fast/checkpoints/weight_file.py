"""What a file of named tensors offers, whichever its format; how stored bytes become float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import CheckpointError

NoteRead = Callable[[Path, str, memoryview], None]


class WeightFile(Protocol):
    """An open file: its header validated, its tensors read (never mapped) one at a time."""

    path: Path

    @property
    def digest(self) -> str:
        """Return the sha256 of what says where the tensors lie."""

    def names(self) -> list[str]:
        """Return the tensors' names as stored."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""

    def nbytes(self, name: str) -> int:
        """Return the size of a tensor as stored, in bytes."""

    def same(self, name: str, other: str) -> bool:
        """Tell whether two tensors are one and the same stored bytes."""

    def read(self, name: str, note: NoteRead | None = None) -> NDArray[np.float32]:
        """Return a tensor as float32, C-contiguous, in its stored shape.

        `note`, as `Checkpoint.note_read`, is told file, name and bytes as stored. Raises
        CheckpointError for a dtype that weights cannot have, or if the file became shorter.
        """

    def close(self) -> None:
        """Close the file."""


def to_float32(
    raw: NDArray[np.uint8], dtype: str, where: str, byte_order: str = "<"
) -> NDArray[np.float32]:
    """Return stored numbers of dtype F32, F16 or BF16 as float32, flat; F32 is not copied.

    `byte_order` is '<' or '>'. Raises CheckpointError, which starts with `where`, for another
    dtype.
    """
    if dtype not in ("F32", "F16", "BF16"):
        raise CheckpointError(f"{where} has dtype {dtype}: weights must be F32, F16 or BF16")
    if dtype == "BF16":  # the upper half of a float32
        wide: NDArray[Any] = raw.view(byte_order + "u2").astype(np.uint32) << 16
        return wide.view(np.float32)
    kind = "f4" if dtype == "F32" else "f2"
    with np.errstate(invalid="ignore"):  # a NaN that becomes quiet
        return raw.view(byte_order + kind).astype(np.float32, copy=False)
