"""Malformed safetensors files, and the part of the error that each must give."""

from __future__ import annotations

import json
from typing import Any

from checkpoint_files import header_bytes


def entry(dtype: object = "F32", shape: object = (2,), begin: object = 0, end: object = 8) -> Any:
    """Return a header entry, well-formed by default."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DEEP = b'{"a":' * 10_000 + b"1" + b"}" * 10_000
HOSTILE = {
    "empty file": (b"", "0 bytes"),
    "7 bytes": (b"\x02" + b"\0" * 6, "7 bytes"),
    "length 0": (bytes(8), "must begin with"),
    "length beyond the file": (header_bytes("{}")[:-1], "truncated"),
    "length 2^63": ((1 << 63).to_bytes(8, "little") + b"{}", "header of 9223372036854775808"),
    "length 2^64-1": (b"\xff" * 8 + b"{}", "header of 18446744073709551615"),
    "not UTF-8": (header_bytes(b'{"\xff":1}'), "is not UTF-8"),
    "UTF-16": (header_bytes('{"a":1}'.encode("utf-16")), "must begin with"),
    "not an object": (header_bytes("[]"), "must begin with"),
    "leading space": (header_bytes(" {}"), "must begin with"),
    "byte order mark": (header_bytes("\ufeff{}"), "must begin with"),
    "truncated JSON": (header_bytes('{"a":'), "not valid JSON"),
    "text after the object": (header_bytes("{}{}"), "not valid JSON"),
    "deep JSON": (header_bytes(DEEP), "not valid JSON|must have exactly"),
    "name twice": (
        header_bytes('{"a":%s,"a":%s}' % ((json.dumps(entry()),) * 2), bytes(8)),
        "'a' appears twice",
    ),
    "name twice by escape": (
        header_bytes('{"a":%s,"\\u0061":%s}' % ((json.dumps(entry()),) * 2), bytes(8)),
        "'a' appears twice",
    ),
    "key twice in a tensor": (
        header_bytes('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        "'dtype' appears twice",
    ),
    "metadata of numbers": (header_bytes({"__metadata__": {"a": 1}}), "strings to strings"),
    "metadata a list": (header_bytes({"__metadata__": []}), "strings to strings"),
    "metadata nested": (header_bytes({"__metadata__": {"a": {"b": "c"}}}), "strings to strings"),
    "entry a number": (header_bytes({"a": 1}), "must have exactly dtype"),
    "entry without shape": (
        header_bytes({"a": {"dtype": "U8", "data_offsets": [0, 0]}}),
        "must have exactly dtype",
    ),
    "entry with another key": (header_bytes({"a": {**entry(), "x": 1}}), "must have exactly"),
    "unknown dtype": (header_bytes({"a": entry("F33")}, bytes(8)), "unknown dtype 'F33'"),
    "dtype a list": (header_bytes({"a": entry(["F32"])}, bytes(8)), "unknown dtype"),
    "dtype lower case": (header_bytes({"a": entry("f32")}, bytes(8)), "unknown dtype"),
    "negative size": (header_bytes({"a": entry(shape=[-2])}, bytes(8)), "has shape"),
    "two negative sizes": (header_bytes({"a": entry(shape=[-2, -1])}, bytes(8)), "has shape"),
    "size of 2^64": (header_bytes({"a": entry(shape=[2**64])}, bytes(8)), "has shape"),
    "fractional size": (header_bytes({"a": entry(shape=[2.0])}, bytes(8)), "has shape"),
    "size true": (header_bytes({"a": entry("U8", [True], 0, 1)}, bytes(1)), "has shape"),
    "shape a string": (header_bytes({"a": entry(shape="2")}, bytes(8)), "has shape"),
    "shape that wraps to 0": (
        header_bytes({"a": entry("U8", [1 << 32, 1 << 32], 0, 0)}),
        "does not fill its 0 bytes",
    ),
    "shape that wraps to 8": (
        header_bytes({"a": entry("U8", [(1 << 61) + 1, 8])}, bytes(8)),
        "does not fill its 8 bytes",
    ),
    "rank 65": (header_bytes({"a": entry(shape=[1] * 64 + [2])}, bytes(8)), "at most 64"),
    "shape too small": (header_bytes({"a": entry(shape=[1])}, bytes(8)), "does not fill"),
    "half a byte": (header_bytes({"a": entry("F4", [3], 0, 1)}, bytes(1)), "does not fill"),
    "offsets reversed": (header_bytes({"a": entry(begin=8, end=0)}, bytes(8)), "before it begins"),
    "offsets negative": (header_bytes({"a": entry(begin=-8, end=0)}, bytes(8)), "data_offsets"),
    "three offsets": (
        header_bytes({"a": {**entry(), "data_offsets": [0, 4, 8]}}, bytes(8)),
        "data_offsets",
    ),
    "overlap": (header_bytes({"a": entry(), "b": entry(begin=4, end=12)}, bytes(12)), "overlaps"),
    "same range twice": (header_bytes({"a": entry(), "b": entry()}, bytes(8)), "overlaps"),
    "hole": (header_bytes({"a": entry(), "b": entry(begin=9, end=17)}, bytes(17)), "a hole"),
    "hole at the start": (header_bytes({"a": entry(begin=4, end=12)}, bytes(12)), "a hole"),
    "one byte short": (header_bytes({"a": entry()}, bytes(7)), "truncated"),
    "one byte long": (header_bytes({"a": entry()}, bytes(9)), "belongs to no tensor"),
    "data without tensors": (header_bytes("{}", b"PK\x03\x04"), "belongs to no tensor"),
    "far past the end": (
        header_bytes({"a": entry("U8", [1 << 62], 0, 1 << 62)}, bytes(8)),
        "truncated",
    ),
    "a million tensors": (
        header_bytes('{"a":{"data_offsets":0}' + ',"":{"data_offsets":0}' * 600_000 + "}"),
        "more than 50000 tensors",
    ),
}
