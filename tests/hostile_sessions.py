"""Session files that must be refused: what is changed in a sound one, and the error it gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from packed_files import take_apart

SESSION = Path(__file__).parent / "data" / "sessions" / "v1-float16.safetensors"

Change = Callable[[dict[str, Any], bytearray], object]


def metadata(**changes: Any) -> Change:
    return lambda header, _: header["__metadata__"].update(changes)


def without(key: str) -> Change:
    return lambda header, _: header["__metadata__"].pop(key)


def words(name: str, values: list[int]) -> Change:
    """Put 16-bit words at the beginning of a tensor."""

    def change(header: dict[str, Any], data: bytearray) -> None:
        begin = header[name]["data_offsets"][0]
        data[begin : begin + 2 * len(values)] = np.array(values, "<u2").tobytes()

    return change


def reshaped(names: str, shape: list[int]) -> Change:
    def change(header: dict[str, Any], _: bytearray) -> None:
        for name in header:
            if name.endswith(names):
                header[name]["shape"] = shape

    return change


def renamed(old: str, new: str) -> Change:
    return lambda header, _: header.update({new: header.pop(old)})


def fewer_tokens(header: dict[str, Any], data: bytearray) -> None:
    """Leave one token less than there are keys and values."""
    del data[:12]
    for name, entry in header.items():
        if name != "__metadata__":
            entry["data_offsets"] = [max(at - 12, 0) for at in entry["data_offsets"]]
    header["tokens"]["shape"] = [header["tokens"]["shape"][0] - 3]


def swapped(header: dict[str, Any], _: bytearray) -> None:
    header["h.0.k"], header["h.0.v"] = header["h.0.v"], header["h.0.k"]


def cut(_: dict[str, Any], data: bytearray) -> None:
    del data[-1]


# What is changed in a sound file, and the part of the error it must give.
CASES: dict[str, tuple[Change, str]] = {
    "no format": (without("format"), "not a session of gpt2fast"),
    "a packed model's": (metadata(format="gpt2fast"), "not a session of gpt2fast"),
    "no version": (without("format_version"), "has format version None"),
    "version 2": (metadata(format_version="2"), "has format version '2', this gpt2fast reads '1'"),
    "version 10": (metadata(format_version="10"), "has format version '10'"),
    "version with a line": (metadata(format_version="1\n"), "has format version"),
    "another model": (metadata(fingerprint="0" * 64), "another model: its fingerprint is '000"),
    "no model": (without("fingerprint"), "another model: its fingerprint is None"),
    "another cache": (metadata(cache_dtype="float32"), "its cache_dtype is 'float32', this one's"),
    "no start": (without("start"), "start is None"),
    "negative start": (metadata(start="-1"), "start is '-1'"),
    "start behind the tokens": (metadata(start="3"), "of tokens 3 to 10, of 9 tokens"),
    "start of 100 digits": (metadata(start="1" * 100), "start is '1"),
    "start in other digits": (metadata(start="\u0663"), "start is"),
    "no overflow": (without("overflow"), "overflow is None"),
    "unknown overflow": (metadata(overflow="shift"), "overflow is 'shift'"),
    "stride 0": (metadata(overflow="stride", stride="0"), "stride is '0'"),
    "stride beyond the context": (metadata(overflow="stride", stride="9999"), "stride is 9999; al"),
    "stride without overflow": (metadata(stride="3"), "stride is 3; allowed: None, as overflow"),
    "no sha256": (without("sha256"), "sha256 is None"),
    "sha256 of other data": (metadata(sha256="0" * 64), "is damaged"),
    "a bit of a token": (words("tokens", [3]), "is damaged"),
    "a bit of a value": (words("h.0.v", [1, 2]), "is damaged"),
    "token outside the vocabulary": (words("tokens", [0, 1]), "token 0 is 65536; the model has 0"),
    "negative token": (words("tokens", [65535, 65535]), "token 0 is -1; the model has 0 to"),
    "NaN": (words("h.0.k", [0x7E00]), "tensor h.0.k has a value that is NaN or infinite"),
    "infinity": (words("h.0.v", [0, 0xFC00]), "tensor h.0.v has a value that is NaN or infinite"),
    "no tokens": (renamed("tokens", "ids"), "tensor tokens is missing"),
    "tokens in two dimensions": (
        reshaped("tokens", [3, 3]),
        "tensor tokens is missing, or has not 1",
    ),
    "no keys": (renamed("h.0.k", "h.0.q"), "tensor h.0.k is missing"),
    "a layer too many": (renamed("h.0.v", "h.1.v"), "tensor 'h.[01].v' is"),
    "heads and positions swapped": (reshaped("k", [7, 2, 9]), "is .*, must be"),
    "keys and values swapped": (swapped, "tensor 'h.0.[kv]' is"),
    "more keys than tokens": (fewer_tokens, "keys and values of tokens 0 to 7, of 6 tokens"),
    "the last byte cut off": (cut, "the file is truncated"),
    "bytes behind the last": (lambda _, data: data.append(0), "the rest belongs to no tensor"),
}


def forged(path: Path, change: Change) -> Path:
    """The committed session, changed; its sha256 is that of the changed data unless it is meant."""
    header, data = take_apart(SESSION)
    before = bytes(data)
    change(header, data)
    text = json.dumps(header).encode()
    text = text.ljust(len(text) + -(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert bytes(data) != before or header != take_apart(SESSION)[0]
    return path


def resealed(change: Change) -> Change:
    def both(header: dict[str, Any], data: bytearray) -> None:
        change(header, data)
        header["__metadata__"]["sha256"] = hashlib.sha256(data).hexdigest()

    return both
