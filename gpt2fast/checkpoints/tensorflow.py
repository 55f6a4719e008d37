"""OpenAI's own checkpoints, as released and as gpt-2-simple and its kin leave them, read without
TensorFlow.

    hparams.json, encoder.json, vocab.bpe           configuration and tokenizer
    checkpoint                                      text: which of the checkpoints is the latest
    model.ckpt.index, model.ckpt.data-*             the weights (tensor_bundle.py); after
    model-1000.index, model-1000.data-*             fine-tuning the name holds the step

OpenAI's `model/h0/attn/c_attn/w`, [1, n_in, n_out], is Hugging Face's `h.0.attn.c_attn.weight`,
[n_in, n_out]. What an optimizer keeps (`model/wte/Adam`, `beta1_power`, ...) is left out; any other
tensor of the scope `model/` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import Checkpoint
from gpt2fast.checkpoints.tensor_bundle import TensorBundle
from gpt2fast.config import CheckpointError, Config, parse_json, quote

_HPARAMS = "hparams.json"
_LATEST = "checkpoint"
_INDEX = ".index"
_TOKENIZER = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}
_MAX_NAME = 200  # bytes; systems allow 255, with `.data-00000-of-00001`
_MAX_TEXT = 1 << 20
_MAX_TOKENIZER = 64 << 20
_SCOPE = "model/"
_DEEPEST = 5  # parts of model/h0/attn/c_attn/w

# What OpenAI's code takes where hparams.json is silent; n_vocab has no default there.
_DEFAULTS = {"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
_END_OF_TEXT = re.compile(rb'"<\|endoftext\|>"\s*:\s*([0-9]{1,8})\b')
_LATEST_PATH = re.compile(
    rb'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*(["\'])((?:[^\\\n]|\\.)*?)\1', re.M
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)")


class TensorflowCheckpoint(Checkpoint):
    """A directory as OpenAI's download or gpt-2-simple leaves it: float, half or bfloat16."""

    format = f"a directory of OpenAI's TensorFlow code ({_HPARAMS}, model.ckpt{_INDEX}, ...)"
    original_names = _TOKENIZER

    def __init__(self, path: Path) -> None:
        directory = path if path.is_dir() else path.parent
        self.name = directory.resolve().name.encode("utf-8", "replace").decode() or "model"
        self.digests = {}
        hparams, latest = directory / _HPARAMS, directory / _LATEST
        if not hparams.exists():
            raise CheckpointError(
                f"{hparams} is missing: copy {_HPARAMS}, {' and '.join(_TOKENIZER.values())} from "
                "the model that was fine-tuned"
            )
        tokenizer = _tokenizer_paths(directory)
        sources = [hparams, *tokenizer.values()]
        if path.is_dir() or not path.name.endswith(_INDEX):
            index = self._latest_index(directory, latest)
            sources += [latest] if latest.is_file() else []
        else:
            index = path
        self.files = (*sources, index)
        self.stamp()
        self.tokenizer_files = {
            name: self.read_small(file, _MAX_TOKENIZER) for name, file in tokenizer.items()
        }
        vocab = self.tokenizer_files.get("vocab.json")
        self.config = _config(self.read_small(hparams, _MAX_TEXT), hparams, vocab)
        self._bundle = TensorBundle(index)
        self.digests[index.name] = self._bundle.digest
        self._stored = _stored_names(self.config, self._bundle.names, index)
        self._bundle.select(self._stored.values())
        self.nbytes = sum(entry.size for entry in self._bundle.entries.values())
        self._open()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Tell whether the path is such a directory, its file `checkpoint`, or an index in it."""
        if path.is_dir():
            return bool(_indexes(path)) or all((path / n).is_file() for n in (_LATEST, _HPARAMS))
        return path.is_file() and (path.name == _LATEST or path.name.endswith(_INDEX))

    def names(self) -> list[str]:
        """Return the weights' names, what an optimizer stored left out."""
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return _plain(self._bundle.entries[self._stored[name]].shape)

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32. Raises CheckpointError if its checksum is wrong."""
        values = self._bundle.read(self._stored[name], self.note_read)
        return values.reshape(_plain(values.shape))

    def close(self) -> None:
        """Close the data files."""
        self._bundle.close()

    def _open(self) -> None:
        self.check_unchanged()
        self.files += self._bundle.files
        try:
            self.stamp()
            self._bundle.open()
        except BaseException:
            self.close()
            raise

    def _latest_index(self, directory: Path, latest: Path) -> Path:
        """Return the index that the file `checkpoint` names, else the only one of the directory."""
        indexes = _indexes(directory)
        if latest.is_file():
            name = _latest_name(self.read_small(latest, _MAX_TEXT), latest)
            if (index := directory / (name + _INDEX)).exists():
                return index
            raise CheckpointError(
                f"{latest} names {quote(name)}, but {quote(index.name)} is not beside it; "
                f"{_listed(indexes)}"
            )
        if len(indexes) != 1:
            raise CheckpointError(f"{latest} is missing, which says the latest; {_listed(indexes)}")
        return directory / indexes[0]


def _indexes(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.glob("*" + _INDEX))


def _listed(indexes: list[str]) -> str:
    if not indexes:
        return f"the directory has no {_INDEX} file"
    shown = ", ".join(map(quote, indexes[:5])) + (", ..." if len(indexes) > 5 else "")
    return f"give the path of the {_INDEX} file that you mean: {shown}"


def _latest_name(content: bytes, path: Path) -> str:
    """Return the last component of model_checkpoint_path.

    The path is that of the machine that trained, often absolute; its files are beside it, and
    nothing outside this directory is opened.
    """
    match = _LATEST_PATH.search(content)
    if match is None:
        raise CheckpointError(f'{path} has no line model_checkpoint_path: "..."')
    last = re.split(rb"[/\\]", _ESCAPE.sub(_unescaped, match[2]))[-1]
    name = last.decode("utf-8", "replace")
    if not name.isprintable() or not 0 < len(last) <= _MAX_NAME:
        raise CheckpointError(f"{path} names {quote(match[2])}, which is no name of a checkpoint")
    return name


def _unescaped(match: re.Match[bytes]) -> bytes:
    """Decode an escape of a text protocol buffer: bytes that are not ASCII are octal there."""
    return bytes([int(match[1], 8) & 0xFF]) if match[1][:1].isdigit() else match[1]


def _tokenizer_paths(directory: Path) -> dict[str, Path]:
    """Map Hugging Face's names of the tokenizer's files to the files; none if none is there."""
    paths = {name: directory / own for name, own in _TOKENIZER.items()}
    missing = [path for path in paths.values() if not path.exists()]
    if len(missing) == 1:
        raise CheckpointError(
            f"{missing[0]} is missing: {' and '.join(_TOKENIZER.values())} go together"
        )
    return {} if missing else paths


def _config(content: bytes, path: Path, vocab: bytes | None) -> Config:
    hparams = parse_json(content, str(path))
    if not isinstance(hparams, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    if "n_vocab" not in hparams:
        raise CheckpointError(f"{path}: n_vocab is missing")
    sizes: dict[str, Any] = {
        name: hparams.get(name, _DEFAULTS.get(name)) for name in (*_DEFAULTS, "n_vocab")
    }
    n_embd, n_vocab = sizes["n_embd"], sizes["n_vocab"]
    inner = 4 * n_embd if isinstance(n_embd, int) else n_embd
    eot = 50256
    if vocab is not None:
        found = _END_OF_TEXT.search(vocab)
        eot = int(found[1]) if found else -1
    known = isinstance(n_vocab, int) and 0 <= eot < n_vocab
    try:
        return Config(**sizes, n_inner=inner, eot=eot if known else None)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _openai_name(name: str) -> str:
    """Return OpenAI's name of a tensor: `model/h0/ln_1/g` of `h.0.ln_1.weight`."""
    path = re.sub(r"^h\.([0-9]+)\.", r"h\1.", name).replace(".", "/")
    if path in ("wte/weight", "wpe/weight"):
        return _SCOPE + path.removesuffix("/weight")
    module, _, kind = path.rpartition("/")
    weight = "g" if module.rpartition("/")[2].startswith("ln_") else "w"
    return f"{_SCOPE}{module}/{weight if kind == 'weight' else 'b'}"


