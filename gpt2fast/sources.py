"""What a source may be: a bundled model, a file, a directory, or a model of the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gpt2fast.cache import cache_directory
from gpt2fast.checkpoints import Checkpoint, open_checkpoint
from gpt2fast.checkpoints.safetensors import open_regular
from gpt2fast.config import CheckpointError
from gpt2fast.hub import SHORT_NAMES, Access, HubModel, hub_id, look_up
from gpt2fast.progress import Progress, announce

Source = str | os.PathLike[str]

BUNDLED = {"tales": "tales-int8.safetensors"}

_OURS = re.compile(rb'"format"\s*:\s*"gpt2fast(-session)?"')
_LONGEST_SEARCH = 16 << 20  # the header of a packed 1.5B model has 0.1 MB


def local_path(source: Source) -> Path | None:
    """Return the path of a bundled model, or of what exists under that name; None otherwise."""
    if isinstance(source, str) and source in BUNDLED:
        path = Path(__file__).parent / "models" / BUNDLED[source]
        if not path.exists():
            raise CheckpointError(f"{path} is missing: this gpt2fast is not installed completely")
        return path
    path = Path(source)
    return path if source != "" and path.exists() else None


def is_packed(path: Path) -> bool:
    """Tell whether a file says that gpt2fast packed it; the rest of it may be damaged.

    Raises CheckpointError for the file of a session.
    """
    if not path.is_file():
        return False
    with open_regular(path) as file:
        start = file.read(9)
        if start[8:] != b"{":
            return False
        length = int.from_bytes(start[:8], "little")
        found = _OURS.search(file.read(min(length, _LONGEST_SEARCH)))
    if found is not None and found[1]:
        raise CheckpointError(f"{path} holds a session, not a model: model.restore() opens it")
    return found is not None


def on_hub(source: Source, access: Access, directory: Path) -> HubModel:
    """Look up a source that is not here. Raises CheckpointError if it cannot be on the Hub either.

    `directory` is the cache; other errors are those of `look_up`.
    """
    repo = hub_id(source)
    if repo is None:
        raise CheckpointError(
            f"{os.fspath(source)!r} is neither a bundled model ({', '.join(BUNDLED)}), nor an "
            "existing file or directory, nor the name of a model of the Hugging Face Hub "
            f"(ORGANISATION/NAME, or one of {', '.join(SHORT_NAMES)})"
        )
    return look_up(repo, access, directory)


def download(model: HubModel, access: Access, progress: Progress | None) -> Path:
    """Return the directory or file of a model of the Hub, downloaded if it is not there yet."""
    from gpt2fast.hub import client

    announce(progress, f"downloading {model.repo}")
    return client.download(model, access, progress)


def open_downloaded(model: HubModel, path: Path) -> Checkpoint:
    """Open what `download` returned, under the name that the model has on the Hub."""
    checkpoint = open_checkpoint(path)
    checkpoint.name = model.name
    return checkpoint


def check_local(source: Source, access: Access) -> None:
    """Raise ValueError if a revision is asked of a source that is here."""
    if access.revision is not None:
        raise ValueError(
            f"revision={access.revision!r} is for models of the Hugging Face Hub; "
            f"{os.fspath(source)!r} is a bundled model or exists here"
        )


def open_source(
    source: Source, access: Access | None = None, progress: Progress | None = None
) -> Checkpoint:
    """Open a checkpoint: a path, or a model of the Hub, which is downloaded first.

    Raises CheckpointError, also for a packed file and for what does not exist; OSError if a
    download fails; ValueError for a revision of something local.
    """
    access = access or Access()
    path = local_path(source)
    if path is None:
        model = on_hub(source, access, cache_directory())
        path = download(model, access, progress)
        _check_not_packed(path)
        return open_downloaded(model, path)
    check_local(source, access)
    _check_not_packed(path)
    return open_checkpoint(path)


def _check_not_packed(path: Path) -> None:
    if is_packed(path):
        raise CheckpointError(f"{path} is a packed file, not a checkpoint: it needs no conversion")
