"""One small sound file of torch.save in both formats; the check that hostile ones are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch_save_files import legacy_file, pickled, storage, tensor, zip_file, zip_records

from gpt2fast.checkpoints.torch_files import TorchFile
from gpt2fast.config import CheckpointError

NUMBERS = np.arange(12, dtype=np.float32).tobytes()
ONE = {"x": tensor(storage("0", 12), 0, (12,), (1,))}
ONE_LEGACY = {"x": tensor(storage("0", 12, legacy=True), 0, (12,), (1,))}


def as_zip(content: bytes, data: bytes = NUMBERS) -> bytes:
    """Return an archive with this pickle and one storage."""
    return zip_file(zip_records(content, {"0": data}))


def as_legacy(content: bytes) -> bytes:
    """Return a file of the old format with this pickle and one storage."""
    return legacy_file(content, {"0": NUMBERS}, {"0": 12})


SOUND = as_zip(pickled(ONE))
SOUND_LEGACY = as_legacy(pickled(ONE_LEGACY))
CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": as_zip,
    "legacy": as_legacy,
    "bare": lambda content: content,
}


def read_all(path: Path) -> None:
    """Open a file and read every tensor."""
    file = TorchFile(path)
    try:
        for name in file.names():
            file.read(name)
    finally:
        file.close()


def refused(directory: Path, content: bytes, message: str = ".") -> str:
    """Open a file that must be refused, at the latest when it is read, and return what was said.

    The second that it may take is one of this process, whatever else the machine does.
    """
    path = directory / "pytorch_model.bin"
    path.write_bytes(content)
    before = sorted(directory.iterdir())
    start = time.process_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        read_all(path)
    assert time.process_time() - start < 1
    assert sorted(directory.iterdir()) == before
    found = str(caught.value)
    assert str(path) in found and len(found) < len(str(path)) + 700
    return found