def _stored_names(config: Config, stored: Iterable[str], index: Path) -> dict[str, str]:
    """Map the names of the tensors that are there to OpenAI's.

    What lies below a weight's name, as `model/wte/Adam`, belongs to an optimizer.
    """
    names = {_openai_name(name): name for name in config.tensor_shapes()}
    present = set(stored)
    found = {name: own for own, name in names.items() if own in present}
    if not found:
        raise CheckpointError(
            f"{index} has no weights under OpenAI's names (model/wte, model/h0/attn/c_attn/w, "
            f"...); its {len(present)} tensors: {_first(present) or 'none'}"
        )
    unknown = [name for name in present - names.keys() if name.startswith(_SCOPE)]
    if unknown := [name for name in unknown if not any(map(names.__contains__, _above(name)))]:
        raise CheckpointError(
            f"{index} has {len(unknown)} unknown tensor{'s' if len(unknown) > 1 else ''}: "
            f"{_first(unknown)}; a GPT-2 of {config.n_layer} layers has none"
        )
    return found


def _above(name: str) -> Iterator[str]:
    """Yield the names that a name lies below, as far as a weight's can go."""
    parts = name.split("/", _DEEPEST)
    return ("/".join(parts[:n]) for n in range(1, len(parts)))


def _first(names: Collection[str]) -> str:
    return ", ".join(map(quote, sorted(names)[:3])) + (", ..." if len(names) > 3 else "")


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop the leading 1 of OpenAI's convolution weights."""
    return shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
