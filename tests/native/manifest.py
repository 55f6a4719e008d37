"""Writes what tests/native/check.cpp reads: a model's packed tensors in one file, and a text that
says where. Lines of the text:

    config <key> <value>              booleans as 0 or 1, an absent eot as -1
    dtype <dtype>
    tensor <name> <offset> <bytes>    offsets are multiples of 64
    tokens <n> <id> <id> ...
    threads <n>
    chunk <n>
    cache <float16 or float32>
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def value_of(value: Any) -> str:
    if value is None:
        return "-1"
    return str(int(value)) if isinstance(value, bool) else str(value)


def padded(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


def lines(
    config: Mapping[str, Any],
    dtype: str,
    tensors: Mapping[str, Array],
    tokens: Array,
    *,
    threads: int,
    chunk: int,
    cache: str,
) -> Iterator[str]:
    for key, value in config.items():
        yield f"config {key} {value_of(value)}"
    yield f"dtype {dtype}"
    offset = 0
    for name, tensor in tensors.items():
        yield f"tensor {name} {offset} {tensor.nbytes}"
        offset += padded(tensor.nbytes)
    yield " ".join(["tokens", str(len(tokens)), *map(str, tokens.tolist())])
    yield f"threads {threads}"
    yield f"chunk {chunk}"
    yield f"cache {cache}"


def write(
    folder: Path,
    config: Mapping[str, Any],
    dtype: str,
    tensors: Mapping[str, Array],
    tokens: Array,
    *,
    threads: int = 1,
    chunk: int = 0,
    cache: str = "float16",
) -> tuple[Path, Path]:
    """The manifest and the data file, both in `folder`; every tensor starts at a multiple of 64."""
    manifest, data = folder / "manifest.txt", folder / "tensors.bin"
    text = lines(config, dtype, tensors, tokens, threads=threads, chunk=chunk, cache=cache)
    manifest.write_text("\n".join(text) + "\n")
    with data.open("wb") as file:
        for tensor in tensors.values():
            raw = np.ascontiguousarray(tensor).tobytes()
            file.write(raw.ljust(padded(len(raw)), b"\0"))
    return manifest, data
