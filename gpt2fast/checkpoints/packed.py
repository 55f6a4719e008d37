"""Our packed file: one model, ready to map, as one valid safetensors file.

    header    __metadata__: format, format_version, dtype, name, config, shapes, fingerprint,
    receipt;
              padded with spaces so that the data begins at a multiple of 64
    data      every tensor padded with zeros to a multiple of 64 bytes, in the order of use:
              wte.weight, wpe.weight, h.0.ln_1.weight, ..., ln_f.bias, lm_head.weight (only when
              untied) tokenizer.table (ready for use), tokenizer.file.NAME (as given)

Matrices are [n_out, n_in] packed by the core: U8 [ceil(out/64), ceil(in/64), 4224] for int8, F32 or
F16 [ceil(out/64), in, 64] otherwise. LayerNorm, biases and positions are F32 in their own shape, or
flat with their padding where it is not empty. `shapes` has the true shape of every tensor,
`fingerprint` the sha256 of the data.

Opening reads the header alone and compares it with the one layout that the configuration allows, so
no content of the data can lead outside a buffer.
"""

from __future__ import annotations

import json
import math
import mmap as memory_map
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import TOKENIZER_FILES
from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.checkpoints.safetensors import (
    ALIGNMENT,
    Header,
    TensorInfo,
    encode_header,
    open_regular,
    read_header,
)
from gpt2fast.config import CheckpointError, Config, parse_json, quote

FORMAT = "gpt2fast"
FORMAT_VERSION = "1"
DTYPES = MappingProxyType({"float32": "F32", "float16": "F16", "int8": "U8"})
TABLE = "tokenizer.table"
FILE_PREFIX = "tokenizer.file."

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


class PackedModel:
    """The weights and tokenizer of a model as the core uses them, mapped from a file or in memory.

    `tensors` are read-only views: matrices as packed, vectors and positions as float32. They keep
    the mapping alive, also after `close`. `path` is None for a model packed in memory.
    """

    def __init__(
        self,
        config: Config,
        dtype: str,
        name: str,
        entries: Mapping[str, Entry],
        data: NDArray[np.uint8],
        fingerprint: str,
        receipt: Receipt,
        path: Path | None = None,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.name = name
        self.fingerprint = fingerprint
        self.receipt = receipt
        self.path = path
        self.nbytes = data.nbytes
        data.flags.writeable = False
        self.tensors = {n: e.view(data) for n, e in entries.items() if not _is_tokenizer(n)}
        self._tokenizer = {n: e.view(data) for n, e in entries.items() if _is_tokenizer(n)}

    @property
    def tokenizer_table(self) -> bytes | None:
        """The tokenizer ready for use, or None if the checkpoint came without one."""
        table = self._tokenizer.get(TABLE)
        return None if table is None else table.tobytes()

    @property
    def tokenizer_files(self) -> dict[str, bytes]:
        """The tokenizer's files as the checkpoint had them: name to content."""
        return {
            name.removeprefix(FILE_PREFIX): content.tobytes()
            for name, content in self._tokenizer.items()
            if name != TABLE
        }

    def close(self) -> None:
        """Drop the views; the memory is freed when nobody else holds one."""
        self.tensors = {}
        self._tokenizer = {}


def _is_tokenizer(name: str) -> bool:
    return name == TABLE or name.startswith(FILE_PREFIX)


def open_packed(path: Path, *, mmap: bool = True) -> PackedModel:
    """Open a packed file: map it, or read it whole if `mmap` is false. Raises CheckpointError.

    Every size, offset and name is checked against the stored configuration; no weight is read when
    mapped.
    """
    with open_regular(path) as file:
        header = read_header(file, path)
        metadata = header.metadata
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is a safetensors file, but not one that gpt2fast packed; to load a "
                "checkpoint, give the directory that holds its config.json"
            )
        if metadata.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {quote(metadata.get('format_version'))}, this gpt2fast "
                f"reads {FORMAT_VERSION!r}: convert the checkpoint again, or use the gpt2fast that "
                "wrote the file"
            )
        config, entries = _check(header, path)
        receipt = Receipt.from_json(metadata.get("receipt", ""), f"{path}: receipt")
        data = _data(file, header, path, mmap)
    return PackedModel(
        config,
        metadata["dtype"],
        metadata.get("name", path.stem),
        entries,
        data,
        metadata["fingerprint"],
        receipt,
        path,
    )


