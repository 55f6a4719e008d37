"""A session in a file: its tokens, and the keys and values of those that were processed.

`SESSION.md` is the specification. The file is written and read a layer at a time, so neither takes
memory for all of them; nothing of it is believed before it was checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast.atomic import replacing
from gpt2fast.checkpoints.safetensors import (
    Header,
    TensorInfo,
    encode_header,
    open_regular,
    read_header,
)
from gpt2fast.config import CheckpointError, Config, quote

FORMAT, FORMAT_VERSION = "gpt2fast-session", "1"
MAX_TOKENS = 1 << 24  # of a text that outgrew its context; 64 MB
_KINDS = {"float16": "F16", "float32": "F32"}
_NUMPY = {"F16": "<f2", "F32": "<f4"}


@dataclass(frozen=True, slots=True)
class State:
    """What a session is: its tokens, where its cache begins, and how it outgrows the context."""

    tokens: list[int]
    start: int
    overflow: str
    stride: int | None


@dataclass(frozen=True, slots=True)
class Kind:
    """Which model a session belongs to, and how its cache stores values."""

    config: Config
    fingerprint: str
    cache_dtype: str


def write_session(path: Path, kind: Kind, state: State, cache: _core.Cache) -> None:
    """Write a session so that `path` holds all of it or what it held before.

    Raises OSError, and ValueError for more than 16,777,216 tokens.
    """
    tokens = np.array(state.tokens, "<i4")
    if tokens.size > MAX_TOKENS:
        raise ValueError(f"the session has {tokens.size} tokens; allowed in a file: {MAX_TOKENS}")
    tensors = _layout(kind, tokens.size, cache.length)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": kind.fingerprint,
        "cache_dtype": kind.cache_dtype,
        "start": str(state.start),
        "overflow": state.overflow,
        "stride": json.dumps(state.stride),
        "sha256": "0" * 64,
    }
    digest = hashlib.sha256()
    with replacing(path) as file:
        file.write(encode_header(metadata, tensors))
        for part in _parts(tokens, cache, kind.config.n_layer):
            digest.update(part.data)
            file.write(part.data)
        file.seek(0)
        file.write(encode_header(metadata | {"sha256": digest.hexdigest()}, tensors))


def _parts(tokens: NDArray[Any], cache: _core.Cache, n_layer: int) -> Iterator[NDArray[np.uint8]]:
    yield tokens.view(np.uint8)
    for layer in range(n_layer):
        for values in cache.read(layer):
            yield values.reshape(-1).view(np.uint8)


def _layout(kind: Kind, n_tokens: int, length: int) -> dict[str, TensorInfo]:
    """Return where every tensor lies: the one layout that these sizes allow."""
    config, stored = kind.config, _KINDS[kind.cache_dtype]
    shape = (config.n_head, length, config.head_dim)
    size = config.n_head * length * config.head_dim * int(_NUMPY[stored][-1])
    tensors = {"tokens": TensorInfo("I32", (n_tokens,), 0, 4 * n_tokens)}
    position = 4 * n_tokens
    for layer in range(config.n_layer):
        for name in "kv":
            tensors[f"h.{layer}.{name}"] = TensorInfo(stored, shape, position, position + size)
            position += size
    return tensors


def read_session(path: Path, kind: Kind, cache: _core.Cache) -> State:
    """Fill an empty cache from a file and return the rest of the session.

    Raises CheckpointError, with the cache still empty, unless it is the session of this model.
    """
    with open_regular(path) as file:
        header = read_header(file, path)
        start, length, tensors = _check(header, kind, path)
        digest = hashlib.sha256()
        raw = _read(file, header, tensors["tokens"], path, digest)
        tokens = raw.view("<i4")
        wrong = np.flatnonzero((tokens < 0) | (tokens >= kind.config.n_vocab))
        if wrong.size:
            raise CheckpointError(
                f"{path}: token {wrong[0]} is {tokens[wrong[0]]}; the model has 0 to "
                f"{kind.config.n_vocab - 1}"
            )

        def layers() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
            for layer in range(kind.config.n_layer):
                k, v = (_values(file, header, f"h.{layer}.{name}", path, digest) for name in "kv")
                yield k, v
            if digest.hexdigest() != header.metadata["sha256"]:
                raise CheckpointError(f"{path} is damaged: its data is not what the sha256 says")

        cache.write(length, layers())
    metadata = header.metadata
    stride = None if metadata["stride"] == "null" else int(metadata["stride"])
    return State(tokens.tolist(), start, metadata["overflow"], stride)


def _check(header: Header, kind: Kind, path: Path) -> tuple[int, int, dict[str, TensorInfo]]:
    """Return where the cache begins, its length, and the tensors, as this model must have them."""
    metadata = header.metadata
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but not a session of gpt2fast")
    if not re.fullmatch(rf"{FORMAT_VERSION}(\.[0-9]{{1,4}})?", metadata.get("format_version", "")):
        raise CheckpointError(
            f"{path} has format version {quote(metadata.get('format_version'))}, this gpt2fast "
            f"reads {FORMAT_VERSION!r}"
        )
    for key, found in (("fingerprint", kind.fingerprint), ("cache_dtype", kind.cache_dtype)):
        if metadata.get(key) != found:
            raise CheckpointError(
                f"{path} is the session of another model: its {key} is "
                f"{quote(metadata.get(key))}, this one's is {found!r}"
            )
    patterns = {
        "sha256": "[0-9a-f]{64}",
        "start": "0|[1-9][0-9]{0,7}",
        "overflow": "error|truncate|stride",
        "stride": "null|[1-9][0-9]{0,8}",
    }
    for key, pattern in patterns.items():
        if not re.fullmatch(pattern, metadata.get(key, "")):
            raise CheckpointError(f"{path}: {key} is {quote(metadata.get(key))}")
    n_tokens, length = _size(header, "tokens", 0, 1, path), _size(header, "h.0.k", 1, 3, path)
    tensors, start = _layout(kind, n_tokens, length), int(metadata["start"])
    for name in tensors.keys() | header.tensors.keys():
        if header.tensors.get(name) != tensors.get(name):
            raise CheckpointError(
                f"{path}: tensor {quote(name)} is {quote(str(header.tensors.get(name)))}, must be "
                f"{quote(str(tensors.get(name)))}"
            )
    if n_tokens > MAX_TOKENS or length > kind.config.n_ctx or start + length > n_tokens:
        raise CheckpointError(
            f"{path}: keys and values of tokens {start} to {start + length}, of {n_tokens} tokens, "
            f"in a context of {kind.config.n_ctx}"
        )
    return start, length, tensors


def _size(header: Header, name: str, axis: int, rank: int, path: Path) -> int:
    info = header.tensors.get(name)
    if info is None or len(info.shape) != rank:
        raise CheckpointError(f"{path}: tensor {name} is missing, or has not {rank} dimensions")
    return info.shape[axis]


def _values(
    file: BufferedReader, header: Header, name: str, path: Path, digest: hashlib._Hash
) -> NDArray[Any]:
    """Return keys or values of a layer, all of them finite."""
    info = header.tensors[name]
    values = _read(file, header, info, path, digest).view(_NUMPY[info.dtype])
    if not np.isfinite(values).all():
        raise CheckpointError(f"{path}: tensor {name} has a value that is NaN or infinite")
    return values.reshape(info.shape)


def _read(
    file: BufferedReader, header: Header, info: TensorInfo, path: Path, digest: hashlib._Hash
) -> NDArray[np.uint8]:
    raw = np.empty(info.end - info.begin, np.uint8)
    file.seek(header.data_start + info.begin)
    if file.readinto(raw.data) != raw.nbytes:
        raise CheckpointError(f"{path} was truncated while it was read")
    digest.update(raw.data)
    return raw
