"""nanoGPT's `ckpt.pt`: one file of torch.save with the weights, `model_args`, and the optimizer.

    model           transformer.wte.weight, ... ; after torch.compile with `_orig_mod.` in front.
                    The matrices of the blocks are nn.Linear's, [n_out, n_in]: the transpose of ours
    model_args      n_layer, n_head, n_embd, block_size, vocab_size, bias, dropout
    optimizer, config, iter_num, best_val_loss      not looked at; an optimizer's tensors not read

`bias` false leaves out every bias, of LayerNorms too: they are zeros here. The activation is not in
the file. It is the exact `gelu` (nn.GELU), except where model_args has no `bias`: such files are
older than that option, and nanoGPT computed `gelu_new` then. (It did for some months longer, which
no file tells.) An output head that is not the token table's own storage is one of its own.

nanoGPT keeps no tokenizer there; vocab.json and merges.txt, or tokenizer.json, are taken if they
are beside the file. A vocabulary padded to 50304 rows stays padded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import TOKENIZER_FILES, Checkpoint
from gpt2fast.checkpoints.layout import is_conv1d
from gpt2fast.checkpoints.torch_files import TorchFile
from gpt2fast.config import CheckpointError, Config, quote

_FILE = "ckpt.pt"
_SUFFIXES = (".pt", ".pth")
_WEIGHTS, _ARGUMENTS = "model", "model_args"
_SIZES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "n_ctx": "block_size",
    "n_vocab": "vocab_size",
}
_OPTIONS = {"bias", "dropout"}
_MASK = re.compile(r"h\.[0-9]+\.attn\.bias")
_TABLE, _HEAD = "wte.weight", "lm_head.weight"
_GPT2_VOCABULARIES = (50257, 50304)  # as it is, and padded to a multiple of 64
_END_OF_TEXT = 50256


class NanoGPTCheckpoint(Checkpoint):
    """A `ckpt.pt` of nanoGPT, given as file or as its directory, in float32, float16, bfloat16."""

    format = f"nanoGPT's {_FILE}, or another {' or '.join(_SUFFIXES)} file like it"

    def __init__(self, path: Path) -> None:
        directory, file = (path, path / _FILE) if path.is_dir() else (path.parent, path)
        self.name = directory.resolve().name.encode("utf-8", "replace").decode() or "model"
        self.digests = {}
        tokenizer = [directory / n for n in TOKENIZER_FILES if (directory / n).exists()]
        self.files = (file, *tokenizer)
        self.stamp()
        self.tokenizer_files = {source.name: self.read_small(source) for source in tokenizer}
        self._file = TorchFile(file, _WEIGHTS)
        try:
            self.digests[file.name] = self._file.digest
            self._stored = self._stored_names()
            arguments = self._file.content.get(_ARGUMENTS)
            tied = _HEAD not in self._stored or self._is_shared(_HEAD, _TABLE)
            self.config = _config(arguments, tied, file)
            self._zeros = {} if arguments.get("bias", True) else self._absent_biases()
        except BaseException:
            self.close()
            raise
        if tied:
            self._stored.pop(_HEAD, None)
        self.nbytes = sum(map(self._file.nbytes, self._stored.values()))

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Tell whether the path is such a file, or a directory that holds it."""
        if path.is_dir():
            return (path / _FILE).exists()
        return path.is_file() and path.suffix in _SUFFIXES

    def names(self) -> list[str]:
        """Return the tensors' Hugging Face names, with those of the biases that are zeros."""
        return [*self._stored, *self._zeros]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        if name in self._zeros:
            return self._zeros[name]
        shape = self._file.shape(self._stored[name])
        return shape[::-1] if is_conv1d(name) else shape

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32. Raises CheckpointError for a dtype that weights lack."""
        if name in self._zeros:
            return np.zeros(self._zeros[name], np.float32)
        values = self._file.read(self._stored[name], self.note_read)
        return np.ascontiguousarray(values.T) if is_conv1d(name) else values

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _stored_names(self) -> dict[str, str]:
        """Map Hugging Face's names to those of the file."""
        names: dict[str, str] = {}
        for stored in self._file.names():
            name = stored.removeprefix("_orig_mod.").removeprefix("transformer.")
            if _MASK.fullmatch(name):
                continue
            if name in names:
                raise CheckpointError(f"{self._file.path}: tensor {quote(name)} is stored twice")
            names[name] = stored
        return names

    def _absent_biases(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all biases. Raises CheckpointError if there is one after all."""
        shapes = self.config.tensor_shapes()
        biases = {name: shape for name, shape in shapes.items() if name.endswith(".bias")}
        if present := sorted(biases.keys() & self._stored.keys()):
            raise CheckpointError(
                f"{self._file.path}: tensor {present[0]} is there, but {_ARGUMENTS} says that bias "
                "is False"
            )
        return biases

    def _is_shared(self, name: str, other: str) -> bool:
        stored = self._stored
        return other in stored and self._file.same(stored[name], stored[other])


def _config(arguments: Any, tied: bool, path: Path) -> Config:
    if type(arguments) is not dict:
        raise CheckpointError(
            f"{path} has no dict {_ARGUMENTS}, as nanoGPT's {_FILE} has: without it the number of "
            "heads is unknown"
        )
    if unknown := sorted(map(quote, arguments.keys() - _SIZES.values() - _OPTIONS)):
        raise CheckpointError(
            f"{path}: {_ARGUMENTS} has {', '.join(unknown[:5])}, which nanoGPT's GPT-2 does not"
        )
    if missing := sorted(set(_SIZES.values()) - arguments.keys()):
        raise CheckpointError(f"{path}: {_ARGUMENTS} lacks {', '.join(missing)}")
    if type(arguments.get("bias", True)) is not bool:
        raise CheckpointError(
            f"{path}: {_ARGUMENTS}: bias is {quote(arguments['bias'])}, not True or False"
        )
    sizes = {name: arguments[own] for name, own in _SIZES.items()}
    n_embd, n_vocab = sizes["n_embd"], sizes["n_vocab"]
    try:
        return Config(
            **sizes,
            n_inner=4 * n_embd if type(n_embd) is int else n_embd,
            activation="gelu" if "bias" in arguments else "gelu_new",
            tie_word_embeddings=tied,
            eot=_END_OF_TEXT if n_vocab in _GPT2_VOCABULARIES else None,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {_ARGUMENTS}: {error}") from None
