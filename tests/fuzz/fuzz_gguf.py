"""Coverage-guided fuzzing of the GGUF reader, by atheris.

    python tests/fuzz/fuzz_gguf.py [options of libFuzzer, such as -max_total_time=300]

An input is the bytes of a file, or (if it begins with "S") the changes to a sound one: so that
counts, lengths, types and offsets meet values of their own size. What is found becomes a case of
tests/test_gguf_hostile.py.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["gpt2fast"]):
    from gpt2fast.checkpoints.gguf import GGUFCheckpoint
    from gpt2fast.config import CheckpointError
    from gpt2fast.tokenizer import Tokenizer

from gguf_files import BLOCKS, GGUFFile, Raw, Tensor, encoded, small_file, stored_shapes

SEEDS = [0, 1, 2, 8]  # types of the matrices
SPECIAL = [0, 1, 2, 3, 31, 32, 255, 256, 1 << 31, (1 << 32) - 1, 1 << 61, 1 << 63, (1 << 64) - 1]
SECONDS = 1.0
MAX_LENGTH = 20_000


@cache
def seed(kind: int, *, tokenizer: bool) -> GGUFFile:
    """Return a small sound file whose matrices have one type; it is shared: copy it."""
    n_rows = 260 if tokenizer else 3
    file = small_file(tokenizer=tokenizer)
    n_weights, n_bytes = BLOCKS[kind]
    for name, sizes in stored_shapes(n_rows=n_rows).items():
        if len(sizes) == 2:
            content = bytes(sizes[0] * sizes[1] // n_weights * n_bytes)
            file.tensors[name] = Tensor(sizes, kind, content)
    return file


def number(provider: atheris.FuzzedDataProvider, size: int) -> int:
    """Return an unsigned integer of `size` bytes, often one at an edge."""
    limit = (1 << 8 * size) - 1
    if provider.ConsumeBool():
        return int(provider.PickValueInList(SPECIAL)) & limit
    return int(provider.ConsumeIntInRange(0, limit))


def changed(data: bytes) -> bytes:
    """Return a sound file with the changes that the data ask for."""
    provider = atheris.FuzzedDataProvider(data)
    sound = seed(provider.PickValueInList(SEEDS), tokenizer=provider.ConsumeBool())
    file = GGUFFile(dict(sound.metadata), dict(sound.tensors))
    for _ in range(provider.ConsumeIntInRange(1, 4)):
        what = provider.ConsumeIntInRange(0, 6)
        key = provider.PickValueInList(list(file.metadata))
        name = provider.PickValueInList(list(file.tensors))
        old = file.tensors[name]
        if what == 0:
            file.metadata[key] = Raw(number(provider, 4) % 16, provider.ConsumeBytes(24))
        elif what == 1:  # some bytes of a value, so that the rest of an array stays
            raw = encoded(file.metadata[key])
            at = provider.ConsumeIntInRange(0, max(0, len(raw.content) - 1))
            piece = struct.pack("<Q", number(provider, 8))[: provider.ConsumeIntInRange(1, 8)]
            content = raw.content[:at] + piece + raw.content[at + len(piece) :]
            file.metadata[key] = Raw(raw.kind, content)
        elif what == 2:
            del file.metadata[key]
        elif what == 3:
            sizes = tuple(number(provider, 8) for _ in range(provider.ConsumeIntInRange(0, 5)))
            file.tensors[name] = Tensor(sizes, old.kind, old.content)
        elif what == 4:
            file.tensors[name] = Tensor(old.sizes, number(provider, 4), old.content)
        elif what == 5:
            file.tensors[name] = Tensor(old.sizes, old.kind, old.content, number(provider, 8))
        else:
            file.n_entries, file.n_tensors = number(provider, 8), number(provider, 8)
    return file.bytes()


def read_all(path: Path) -> None:
    """Read every tensor and the tokenizer: a CheckpointError, or what the configuration says."""
    with GGUFCheckpoint(path) as checkpoint:
        shapes = checkpoint.config.tensor_shapes()
        assert checkpoint.nbytes <= path.stat().st_size
        for name in checkpoint.names():
            found = checkpoint.read(name)
            assert found.shape == shapes.get(name, shapes["wte.weight"])
        files = checkpoint.tokenizer_files
        if files:
            try:
                Tokenizer.from_files(files)
            except ValueError:
                return  # packing makes a CheckpointError of it


class Target:
    """The file that inputs are written to, and the test of one input."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input.gguf"

    def __call__(self, data: bytes) -> None:
        self._path.write_bytes(changed(data[1:]) if data.startswith(b"S") else data)
        started = time.process_time()
        try:
            read_all(self._path)
        except CheckpointError as error:
            if str(self._path) not in str(error):
                raise AssertionError("the message does not name the file") from error
        assert time.process_time() - started < SECONDS


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for kind in SEEDS:
            (corpus / f"changes-{kind}").write_bytes(b"S" + bytes([kind] * 64))
            for tokenizer in (False, True):
                content = seed(kind, tokenizer=tokenizer).bytes()
                if len(content) < MAX_LENGTH:
                    (corpus / f"file-{kind}-{tokenizer}").write_bytes(content)
        atheris.Setup([*sys.argv, str(corpus), f"-max_len={MAX_LENGTH}"], Target(folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
