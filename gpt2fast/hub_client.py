"""Talking to the Hugging Face Hub through huggingface_hub, the extra `hub`.

Everything that depends on that package is here: it is imported on the first call, kept from
printing, and its exceptions, and those of the HTTP library below it, become ours.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gpt2fast.config import CheckpointError
from gpt2fast.hub import COMMIT, Access, HubFile, HubModel, needed
from gpt2fast.progress import Progress

_PUBLIC = "https://huggingface.co"
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "requests", "urllib3")


class UnreachableError(OSError):
    """Say that the Hub could not be asked, or did not answer as one."""


def ask(repo: str, revision: str, access: Access) -> HubModel:
    """Ask the Hub which commit a revision is, and for its files; one request, no download.

    Raises UnreachableError, and CheckpointError for what the Hub refuses and for what is no GPT-2.
    """
    hub = _import(repo)
    with _translating(repo, revision):
        api = hub.HfApi(endpoint=_endpoint(), token=access.token)
        info = api.model_info(
            repo,
            revision=revision,
            files_metadata=True,
            timeout=hub.constants.HF_HUB_ETAG_TIMEOUT,
        )
        commit = info.sha
        known = {file.rfilename: file for file in info.siblings}
        if not COMMIT.fullmatch(commit):
            raise ValueError("no commit")
    files = []
    for name in needed(repo, known):
        file = known[name]
        content = file.lfs["sha256"] if file.lfs else file.blob_id
        # A mirror may know no more than names; then every commit counts as another content.
        size = -1 if file.size is None else file.size
        files.append(HubFile(name, str(content or f"commit {commit}"), size))
    return HubModel(repo, revision, commit, tuple(files))


def downloaded(repo: str, revision: str) -> HubModel | None:
    """Return a model as huggingface_hub's cache has it, if it has all that is needed."""
    folder = _cache(_import(repo)) / f"models--{repo.replace('/', '--')}"
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
    options: dict[str, Any] = {"endpoint": _endpoint(), "token": access.token}
    tells = "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters
    if tells:
        options["tqdm_class"] = told.bar()
    with _translating(model.repo, model.revision, told), _quiet(hub, bars=tells):
        # Asked by its name, the revision is noted in huggingface_hub's cache, for others to find.
        revision = model.revision
        for file in missing:
            hub.hf_hub_download(model.repo, file.name, revision=revision, **options)
            revision = model.commit
            if not tells:
                told.advance(file.size)
        if _found(hub, model, missing[0].name) is None:  # the revision moved in between
            hub.hf_hub_download(model.repo, missing[0].name, revision=model.commit, **options)


def _found(hub: ModuleType, model: HubModel, name: str) -> Path | None:
    path = hub.try_to_load_from_cache(model.repo, name, revision=model.commit)
    return Path(path) if isinstance(path, str) else None


class _Told:
    """Bytes downloaded, over all files; keeps what the caller's function raises."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.error: BaseException | None = None
        self._progress = progress
        self._done, self._total = 0, total

    def advance(self, n_bytes: float | None) -> None:
        self._done += int(n_bytes or 0)
        if self._progress is None or self._total <= 0:
            return
        try:
            self._progress(min(max(self._done, 0), self._total), self._total)
        except BaseException as error:
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


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or _PUBLIC


def _cache(hub: ModuleType) -> Path:
    return Path(hub.constants.HF_HUB_CACHE).expanduser()


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


@contextmanager
def _quiet(hub: ModuleType, *, bars: bool) -> Iterator[None]:
    """Keep what huggingface_hub says in this thread off stderr; an application's log gets it.

    Versions that cannot be given a class for their bars (before 1.5) have a switch instead.
    """
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    handlers = list(logging.getLogger("huggingface_hub").handlers)
    for handler in handlers:
        handler.addFilter(others)
    switch = not bars and not hub.utils.are_progress_bars_disabled()
    if switch:
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if switch:
            hub.utils.enable_progress_bars()
        for handler in handlers:
            handler.removeFilter(others)


@contextmanager
def _translating(repo: str, revision: str, told: _Told | None = None) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one line of ours."""
    try:
        yield
    except Exception as error:
        if told is not None and told.error is error:
            raise
        raise _translated(error, repo, revision) from error


def _translated(error: Exception, repo: str, revision: str) -> Exception:
    from huggingface_hub import errors

    where = _endpoint()
    cause = error
    while isinstance(cause, errors.LocalEntryNotFoundError) and isinstance(
        cause.__cause__, Exception
    ):
        cause = cause.__cause__  # "not cached"; why it could not be downloaded is what matters
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.GatedRepoError):
        return CheckpointError(
            f"access to {repo!r} is restricted: ask for it at {where}/{repo}, then give token= or "
            "run `hf auth login`"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return CheckpointError(f"{repo!r} has no revision {revision!r} on {where}")
    if isinstance(cause, errors.EntryNotFoundError) and status == 404:
        return CheckpointError(f"a file of {repo!r} (revision {revision!r}) is gone from {where}")
    if status in (401, 403, 404):
        return CheckpointError(
            f"{repo!r} is neither an existing file or directory nor a model on {where} that this "
            f"account may read (HTTP status {status}): check the name; for a private model give "
            "token= or run `hf auth login`"
        )
    if status is not None:
        return UnreachableError(f"{where} answers HTTP status {status} for {repo!r}: try later")
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    library = type(cause).__module__.partition(".")[0]
    if library in _HTTP_LIBRARIES or isinstance(cause, ConnectionError | TimeoutError):
        return UnreachableError(
            f"cannot reach {where} for {repo!r} ({reason}): check the network and the address in "
            "HF_ENDPOINT; local_files_only=True takes what was downloaded before"
        )
    if isinstance(cause, OSError) and cause.errno is not None:
        return OSError(
            cause.errno,
            f"cannot download {repo!r} ({cause.strerror or reason}); set HF_HOME to a directory "
            "with room",
            cause.filename,
        )
    if isinstance(cause, OSError):
        return UnreachableError(f"the download of {repo!r} from {where} failed: {reason}")
    return UnreachableError(
        f"{where} does not answer as the Hub does ({reason}): check the address in HF_ENDPOINT"
    )
