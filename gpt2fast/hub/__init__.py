"""Models of the Hugging Face Hub: their names, which of their files are needed, what is known.

`look_up` asks the Hub once which commit a revision is and which content its files have; nothing is
downloaded for that. The answer is kept in the cache, so that a converted model opens without
network, and without its source, from then on. `download` fetches what is needed into
huggingface_hub's own cache, which transformers shares.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from gpt2fast.atomic import replacing
from gpt2fast.checkpoints import TOKENIZER_FILES
from gpt2fast.config import CheckpointError, parse_json

SHORT_NAMES = MappingProxyType(
    {
        "gpt2": "openai-community/gpt2",
        "gpt2-medium": "openai-community/gpt2-medium",
        "gpt2-large": "openai-community/gpt2-large",
        "gpt2-xl": "openai-community/gpt2-xl",
        "distilgpt2": "distilbert/distilgpt2",
    }
)
COMMIT = re.compile("[0-9a-f]{40}")

_PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(f"{_PART}/{_PART}", re.ASCII)
_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
_OF_A_FILE = re.compile(
    r"\.(safetensors|gguf|ggml|bin|pt|pth|ckpt|json|txt|index|h5|msgpack|onnx|tar|gz|zip|pkl)$",
    re.I,
)
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-(\d{5})\.(safetensors|bin)")
_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the Hub: `revision` is a branch, tag or commit; None is the branch main.

    `token` None is that of the environment or of `hf auth login`; False is none at all.
    `local_files_only` forbids the network. Raises ValueError for anything else.
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False

    def __post_init__(self) -> None:
        if self.revision is not None and not (isinstance(self.revision, str) and self.revision):
            raise ValueError(
                f"revision must be a branch, a tag, a commit or None; got {self.revision!r}"
            )
        if not isinstance(self.token, str | bool | None):
            raise ValueError(f"token must be a string, a bool or None; got a {type(self.token)}")
        if not isinstance(self.local_files_only, bool):
            raise ValueError(
                f"local_files_only must be True or False; got {self.local_files_only!r}"
            )

    @property
    def offline(self) -> bool:
        """Whether the network is out of bounds, by option or environment."""
        asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
        return self.local_files_only or asked.upper() in ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a model: `etag` identifies its content; size in bytes, -1 if not known."""

    name: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the Hub at one commit, and those of its files that are needed."""

    repo: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def name(self) -> str:
        """The name without the organisation."""
        return self.repo.rpartition("/")[2]

    def identity(self) -> str:
        """Return a digest that changes when a needed file does, and not with other commits."""
        parts = [self.repo, *(f"{file.name} {file.etag}" for file in self.files)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def hub_id(source: object) -> str | None:
    """Return the Hub's id for a short name or ORG/NAME; None for what looks like a path."""
    if not isinstance(source, str):
        return None
    if source in SHORT_NAMES:
        return SHORT_NAMES[source]
    odd = ".." in source or "--" in source or _OF_A_FILE.search(source)
    return source if _ID.fullmatch(source) and not odd else None


def look_up(repo: str, access: Access, directory: Path) -> HubModel:
    """Return what a revision of a model is now; `directory` keeps what the Hub said before.

    A commit is looked up once. Without network, or if the Hub cannot be reached, the last answer
    is taken, then what huggingface_hub has downloaded. Raises CheckpointError for a model, a
    revision or an account that the Hub refuses, and for one without GPT-2 files; OSError if the
    Hub cannot be reached and the model was never seen.
    """
    revision = access.revision or "main"
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise CheckpointError(f"{revision!r} cannot be a revision of {repo!r}")
    from gpt2fast.hub import client
    from gpt2fast.hub.errors import UnreachableError

    memory = _memory(repo, revision, directory)
    known = _recall(memory, repo, revision)
    pinned = COMMIT.fullmatch(revision) is not None
    if known is None and (pinned or access.offline):
        known = client.downloaded(repo, revision)
    if access.offline and known is None:
        why = "local_files_only" if access.local_files_only else "HF_HUB_OFFLINE"
        raise FileNotFoundError(
            f"{repo!r} (revision {revision!r}) was not downloaded before, and {why} forbids the "
            "network"
        )
    if known is not None and (pinned or access.offline):
        return known
    try:
        found = client.ask(repo, revision, access)
    except UnreachableError:
        known = known or client.downloaded(repo, revision)
        if known is None:
            raise
        return known
    with suppress(OSError):  # a cache that cannot be written; the next look-up asks again
        _remember(memory, found)
    return found


def needed(repo: str, names: Iterable[str]) -> list[str]:
    """Return the files of a model that are worth downloading: weights once, configuration, text.

    safetensors before .bin; without either, the only file that holds a whole model. Raises
    CheckpointError, naming what there is.
    """
    names = {name for name in names if "/" not in name}
    texts = sorted(names.intersection(TOKENIZER_FILES))
    for stem, kind in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole, index = f"{stem}.{kind}", f"{stem}.{kind}.index.json"
        weights = [whole] if whole in names else _shards(names, stem, kind)
        if not weights:
            continue
        if _CONFIG not in names:
            raise CheckpointError(f"{repo!r} has {weights[0]}, but no {_CONFIG}")
        return [_CONFIG, *texts, *([] if whole in names else [index]), *weights]
    alone = sorted(name for name in names if name.endswith((".gguf", ".safetensors")))
    if len(alone) == 1:
        return alone
    if alone:
        raise CheckpointError(
            f"{repo!r} holds {len(alone)} models ({', '.join(alone[:4])}): download one of them "
            "and load the file"
        )
    found = ", ".join(sorted(names - set(texts))[:6]) or "nothing"
    raise CheckpointError(
        f"{repo!r} has no weights that gpt2fast reads (model.safetensors, pytorch_model.bin or a "
        f".gguf file); it has {found}"
    )


def _shards(names: set[str], stem: str, kind: str) -> list[str]:
    """Return the shards of an indexed checkpoint, if all of them are there."""
    found = {name: match for name in names if (match := _SHARD.fullmatch(name))}
    shards = sorted(name for name, match in found.items() if match[1] == stem and match[3] == kind)
    complete = shards and len(shards) == int(found[shards[0]][2])
    return shards if complete and f"{stem}.{kind}.index.json" in names else []


def _memory(repo: str, revision: str, directory: Path) -> Path:
    key = hashlib.sha256(f"{repo}\n{revision}".encode()).hexdigest()
    return directory / f"hub-{key[:32]}.json"


def _remember(path: Path, model: HubModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(asdict(model)).encode())


def _recall(path: Path, repo: str, revision: str) -> HubModel | None:
    """Return the last answer; None for none, and for one that cannot be understood."""
    model = _read_memory(path)
    return model if model and (model.repo, model.revision) == (repo, revision) else None


def known_models(directory: Path) -> list[HubModel]:
    """Return what the Hub last said about every model and revision that was looked up."""
    return [model for path in directory.glob("hub-*.json") if (model := _read_memory(path))]


def _read_memory(path: Path) -> HubModel | None:
    with suppress(OSError, CheckpointError):
        match parse_json(path.read_bytes(), str(path)):
            case {
                "repo": str(repo),
                "revision": str(revision),
                "commit": str(commit),
                "files": [*entries],
            }:
                files = tuple(map(_file, entries))
                if files and None not in files and COMMIT.fullmatch(commit):
                    return HubModel(repo, revision, commit, files)  # type: ignore[arg-type]
    return None


def _file(entry: Mapping[str, object]) -> HubFile | None:
    match entry:
        case {"name": str(name), "etag": str(etag), "size": int(size)}:
            return HubFile(name, etag, size)
    return None
