"""Hostile files beside a TensorFlow checkpoint's index: data, links, `checkpoint`, hparams.json,
tokenizer. Each must be a CheckpointError, within a second, that leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_files as files
from checkpoint_files import write_tokenizer
from test_tensorflow_hostile import DATA, ENTRIES, HPARAMS, TENSORS, directory, put_index, refused

import gpt2fast
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.config import CheckpointError

__all__ = ["directory"]
SHARD = "model.ckpt.data-00000-of-00001"


def test_wrong_checksum_of_a_tensor(directory: Path) -> None:
    """Catches a damaged weight that is converted, or a destination that is left half-written."""
    changed = bytearray(DATA)
    changed[len(DATA) // 2] ^= 1
    (directory / SHARD).write_bytes(changed)
    with refused(rf"{SHARD}: tensor 'model/.*' has a wrong checksum: the file is damaged"):
        gpt2fast.convert(directory, directory.parent / "out.safetensors")
    assert list(directory.parent.iterdir()) == [directory]


def test_every_byte_of_the_data_is_checked(directory: Path) -> None:
    """Catches a checksum that does not cover all of a tensor."""
    for place in range(0, len(DATA), 97):
        changed = bytearray(DATA)
        changed[place] ^= 0x80
        (directory / SHARD).write_bytes(changed)
        with refused("has a wrong checksum"), open_checkpoint(directory) as checkpoint:
            for name in checkpoint.names():
                checkpoint.read(name)


def test_data_missing(directory: Path) -> None:
    """Catches a data file that was not downloaded."""
    (directory / SHARD).unlink()
    with refused(rf"{SHARD} is missing: tensor 'model/.*' is in it"):
        open_checkpoint(directory)


def test_one_of_several_missing(tmp_path: Path) -> None:
    """Catches one data file of several that was not downloaded."""
    files.write(tmp_path, HPARAMS, TENSORS, shards=3)
    (tmp_path / "model.ckpt.data-00002-of-00003").unlink()
    with refused("data-00002-of-00003 is missing: tensor"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("size", [0, 1, len(DATA) - 1])
def test_data_truncated(size: int, directory: Path) -> None:
    """Catches a data file that ends early."""
    (directory / SHARD).write_bytes(DATA[:size])
    with refused(f"would end at [0-9]+, the file has {size} bytes: truncated"):
        open_checkpoint(directory)


def test_truncated_while_open(directory: Path) -> None:
    """Catches a data file that becomes shorter between opening and reading."""
    with open_checkpoint(directory) as checkpoint:
        os.truncate(directory / SHARD, len(DATA) - 4)
        with refused("'model/wte': the file was truncated while it was read"):
            checkpoint.read("wte.weight")


@pytest.mark.parametrize("name", [SHARD, "model.ckpt.index", "hparams.json", "checkpoint"])
@pytest.mark.parametrize("kind", ["device", "pipe", "loop", "directory"])
def test_not_a_regular_file(name: str, kind: str, directory: Path) -> None:
    """Catches a reader that hangs on a pipe or device, or fails otherwise on a link to itself."""
    (directory / name).unlink()
    if kind == "device":
        (directory / name).symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(directory / name)
    elif kind == "loop":
        (directory / name).symlink_to(name)
    else:
        (directory / name).mkdir()
    if name == "checkpoint":  # one index: the file is not needed
        open_checkpoint(directory).close()
        return
    with refused("is not a regular file|is missing|is not beside it"):
        open_checkpoint(directory)


def test_links_are_followed(directory: Path) -> None:
    """Catches a cache of links, as the Hub's, that is refused."""
    store = directory.parent / "store"
    store.mkdir()
    for path in list(directory.iterdir()):
        path.rename(store / path.name)
        path.symlink_to(store / path.name)
    with open_checkpoint(directory) as checkpoint:
        assert np.array_equal(checkpoint.read("wte.weight"), TENSORS["model/wte"])


LATEST: dict[str, tuple[bytes, str]] = {
    "outside": (b'model_checkpoint_path: "../secret/m"', "names 'm', but 'm.index' is not beside"),
    "absolute": (b'model_checkpoint_path: "/etc/passwd"', "names 'passwd', but"),
    "device": (b'model_checkpoint_path: "/dev/zero"', "names 'zero', but"),
    "nothing": (b"", "no line model_checkpoint_path"),
    "binary": (np.random.default_rng(0).bytes(1000), "no line model_checkpoint_path"),
    "open quote": (b'model_checkpoint_path: "model', "no line model_checkpoint_path"),
    "newlines": (b"\n" * (1 << 20), "no line model_checkpoint_path"),
    "spaces": (b" " * (1 << 20), "no line model_checkpoint_path"),
    "long": (b'model_checkpoint_path: "' + b"a" * 500_000 + b'"', "no name of a checkpoint"),
    "escapes": (b'model_checkpoint_path: "' + b"\\" * 500_001 + b'"', "no line|no name"),
    "bell": (b'model_checkpoint_path: "a\\007"', "no name of a checkpoint"),
    "big": (b" " * ((1 << 20) + 1), "more than 1048576 bytes"),
}


@pytest.mark.parametrize("case", LATEST)
def test_hostile_latest(case: str, directory: Path) -> None:
    """Catches a file `checkpoint` that leads out of the directory or takes long."""
    secret = directory.parent / "secret"
    files.write(secret, HPARAMS, TENSORS, prefix="m")
    content, message = LATEST[case]
    (directory / "checkpoint").write_bytes(content)
    with refused(rf"checkpoint.*{message}"):
        open_checkpoint(directory)


