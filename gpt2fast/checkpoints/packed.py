"""Our packed file: one model, ready to map, as one valid safetensors file.

`FORMAT.md` is the specification, `layout` where each tensor lies. Opening reads the header alone
and compares it with the one layout that the configuration allows, so no content of the data can
lead outside a buffer; `content` checks the content.
"""

from __future__ import annotations

import errno
import mmap as memory_map
import re
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import TOKENIZER_FILES
from gpt2fast.checkpoints.layout import (
    DTYPES,
    EXTRA_PREFIX,
    FILE_PREFIX,
    FORMAT,
    FORMAT_VERSION,
    TABLE,
    Entry,
    encode_packed_header,
    is_conv1d,
    is_matrix,
    is_tokenizer,
    layout,
)
from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.checkpoints.safetensors import (
    ALIGNMENT,
    Header,
    TensorInfo,
    open_regular,
    read_header,
)
from gpt2fast.config import CheckpointError, Config, parse_json, quote

__all__ = [
    "DTYPES",
    "FILE_PREFIX",
    "FORMAT_VERSION",
    "TABLE",
    "Entry",
    "PackedModel",
    "aligned",
    "encode_packed_header",
    "is_conv1d",
    "is_matrix",
    "layout",
    "open_packed",
]

Progress = Callable[[int, int], object]


class PackedModel:
    """The weights and tokenizer of a model as the core uses them, mapped from a file or in memory.

    `tensors` are read-only views: matrices as packed, vectors and positions as float32. They keep
    the mapping alive, also after `close`. `path` is None for a model packed in memory, `mapped`
    false for that and for a file that was read.
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
        *,
        mapped: bool = False,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.name = name
        self.fingerprint = fingerprint
        self.receipt = receipt
        self.path = path
        self.mapped = mapped
        self.nbytes = data.nbytes
        data.flags.writeable = False
        self.tensors = {n: e.view(data) for n, e in entries.items() if not is_tokenizer(n)}
        self._tokenizer = {n: e.view(data) for n, e in entries.items() if is_tokenizer(n)}

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


def open_packed(
    path: Path, *, mmap: bool = True, verify: bool = False, progress: Progress | None = None
) -> PackedModel:
    """Open a packed file: map it, or read it whole if `mmap` is false. Raises CheckpointError.

    Every size, offset and name is checked against the stored configuration; no weight is read when
    mapped. `verify` reads all and checks the content too, of which `progress` is told.
    """
    with open_regular(path) as file:
        header = read_header(file, path)
        metadata = header.metadata
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is a safetensors file, but not one that gpt2fast packed; to load a "
                "checkpoint, give the directory that holds its config.json"
            )
        version = metadata.get("format_version", "")
        if not re.fullmatch(rf"{FORMAT_VERSION}(\.[0-9]{{1,4}})?", version):
            raise CheckpointError(
                f"{path} has format version {quote(metadata.get('format_version'))}, this gpt2fast "
                f"reads {FORMAT_VERSION!r}: convert the checkpoint again, or use the gpt2fast that "
                "wrote the file"
            )
        config, entries = _check(header, path)
        receipt = Receipt.from_json(metadata.get("receipt", ""), f"{path}: receipt")
        data = _data(file, header, path, mmap)
        if verify:
            from gpt2fast.checkpoints.content import check_content, slabs_of_file, slabs_of_memory

            read = slabs_of_file(file, header.data_start, path) if mmap else slabs_of_memory(data)
            check_content(
                config, entries, metadata["fingerprint"], read, data.nbytes, path, progress
            )
    return PackedModel(
        config,
        metadata["dtype"],
        metadata.get("name", path.stem),
        entries,
        data,
        metadata["fingerprint"],
        receipt,
        path,
        mapped=mmap,
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
    for name in header.tensors:
        if name not in entries and not name.startswith(EXTRA_PREFIX):
            raise CheckpointError(f"{path}: unknown tensor {quote(name)}")
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
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError(f"{path}: no room for its {size:,} bytes in this process") from None
        raise CheckpointError(f"{path} cannot be mapped or read: {error}") from None
    if done != size:
        raise CheckpointError(f"{path} was truncated while it was read")
    return data


def aligned(size: int) -> NDArray[np.uint8]:
    """Return `size` uninitialised bytes that begin at a multiple of 64."""
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size]
