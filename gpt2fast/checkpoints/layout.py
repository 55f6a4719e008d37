"""Where every tensor lies in a packed file, and how: the one layout that a configuration allows.

`FORMAT.md` beside this file has the pictures.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.checkpoints.safetensors import ALIGNMENT, TensorInfo, encode_header
from gpt2fast.config import Config

FORMAT = "gpt2fast"
FORMAT_VERSION = "1"  # readers take any minor version of it too: "1.1", say
DTYPES = MappingProxyType({"float32": "F32", "float16": "F16", "int8": "U8"})
TABLE = "tokenizer.table"
FILE_PREFIX = "tokenizer.file."
EXTRA_PREFIX = "extra."  # of tensors behind all others that a minor version may add, and we skip

_NUMPY: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "U8": np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the data: how and where it is stored, and its shape ([n_out, n_in])."""

    stored: TensorInfo
    shape: tuple[int, ...]

    def view(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Return a typed view of the data: a matrix as packed, a vector in its true shape."""
        raw = data[self.stored.begin : self.stored.end]
        values: NDArray[Any] = raw.view(_NUMPY[self.stored.dtype])
        if len(self.stored.shape) == 3:
            return values.reshape(self.stored.shape)
        return values[: math.prod(self.shape)].reshape(self.shape)


def is_tokenizer(name: str) -> bool:
    """Tell whether a tensor is part of the tokenizer."""
    return name == TABLE or name.startswith(FILE_PREFIX)


def is_matrix(name: str) -> bool:
    """Tell whether a tensor is the weight of a linear layer (or the token table), stored packed."""
    return name in ("wte.weight", "lm_head.weight") or is_conv1d(name)


def is_conv1d(name: str) -> bool:
    """Tell whether a checkpoint stores the matrix as [n_in, n_out]."""
    return re.fullmatch(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight", name) is not None


def layout(config: Config, dtype: str, tokenizer: Mapping[str, int]) -> dict[str, Entry]:
    """Return where every tensor lies in the data; `tokenizer` maps its tensors to their bytes."""
    from gpt2fast import _core

    entries: dict[str, Entry] = {}
    position = 0

    def add(name: str, kind: str, stored: tuple[int, ...], shape: tuple[int, ...]) -> None:
        nonlocal position
        end = position + math.prod(stored) * _NUMPY[kind].itemsize
        entries[name] = Entry(TensorInfo(kind, stored, position, end), shape)
        position = end

    for name, shape in config.tensor_shapes().items():
        if is_matrix(name):
            n_out, n_in = shape[::-1] if is_conv1d(name) else shape
            stored = tuple(_core.packed_shape(dtype, n_out, n_in))
            add(name, DTYPES[dtype], stored, (n_out, n_in))
        else:
            count = math.prod(shape)
            add(name, "F32", (count + -count % 16,) if count % 16 else shape, shape)
    for name, size in tokenizer.items():
        add(name, "U8", (size + -size % ALIGNMENT,), (size,))
    return entries


def encode_packed_header(
    config: Config,
    dtype: str,
    name: str,
    entries: Mapping[str, Entry],
    fingerprint: str,
    receipt: Receipt,
    room: int = 0,
) -> bytes:
    """Return the header of a packed file, at least `room` bytes long."""
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dtype": dtype,
        "name": name,
        "config": json.dumps(config.to_dict(), separators=(",", ":")),
        "shapes": json.dumps(
            {name: entry.shape for name, entry in entries.items()}, separators=(",", ":")
        ),
        "fingerprint": fingerprint,
        "receipt": receipt.to_json(),
    }
    stored = {name: entry.stored for name, entry in entries.items()}
    return encode_header(metadata, stored, room)
