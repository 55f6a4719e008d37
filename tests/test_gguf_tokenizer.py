"""The tokenizer in a GGUF file's metadata: catches a token, a type or a merge that is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import byte_level_vocabulary, write_tokenizer
from gguf_files import N_ROWS, integers, small_file, strings, tokenizer_metadata

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.conversion.packing import pack
from gpt2fast.tokenizer import Tokenizer

TEXTS = ["", "Hello, world", " \n\t caf\u00e9 \u4e2d\u6587 \U0001f600", "a<|endoftext|>b", '!!"! 9']


def test_tokenizer(tmp_path: Path) -> None:
    """Catches a token, a merge or the end of text that the metadata hold and we lose."""
    write_tokenizer(tmp_path, N_ROWS)
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    expected = Tokenizer.from_files(files)
    with open_checkpoint(small_file().write(tmp_path / "m.gguf")) as checkpoint:
        found = Tokenizer.from_files(checkpoint.tokenizer_files)
        assert pack(checkpoint).config.eot == N_ROWS - 1
    assert (found.n_vocab, found.eot) == (expected.n_vocab, expected.eot)
    assert found.special_tokens == expected.special_tokens
    for text in TEXTS:
        for allowed in (frozenset[str](), "all"):
            ids = expected.encode(text, allowed_special=allowed)
            assert found.encode(text, allowed_special=allowed) == ids
            assert found.decode(ids) == text
    assert found.encode('"!') != expected.encode('"') + expected.encode("!")  # a merge is used


def retyped(changes: dict[int, tuple[str, int]], **rest: Any) -> dict[str, Any]:
    """Return the metadata of a vocabulary with other names and types for some tokens."""
    tokens, _ = byte_level_vocabulary(257)
    tokens += [f"[PAD{i}]" for i in range(257, N_ROWS)]
    types = [1] * 256 + [3] + [5] * (N_ROWS - 257)
    for index, (token, kind) in changes.items():
        tokens[index], types[index] = token, kind
    merges = {"tokenizer.ggml.merges": strings([])}
    lists = {
        "tokenizer.ggml.tokens": strings(tokens),
        "tokenizer.ggml.token_type": integers(types),
    }
    return tokenizer_metadata() | merges | lists | {"tokenizer.ggml.eos_token_id": 256} | rest


def tokenizer_of(metadata: dict[str, Any], tmp_path: Path) -> Tokenizer:
    with open_checkpoint(small_file(metadata).write(tmp_path / "m.gguf")) as checkpoint:
        pack(checkpoint)
        return Tokenizer.from_files(checkpoint.tokenizer_files)


def test_added_tokens(tmp_path: Path) -> None:
    """Catches types of tokens mixed up: found in any text, only where allowed, or never."""
    changes = {257: ("<caf\u00e9 1>", 4), 259: ("<pad>", 3)}
    tokenizer = tokenizer_of(retyped(changes), tmp_path)
    assert tokenizer.n_vocab == N_ROWS
    assert tokenizer.special_tokens == {"<|endoftext|>": 256, "[PAD258]": 258, "<pad>": 259}
    assert 257 in tokenizer.encode("x<caf\u00e9 1>y") and 259 not in tokenizer.encode("x<pad>")
    assert tokenizer.encode("<pad>", allowed_special="all") == [259]
    assert tokenizer.decode([257, 259]) == "<caf\u00e9 1><pad>"


def test_unused_tokens_at_the_end_are_none(tmp_path: Path) -> None:
    """Catches the padding of a token table taken for tokens."""
    assert tokenizer_of(retyped({}), tmp_path).n_vocab == 257


@pytest.mark.parametrize(
    ("changes", "config_eot", "tokenizer_eot"),
    [
        ({"tokenizer.ggml.eos_token_id": None}, 256, 256),
        ({"tokenizer.ggml.eos_token_id": 0xFFFFFFFF}, None, 256),
        ({"tokenizer.ggml.eos_token_id": 65}, 65, 256),
        (retyped({256: ("<end>", 3)}), 256, 256),
        (retyped({256: ("<end>", 1)}, **{"tokenizer.ggml.eos_token_id": 3}), 3, 3),
        ({"tokenizer.ggml.token_type": None, "tokenizer.ggml.eos_token_id": None}, 256, 256),
    ],
    ids=["absent", "none", "another", "another name", "a normal token", "no types"],
)
def test_end_of_text(
    changes: dict[str, Any], config_eot: int | None, tokenizer_eot: int, tmp_path: Path
) -> None:
    """Catches a text that does not end, or ends at another token than the file says."""
    file = small_file(retyped({}) | changes)
    with open_checkpoint(file.write(tmp_path / "m.gguf")) as checkpoint:
        assert checkpoint.config.eot == config_eot
        tokenizer = Tokenizer.from_files(checkpoint.tokenizer_files)
    assert tokenizer.eot == tokenizer_eot
    named = tokenizer.decode([256]) == "<|endoftext|>"
    assert ("<|endoftext|>" in tokenizer.special_tokens) == named


def test_without_tokenizer(tmp_path: Path) -> None:
    """Catches a file without vocabulary refused: token ids work."""
    for changes in ({}, {"tokenizer.ggml.model": "none"}):
        path = small_file(changes, tokenizer=False).write(tmp_path / "m.gguf")
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.tokenizer_files == {} and checkpoint.config.eot is None
            pack(checkpoint)
