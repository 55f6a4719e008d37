"""Coverage-guided fuzzing of packed files, by atheris: opening, verifying and using them.

    python tests/fuzz/fuzz_packed.py [options of libFuzzer, such as -max_total_time=300]

An input is a safetensors file, or (if it begins with "S") the changes to a sound packed file: its
metadata, its entries and its data. What is found becomes a case of tests/test_packed_hostile.py.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["gpt2fast"]):
    from gpt2fast import _core
    from gpt2fast.checkpoints.content import check_content
    from gpt2fast.checkpoints.packed import PackedModel, open_packed
    from gpt2fast.config import CheckpointError
    from gpt2fast.tokenizer import Tokenizer

import numpy as np
from packed_files import FIXTURES, put_together, take_apart

assert check_content is not None  # imported here so that it is instrumented

NAMES = ["v1-float32.safetensors", "v1-float16.safetensors", "v1-int8.safetensors"]
NUMBERS = [0, 1, 2, 3, 63, 64, 65, 1 << 16, 1 << 24, 1 << 31, 1 << 53, 1 << 63, 1 << 64, -1]
SECONDS = 1.0
MAX_LENGTH = 4096


@cache
def seed(name: str) -> tuple[str, bytes]:
    """Return header, as JSON, and data of a sound file."""
    header, data = take_apart(FIXTURES / name)
    return json.dumps(header), bytes(data)


def value(provider: atheris.FuzzedDataProvider) -> Any:
    """Return something that JSON can hold."""
    match provider.ConsumeIntInRange(0, 6):
        case 0 | 1 | 2:
            return int(provider.PickValueInList(NUMBERS))
        case 3:
            return provider.ConsumeUnicodeNoSurrogates(12)
        case 4:
            return [value(provider) for _ in range(provider.ConsumeIntInRange(0, 3))]
        case 5:
            return provider.ConsumeFloat()
        case _:
            return provider.PickValueInList([None, True, False, {}, "", "int8", "F32", "1.1"])


def change(provider: atheris.FuzzedDataProvider, header: dict[str, Any], data: bytearray) -> None:
    """Make one change to a header, or to the data."""
    metadata = header["__metadata__"]
    names = [name for name in header if name != "__metadata__"]
    name = provider.PickValueInList(names)
    match provider.ConsumeIntInRange(0, 6):
        case 0:
            metadata[provider.PickValueInList(list(metadata))] = value(provider)
        case 1:
            key = provider.PickValueInList(["config", "shapes", "receipt"])
            try:
                content = json.loads(metadata[key])
                content[provider.PickValueInList(list(content))] = value(provider)
            except (TypeError, ValueError, IndexError):
                return  # changed before
            metadata[key] = json.dumps(content)
        case 2:
            header[name][provider.PickValueInList(["dtype", "shape", "data_offsets"])] = value(
                provider
            )
        case 3:
            header[provider.ConsumeUnicodeNoSurrogates(12)] = header.pop(name)
        case 4:
            at = provider.ConsumeIntInRange(0, len(data) - 1)
            piece = provider.ConsumeBytes(16)
            data[at : at + len(piece)] = piece
        case 5:
            del data[len(data) - provider.ConsumeIntInRange(0, 200) :]
        case _:
            header[f"extra.{provider.ConsumeUnicodeNoSurrogates(3)}"] = {
                "dtype": "U8",
                "shape": [provider.ConsumeIntInRange(0, 9)],
                "data_offsets": [len(data), len(data) + provider.ConsumeIntInRange(0, 9)],
            }


def changed(raw: bytes, path: Path) -> None:
    """Write a sound file with the changes that the data ask for."""
    provider = atheris.FuzzedDataProvider(raw)
    text, sound = seed(provider.PickValueInList(NAMES))
    header, data = json.loads(text), bytearray(sound)
    for _ in range(provider.ConsumeIntInRange(1, 3)):
        if len(header) < 2 or not data or not isinstance(header.get("__metadata__"), dict):
            break
        change(provider, header, data)
    forged = provider.ConsumeBool() and isinstance(header.get("__metadata__"), dict)
    put_together(path, header, data, forged=forged)
    if forged:
        assert header["__metadata__"]["fingerprint"] == hashlib.sha256(data).hexdigest()


def use(model: PackedModel) -> None:
    """Predict with a model, and read its tokenizer."""
    core = _core.Model(model.config.to_dict(), model.dtype, model.tensors)
    tokens = np.arange(min(3, model.config.n_vocab, model.config.n_ctx), dtype=np.int32)
    try:
        [logits] = core.forward([_core.Cache(core)], [tokens], [1])
        assert logits.shape == (1, model.config.n_vocab)
    except FloatingPointError:
        pass
    if model.tokenizer_table is not None:
        try:
            tokenizer = Tokenizer.from_table(model.tokenizer_table)
        except ValueError:
            return
        ids = tokenizer.encode("some text <|endoftext|>", allowed_special="all")
        assert all(0 <= token < tokenizer.n_vocab for token in ids)
        tokenizer.decode(ids)


class Target:
    """The file that inputs are written to, and the test of one input."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input.safetensors"

    def __call__(self, data: bytes) -> None:
        if data.startswith(b"S"):
            changed(data[1:], self._path)
        else:
            self._path.write_bytes(data)
        started = time.process_time()
        for verify in (False, True):
            try:
                use(open_packed(self._path, verify=verify, mmap=verify))
            except CheckpointError as error:
                if str(self._path) not in str(error):
                    raise AssertionError("the message does not name the file") from error
        assert time.process_time() - started < SECONDS


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for i in range(32):
            (corpus / f"changes-{i}").write_bytes(b"S" + bytes([i * 8] * 64))
        (corpus / "header").write_bytes((2).to_bytes(8, "little") + b"{}")
        atheris.Setup([*sys.argv, str(corpus), f"-max_len={MAX_LENGTH}"], Target(folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
