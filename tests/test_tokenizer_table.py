"""The ready-for-use table of a tokenizer: damaged or hostile bytes are refused, never followed."""

import random
import struct

import pytest
from tokenizer_vocabularies import with_added

from gpt2fast.tokenizer import Tokenizer

TABLE = Tokenizer.from_files(with_added({"content": "<a>", "special": True})).to_table()


def outcome(table: bytes) -> str:
    """Load a table and use all of it; return "refused" or "loaded"."""
    try:
        tokenizer = Tokenizer.from_table(table)
    except ValueError:
        return "refused"
    text = "abcde " * 50 + "ab\u4e2dc" + "a" * 300
    for ids in (tokenizer.encode(text), tokenizer.encode(text, allowed_special="all")):
        assert all(0 <= token < tokenizer.n_vocab for token in ids)
    tokenizer.decode(range(tokenizer.n_vocab))
    return "loaded"


def test_cut_lengthened_or_with_another_header() -> None:
    """Catches a length that is believed: every cut table and every wrong size must be refused."""
    assert outcome(TABLE) == "loaded"
    for size in (*range(200), *range(200, len(TABLE), 61), len(TABLE) - 1):
        assert outcome(TABLE[:size]) == "refused"
    assert outcome(TABLE + bytes(64)) == "refused"
    for at in range(0, 28, 4):
        for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            hostile = bytearray(TABLE)
            struct.pack_into("<I", hostile, at, value)
            if hostile != TABLE:
                assert outcome(bytes(hostile)) == "refused"


def test_overwritten_anywhere() -> None:
    """Catches an offset, id or flag that is believed: no change may lead outside, most are seen."""
    rng = random.Random(8)
    seen = {"refused": 0, "loaded": 0}
    for _ in range(2000):
        hostile = bytearray(TABLE)
        for _ in range(rng.choice((1, 1, 1, 8))):
            at = rng.randrange(64, len(TABLE))
            hostile[at] = rng.choice((0, 1, 3, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        seen[outcome(bytes(hostile))] += 1
    assert min(seen.values()) > 40


def test_names_what_is_wrong() -> None:
    """Catches a merge, flag or setting that is not checked for what it means."""
    n_vocab, n_merges, n_bytes, n_settings = struct.unpack_from("<4I", TABLE, 12)
    sizes = (64, 4 * (n_vocab + 1), n_vocab, 12 * n_merges, n_bytes)
    starts = [sum(-(-size // 64) * 64 for size in sizes[:n]) for n in range(1, 6)]
    settings = TABLE[starts[4] : starts[4] + n_settings]

    def changed(section: int, at: int, value: int, form: str = "<I") -> bytes:
        hostile = bytearray(TABLE)
        struct.pack_into(form, hostile, starts[section] + at, value)
        return bytes(hostile)

    def with_settings(old: bytes, new: bytes) -> bytes:
        assert settings.count(old) == 1
        return TABLE.replace(settings, settings.replace(old, new.ljust(len(old))))

    cases = [
        (changed(0, 0, 1), "offsets do not span"),
        (changed(0, 8, 0), "token 1 is empty or its offset goes backwards"),
        (changed(1, 5, 2, "B"), "token 5 has unknown flags 2"),
        (changed(2, 12, n_vocab), "merge 1 does not join"),
        (changed(2, 8, 0xFFFFFFFF), "merge 0 does not join"),
        (with_settings(b'"special": true', b'"special": 1'), "'special' is 1, not of type bool"),
        (with_settings(b'"steps": []', b'"steps": {}'), "'steps' is {}, not of type list"),
        (with_settings(b"null", b"9999"), "token id 9999 is out of range: 0 to 600"),
        (with_settings(b"[]", b"[}"), "tokenizer table is not valid JSON: Expecting"),
        (TABLE[:8] + b"\2" + TABLE[9:], "version 2, this release reads 1"),
        (b"GGUF" + TABLE[4:], "do not begin with"),
    ]
    for table, message in cases:
        with pytest.raises(ValueError, match=message):
            Tokenizer.from_table(table)