SETTINGS: dict[str, tuple[Any, str]] = {
    "empty": (b"", "is not valid JSON"),
    "binary": (b"\xff\xfe", "is not UTF-8"),
    "list": ([], "must hold a JSON object"),
    "depth": (b"[" * 100_000, "is not valid JSON: nested too deeply"),
    "twice": (b'{"n_vocab": 40, "n_vocab": 41}', "'n_vocab' appears twice"),
    "big": (b" " * ((1 << 20) + 1), "more than 1048576 bytes"),
    "no n_vocab": ({}, "n_vocab is missing"),
    "null": ({"n_vocab": None}, "n_vocab must be an integer from 1"),
    "text": ({"n_vocab": 40, "n_head": "2"}, "n_head must be an integer from 1 .*got '2'"),
    "true": ({"n_vocab": 40, "n_embd": True}, "n_embd must be an integer"),
    "float": ({"n_vocab": 40.0}, "n_vocab must be an integer"),
    "list of": ({"n_vocab": 40, "n_embd": [8]}, "n_embd must be an integer"),
    "zero": ({"n_vocab": 40, "n_layer": 0}, "n_layer must be an integer from 1 to 4096, got 0"),
    "negative": ({"n_vocab": 40, "n_ctx": -1}, "n_ctx must be an integer"),
    "huge": ({"n_vocab": 1e400}, "n_vocab must be an integer"),
    "digits": (b'{"n_vocab": 1' + b"0" * 5000 + b"}", "is not valid JSON"),
    "layers": ({**HPARAMS, "n_layer": 4096}, "49140 missing tensors"),
    "heads": ({**HPARAMS, "n_head": 3}, "n_embd must be a multiple of n_head"),
    "context": ({**HPARAMS, "n_ctx": 8}, r"tensor wpe.weight has shape \[7, 8\]"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_hostile_hparams(case: str, directory: Path) -> None:
    """Catches sizes that are believed, and JSON that crashes or stalls the reader."""
    content, message = SETTINGS[case]
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (directory / "hparams.json").write_bytes(raw)
    where = r"hparams\.json" if "tensor" not in message else "model"
    with refused(rf"{where}.*{message}"):
        open_checkpoint(directory)


def test_no_hparams(directory: Path) -> None:
    """Catches an error that does not say where hparams.json is to be had."""
    (directory / "hparams.json").unlink()
    with refused("is missing: copy hparams.json, encoder.json and vocab.bpe from the model that"):
        open_checkpoint(directory)


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe"])
def test_half_a_tokenizer(name: str, directory: Path) -> None:
    """Catches a model that loads without its tokenizer because one of the two files is missing."""
    (directory / name).write_bytes(b"")
    other = {"encoder.json": "vocab.bpe", "vocab.bpe": "encoder.json"}[name]
    with refused(f"{other} is missing: encoder.json and vocab.bpe go together"):
        open_checkpoint(directory)


TOKENIZERS: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "vocabulary": (b"[]", None, "encoder.json: .* where token: id was expected"),
    "ids": (b'{"a": -1}', None, "encoder.json: token 'a' has id -1"),
    "JSON": (b"{", None, "encoder.json is not valid JSON"),
    "merge": (None, b"#version: 0.2\na b c\n", "vocab.bpe: line 2 is 'a b c', not two tokens"),
    "UTF-8": (None, b"#version: 0.2\n\xff\n", "vocab.bpe is not UTF-8"),
    "unknown": (None, b"#version: 0.2\nzzz zzz\n", "vocab.bpe"),
    "too many": (None, None, "257 tokens, wte.weight only 40 rows"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_hostile_tokenizer(case: str, directory: Path) -> None:
    """Catches a tokenizer that does not fit, and an error that names files that are not there."""
    encoder, merges, message = TOKENIZERS[case]
    write_tokenizer(directory)
    (directory / "vocab.json").rename(directory / "encoder.json")
    (directory / "merges.txt").rename(directory / "vocab.bpe")
    if encoder is not None:
        (directory / "encoder.json").write_bytes(encoder)
    if merges is not None:
        (directory / "vocab.bpe").write_bytes(merges)
    with refused(message):
        gpt2fast.load(directory)


def test_not_finite(directory: Path) -> None:
    """Catches NaN weights that are packed."""
    tensors = {**TENSORS, "model/ln_f/b": np.full(8, np.nan, np.float32)}
    files.write(directory, HPARAMS, tensors)
    with refused("tensor ln_f.bias: 8 NaN and 0 infinite of 8 weights"):
        gpt2fast.load(directory)


def test_many_tensors_of_an_optimizer(directory: Path) -> None:
    """Catches a time that grows faster than the number of tensors."""
    entries = {f"model/wte/Adam_{n:05}": ENTRIES["model/wte"] for n in range(49_000)}
    put_index(directory, files.index({**ENTRIES, **entries}))
    started = time.process_time()
    open_checkpoint(directory).close()
    assert time.process_time() - started < 1


def test_changed_while_read(directory: Path) -> None:
    """Catches weights of two checkpoints in one model."""
    with open_checkpoint(directory) as checkpoint:
        os.utime(directory / SHARD, (1, 1))
        with pytest.raises(CheckpointError, match="changed while it was read"):
            checkpoint.check_unchanged()
