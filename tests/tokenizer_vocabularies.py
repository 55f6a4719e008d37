"""Small vocabularies for the tokenizer's tests, and byte-pair encoding as one would explain it."""

import json
import random
from functools import cache
from itertools import pairwise
from typing import Any

Vocabulary = tuple[list[bytes], list[tuple[bytes, bytes]]]  # tokens in order of id, merges


@cache
def byte_names() -> list[str]:
    """Return the printable character of each byte in GPT-2's alphabet."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(rest)) for byte in range(256)]


def name_of(token: bytes) -> str:
    """Return a token's name in vocab.json."""
    return "".join(map(byte_names().__getitem__, token))


@cache
def random_vocabulary(seed: int, *, size: int = 600, shuffled: bool = False) -> Vocabulary:
    """Return the bytes in random order and random merges over "abcde ", ids in random order.

    Half of the merges take a token made earlier. With `shuffled` a merge may come before those
    that make its parts, as no training would give; some tokens can then never be made.
    """
    rng = random.Random(seed)
    parts = [bytes([byte]) for byte in b"abcde "]
    known = set(parts)
    merges: list[tuple[bytes, bytes]] = []
    while len(known) < size - 250:
        pair = (rng.choice(parts), rng.choice(parts))
        if len(pair[0] + pair[1]) < 40 and pair not in merges:
            merges.append(pair)
            if pair[0] + pair[1] not in known:
                known.add(pair[0] + pair[1])
                parts.append(pair[0] + pair[1])
    tokens = sorted(known | {bytes([byte]) for byte in range(256)})
    rng.shuffle(tokens)
    if shuffled:
        rng.shuffle(merges)
    return tokens, merges


def as_files(vocabulary: Vocabulary) -> dict[str, bytes]:
    """Return the vocabulary as vocab.json and merges.txt."""
    tokens, merges = vocabulary
    lines = [f"{name_of(left)} {name_of(right)}" for left, right in merges]
    return {
        "vocab.json": json.dumps({name_of(token): n for n, token in enumerate(tokens)}).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *lines, ""]).encode(),
    }


def slow_encode(piece: bytes, vocabulary: Vocabulary) -> list[int]:
    """Merge the pair of lowest rank, leftmost of equals, until none is left."""
    tokens, merges = vocabulary
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = [bytes([byte]) for byte in piece]
    while True:
        candidates = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not candidates:
            return [tokens.index(part) for part in parts]
        _, at = min(candidates)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


VOCABULARY = random_vocabulary(1)
FILES = as_files(VOCABULARY)
N_VOCAB = len(VOCABULARY[0])
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
GONE = "gone"


def tokenizer_json(model: dict[str, Any] | None = None, **root: Any) -> dict[str, bytes]:
    """Return a tokenizer.json of VOCABULARY, with some settings of model and root replaced."""
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "vocab": json.loads(FILES["vocab.json"]),
            "merges": [list(map(name_of, merge)) for merge in VOCABULARY[1]],
            **(model or {}),
        },
        **root,
    }
    return {"tokenizer.json": json.dumps(whole).encode()}


def with_vocab(**changed: Any) -> dict[str, bytes]:
    """Return FILES with entries of vocab.json set, or removed where GONE."""
    entries = {**json.loads(FILES["vocab.json"]), **changed}
    kept = {key: value for key, value in entries.items() if value != GONE}
    return {**FILES, "vocab.json": json.dumps(kept).encode()}


def with_added(*tokens: dict[str, Any]) -> dict[str, bytes]:
    """Return a tokenizer.json with these added tokens behind the others."""
    added = [{"id": N_VOCAB + n, **token} for n, token in enumerate(tokens)]
    return tokenizer_json(added_tokens=added)