def _check(header: Header, path: Path) -> tuple[Config, dict[str, Entry]]:
    """Compare the header with the layout that its own configuration demands."""
    metadata = header.metadata
    dtype = metadata.get("dtype", "")
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: dtype must be one of {', '.join(DTYPES)}, got {quote(dtype)}"
        )
    if not re.fullmatch("[0-9a-f]{64}", metadata.get("fingerprint", "")):
        raise CheckpointError(f"{path}: fingerprint is not a sha256")
    content = _object(metadata, "config", path)
    try:
        config = Config.from_dict(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: config: {error}") from None
    if 12 * config.n_layer > len(header.tensors):  # before thousands of entries are laid out
        raise CheckpointError(
            f"{path}: {len(header.tensors)} tensors are too few for n_layer {config.n_layer}"
        )
    shapes = _object(metadata, "shapes", path)
    entries = layout(config, dtype, _tokenizer_sizes(header, shapes, path))
    if missing := [name for name in entries if name not in header.tensors]:
        raise CheckpointError(f"{path}: tensor {missing[0]} is missing")
    if extra := [name for name in header.tensors if name not in entries]:
        raise CheckpointError(f"{path}: unknown tensor {quote(extra[0])}")
    for name, entry in entries.items():
        if header.tensors[name] != entry.stored:
            raise CheckpointError(
                f"{path}: tensor {name} is {_shown(header.tensors[name])}, must be "
                f"{_shown(entry.stored)}"
            )
    if shapes != {name: list(entry.shape) for name, entry in entries.items()}:
        raise CheckpointError(f"{path}: shapes do not agree with the configuration")
    if header.data_start % ALIGNMENT:
        raise CheckpointError(f"{path}: data begins at {header.data_start}, not a multiple of 64")
    return config, entries


def _object(metadata: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    text = metadata.get(key, "").encode("utf-8", "surrogatepass")
    content = parse_json(text, f"{path}: {key}")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: {key} must be a JSON object")
    return content


def _tokenizer_sizes(header: Header, shapes: dict[str, Any], path: Path) -> dict[str, int]:
    """Return the true sizes of the tokenizer's tensors, which the configuration cannot tell."""
    allowed = (TABLE, *(FILE_PREFIX + name for name in TOKENIZER_FILES))
    sizes = {}
    for name in allowed:
        if name not in header.tensors:
            continue
        stored = header.tensors[name].end - header.tensors[name].begin
        match shapes.get(name):
            case [int(size)] if stored - ALIGNMENT < size <= stored and size >= 0:
                sizes[name] = size
            case shape:
                raise CheckpointError(
                    f"{path}: tensor {name} has {stored} bytes, its shape says {quote(shape)}"
                )
    return sizes


def _shown(info: TensorInfo) -> str:
    return f"{info.dtype} {quote(list(info.shape))} at {info.begin}"


def _data(file: BufferedReader, header: Header, path: Path, mmap: bool) -> NDArray[np.uint8]:
    """Return the data section: a view of the mapping, or a copy aligned to 64 bytes."""
    size = max((info.end for info in header.tensors.values()), default=0)
    try:
        if mmap:
            mapping = memory_map.mmap(
                file.fileno(), header.data_start + size, access=memory_map.ACCESS_READ
            )
            return np.frombuffer(mapping, np.uint8, size, header.data_start)
        data = aligned(size)
        file.seek(header.data_start)
        done = file.readinto(data.data)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be mapped or read: {error}") from None
    if done != size:
        raise CheckpointError(f"{path} was truncated while it was read")
    return data


def aligned(size: int) -> NDArray[np.uint8]:
    """Return `size` uninitialised bytes that begin at a multiple of 64."""
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size]
