"""The checkpoint that every engine's model is made from, read with NumPy alone.

It has Hugging Face's layout and float32 weights, as `random_checkpoints.py` writes it; a prefix
"transformer." of the names is taken off.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Weights:
    """config.json as attributes, and the tensors, mapped."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        if config["activation_function"] != "gelu_new":
            raise ValueError(f"{folder}: activation {config['activation_function']}, not gelu_new")
        self.n_layer: int = config["n_layer"]
        self.n_head: int = config["n_head"]
        self.n_embd: int = config["n_embd"]
        self.n_ctx: int = config["n_positions"]
        self.n_vocab: int = config["vocab_size"]
        self.epsilon: float = config["layer_norm_epsilon"]
        self._path = folder / "model.safetensors"
        with self._path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._tensors = {name.removeprefix("transformer."): facts for name, facts in header.items()}
        self._start = 8 + length

    def __getitem__(self, name: str) -> Floats:
        """Return a tensor by its name in the checkpoint, `h.0.attn.c_attn.weight` for example."""
        facts = self._tensors[name]
        if facts["dtype"] != "F32":
            raise ValueError(f"{self._path}: {name} is {facts['dtype']}, not F32")
        shape = tuple(facts["shape"])
        offset = self._start + facts["data_offsets"][0]
        return np.memmap(self._path, np.float32, "r", offset, shape)


@contextmanager
def finished(path: Path) -> Iterator[Path]:
    """Give a folder to write into; it is renamed to `path` at the end, or removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{path.name}-", dir=path.parent))
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
