"""Talking to the Hugging Face Hub through huggingface_hub, the extra `hub`.

Everything that depends on that package is here and in `errors`. It is imported on the first
call. Versions from 0.34 on are supported: transformers 4 needs one before 1.0.
"""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from gpt2fast.config import CheckpointError
from gpt2fast.hub import COMMIT, Access, HubFile, HubModel, needed
from gpt2fast.hub.errors import UnreachableError, endpoint, quiet, translating
from gpt2fast.progress import Progress

_PAUSE = 0.2  # seconds


def ask(repo: str, revision: str, access: Access) -> HubModel:
    """Ask the Hub which commit a revision is, and for its files; one request, no download.

    Raises UnreachableError, and CheckpointError for what the Hub refuses and for what is no GPT-2.
    """
    hub = _import(repo)
    with quiet(hub), translating(repo, revision):
        api = hub.HfApi(endpoint=endpoint(), token=access.token)
        info = api.model_info(
            repo,
            revision=revision,
            files_metadata=True,
            timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
        )
        commit = info.sha
        if not COMMIT.fullmatch(commit):
            raise ValueError("no commit")
        files = {file.rfilename: _described(file, commit) for file in info.siblings}
    return HubModel(repo, revision, commit, tuple(files[name] for name in needed(repo, files)))


def _described(file: Any, commit: str) -> HubFile:
    content = file.lfs["sha256"] if file.lfs else file.blob_id
    # A mirror may know no more than names; then every commit counts as another content.
    size = -1 if file.size is None else int(file.size)
    return HubFile(file.rfilename, str(content or f"commit {commit}"), size)


def downloaded(repo: str, revision: str) -> HubModel | None:
    """Return a model as huggingface_hub's cache has it, if it has all that is needed."""
    folder = _folder(_import(repo), repo)
    try:
        commit = revision
        if not COMMIT.fullmatch(revision):
            commit = folder.joinpath("refs", revision).read_text(encoding="ascii").strip()
        snapshot = folder / "snapshots" / commit
        names = needed(repo, os.listdir(snapshot))
        files = []
        for name in names:
            blob = (snapshot / name).resolve(strict=True)
            linked = blob.parent.name == "blobs"  # and named by its content
            tag = blob.name if linked else f"commit {commit}"
            files.append(HubFile(name, tag, blob.stat().st_size))
    except (OSError, ValueError):  # nothing there, or not enough
        return None
    return HubModel(repo, revision, commit, tuple(files))


def download(model: HubModel, access: Access, progress: Progress | None) -> Path:
    """Return the directory with a model's files, or its only file; fetch what is missing.

    `progress` is told the bytes of what is missing, if anything is. Raises OSError if the network
    or the disk fails, CheckpointError if the Hub refuses.
    """
    hub = _import(model.repo)
    missing = [file for file in model.files if _found(hub, model, file.name) is None]
    if missing and access.offline:
        raise FileNotFoundError(
            f"{model.repo!r} (revision {model.revision!r}) was not downloaded before: "
            f"{missing[0].name} is missing, and the network is forbidden"
        )
    if missing:
        _fetch(hub, model, missing, access, progress)
    last = _found(hub, model, model.files[-1].name)
    if last is None:
        raise OSError(f"huggingface_hub lost {model.files[-1].name} of {model.repo!r}")
    return last if len(model.files) == 1 else last.parent


def _fetch(
    hub: ModuleType,
    model: HubModel,
    missing: list[HubFile],
    access: Access,
    progress: Progress | None,
) -> None:
    total = sum(max(file.size, 0) for file in missing)
    _check_room(_cache(hub), total, model.repo)
    told = _Told(progress, total)
    options: dict[str, Any] = {"endpoint": endpoint(), "token": access.token}
    tells = "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters
    if tells:
        options["tqdm_class"] = told.bar()
    with quiet(hub, bars=not tells):
        # Asked by its name, the revision is noted in huggingface_hub's cache, for others to find.
        revision = model.revision
        for file in missing:
            _fetch_one(hub, model, file, revision, told, options)
            if _found(hub, model, file.name) is None:  # the revision moved in between
                _fetch_one(hub, model, file, model.commit, told, options)
            revision = model.commit
            told.finish(file)


def _fetch_one(
    hub: ModuleType,
    model: HubModel,
    file: HubFile,
    revision: str,
    told: _Told,
    options: dict[str, Any],
) -> None:
    """Download a file; go on where it broke off as long as that brings more of it.

    huggingface_hub does that itself, but before 2.0 not after every kind of broken connection; then
    it leaves what it has, and takes it up when called again.
    """
    begun = _folder(hub, model.repo) / "blobs" / f"{file.etag}.incomplete"
    size = -1
    while True:
        told.restart()
        try:
            with translating(model.repo, model.revision):
                hub.hf_hub_download(model.repo, file.name, revision=revision, **options)
            return
        except (CheckpointError, OSError) as error:
            if told.error is not None:
                raise told.error from None
            if not isinstance(error, UnreachableError):
                raise
            before, size = size, begun.stat().st_size if begun.exists() else -1
            if size <= before:
                raise
            time.sleep(_PAUSE)


def _found(hub: ModuleType, model: HubModel, name: str) -> Path | None:
    path = hub.try_to_load_from_cache(model.repo, name, revision=model.commit)
    return Path(path) if isinstance(path, str) else None


class _Told:
    """Bytes downloaded, over all files; keeps what the caller's function raises."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.error: Exception | None = None
        self._progress = progress
        self._finished = self._done = 0
        self._total = total

    def restart(self) -> None:
        """Begin a file, or begin it again."""
        self._done = self._finished

    def finish(self, file: HubFile) -> None:
        """End a file, all of which was told or not."""
        self._finished += max(file.size, 0)
        self.advance(self._finished - self._done)

    def advance(self, n_bytes: float | None) -> None:
        self._done += int(n_bytes or 0)
        if self._progress is None or self._total <= 0:
            return
        try:
            self._progress(min(max(self._done, 0), self._total), self._total)
        except Exception as error:
            self.error = error
            raise

    def bar(self) -> type:
        """Return a class that huggingface_hub takes for tqdm's."""
        advance = self.advance

        class Bar:
            total, n = 0, 0

            def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
                advance(initial)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                advance(n)

            def update_transfer(self, n: float | None = 1) -> None:
                """Bytes of the network, which `update` counts again when they are on disk."""

            def __getattr__(self, name: str) -> Callable[..., None]:
                return lambda *_, **__: None

        return Bar


def _import(repo: str) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError as error:
        raise CheckpointError(
            f"{repo!r} is neither a bundled model nor an existing file or directory; to load it "
            f'from the Hugging Face Hub: pip install "gpt2fast[hub]" ({error})'
        ) from None
    return huggingface_hub


def _cache(hub: ModuleType) -> Path:
    return Path(hub.constants.HF_HUB_CACHE).expanduser()


def _folder(hub: ModuleType, repo: str) -> Path:
    return _cache(hub) / f"models--{repo.replace('/', '--')}"


def _check_room(directory: Path, size: int, repo: str) -> None:
    place = next((p for p in (directory, *directory.parents) if p.is_dir()), None)
    if place is None:
        return
    free = shutil.disk_usage(place).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"downloading {repo!r} takes {size / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
            "set HF_HOME to a directory with room",
            os.fspath(directory),
        )
