"""Names of the Hub's models, and which of their files are needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import NEEDED, REPO

from gpt2fast.config import CheckpointError
from gpt2fast.hub import SHORT_NAMES, hub_id, needed


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        *SHORT_NAMES.items(),
        (REPO, REPO),
        ("a/b", "a/b"),
        ("Org_1/gpt2-v1.0", "Org_1/gpt2-v1.0"),
        ("gpt-2", None),
        ("tales", None),
        ("./models/x", None),
        ("../models/x", None),
        ("/models/x", None),
        ("~/models", None),
        ("a/b/c", None),
        ("a/b/", None),
        ("a//b", None),
        ("a\\b", None),
        ("C:/models", None),
        ("models/gpt2.gguf", None),
        ("models/gpt2.safetensors", None),
        ("run/ckpt.PT", None),
        ("a/b\n", None),
        ("a/..b", None),
        ("a/b--c", None),
        ("a/é", None),
        ("a/" + "b" * 97, None),
        ("", None),
        (Path("a/b"), None),
    ],
)
def test_what_can_be_a_name(source: object, expected: str | None) -> None:
    """Catches a mistyped path that is sent to the Hub, and a model of the Hub that is not."""
    assert hub_id(source) == expected


INDEXED = ["model.safetensors.index.json", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (NEEDED, NEEDED),
        ([*NEEDED, "pytorch_model.bin", "sub/model.safetensors", "rust_model.ot"], NEEDED),
        ([*NEEDED, "tokenizer.json"], [*NEEDED[:2], "tokenizer.json", *NEEDED[2:]]),
        (["config.json", *INDEXED], ["config.json", *INDEXED]),
        ([*NEEDED, *INDEXED], NEEDED),
        (["config.json", "pytorch_model.bin", *INDEXED[:2]], ["config.json", "pytorch_model.bin"]),
        (["README.md", "gpt2-q8_0.gguf", "q4/gpt2.gguf"], ["gpt2-q8_0.gguf"]),
        (["q4/gpt2.gguf"], "no weights that gpt2fast reads"),
        (["config.json", "tale-int8.safetensors"], ["tale-int8.safetensors"]),
        (["gpt2-q8_0.gguf", "gpt2-q4_0.gguf"], r"holds 2 models \(gpt2-q4_0.gguf, gpt2-q8"),
        (["model.safetensors"], "has model.safetensors, but no config.json"),
        (
            ["config.json", "tf_model.h5"],
            "no weights that gpt2fast reads .* it has config.json, tf",
        ),
        ([], "it has nothing"),
    ],
)
def test_what_is_needed(names: list[str], expected: list[str] | str) -> None:
    """Catches copies of the weights that are downloaded for nothing, and files that are missing."""
    if isinstance(expected, list):
        assert needed(REPO, names) == expected
    else:
        with pytest.raises(CheckpointError, match=expected):
            needed(REPO, names)
