"""Coverage-guided fuzzing of the reader of TensorFlow checkpoints, by atheris.

    python tests/fuzz/fuzz_tensorflow.py [options of libFuzzer, such as -max_total_time=300]

The first byte of an input says what the others are: an index, a data block (in a table with right
checksums and handles), several blocks, the entry or name of one tensor, the header, or one of the
small files. What is found becomes a case of tests/test_tensorflow_hostile.py or its neighbour.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

# A checksum has no branches worth finding, but one for each byte.
with atheris.instrument_imports(include=["gpt2fast"], exclude=["gpt2fast.checkpoints.crc32c"]):
    from gpt2fast.checkpoints.tensorflow import TensorflowCheckpoint
    from gpt2fast.config import CheckpointError

import tensorflow_files as files
from test_tensorflow_hostile import DATA, ENTRIES, HPARAMS, INDEX, ONE, TENSORS, wte

SECONDS = 1.0
BLOCK = files.block(ONE)
HALVES = b"|||".join(files.block(part) for part in (ONE[:7], ONE[7:]))
LATEST = b'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "m"\n'


def blocks(data: bytes) -> bytes:
    """Return a table of the blocks between bars."""
    return files.table(data.split(b"|||"))


def renamed(data: bytes) -> bytes:
    """Return an index in which one tensor has another name."""
    entries = {name.encode(): raw for name, raw in ENTRIES.items() if name != "model/wte"}
    entries[data] = ENTRIES["model/wte"]
    return files.table([files.block([(b"", files.header()), *sorted(entries.items())])])


INDEXES: dict[bytes, tuple[Callable[[bytes], bytes], bytes]] = {
    b"R": (bytes, INDEX),
    b"B": (lambda data: files.table([data]), BLOCK),
    b"M": (blocks, HALVES),
    b"E": (lambda data: files.index({**ENTRIES, "model/wte": data}), wte()),
    b"N": (renamed, b"model/wte"),
    b"H": (lambda data: files.index(ENTRIES, data), files.header()),
}
TEXTS = {
    b"C": ("checkpoint", LATEST),
    b"J": ("hparams.json", json.dumps(HPARAMS).encode()),
    b"D": ("model.ckpt.data-00000-of-00001", DATA),
}


class Target:
    """The directory that inputs are put into, and the test of one input."""

    def __init__(self, directory: Path) -> None:
        self._directory = files.write(directory, HPARAMS, TENSORS)
        self._sound = {path: path.read_bytes() for path in directory.iterdir()}
        self._changed = directory / "checkpoint"

    def __call__(self, data: bytes) -> None:
        kind, rest = data[:1], data[1:]
        if kind in TEXTS:
            path, content = self._directory / TEXTS[kind][0], rest
        elif kind in INDEXES:
            path, content = self._directory / "model.ckpt.index", INDEXES[kind][0](rest)
        else:
            return
        if path != self._changed:
            self._changed.write_bytes(self._sound[self._changed])
            self._changed = path
        path.write_bytes(content)
        started = time.process_time()
        message = self._read()
        assert message is None or str(self._directory) in message
        assert time.process_time() - started < SECONDS

    def _read(self) -> str | None:
        """Read every tensor; return the message of a CheckpointError."""
        try:
            with TensorflowCheckpoint(self._directory) as checkpoint:
                checkpoint.check_tensors()
                shapes = checkpoint.config.tensor_shapes()
                for name in checkpoint.names():
                    assert checkpoint.read(name).shape == shapes[name]
        except CheckpointError as error:
            return str(error)
        return None


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (corpus := folder / "corpus").mkdir()
        seeds = {kind: seed for kind, (_, seed) in (INDEXES | TEXTS).items()}
        for kind, seed in seeds.items():
            (corpus / kind.decode()).write_bytes(kind + seed)
        atheris.Setup([*sys.argv, str(corpus), "-max_len=3000"], Target(folder / "model"))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
