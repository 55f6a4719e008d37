"""What huggingface_hub says and raises, in our words: nothing on stderr, one line, what to do."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from gpt2fast.config import CheckpointError

_PUBLIC = "https://huggingface.co"
_HTTP_LIBRARIES = ("httpx", "httpx2", "httpcore", "requests", "urllib3")


class UnreachableError(OSError):
    """Say that the Hub could not be asked, or did not answer as one."""


def endpoint() -> str:
    """Return the address of the Hub, or of the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or _PUBLIC


@contextmanager
def quiet(hub: ModuleType, *, bars: bool = False) -> Iterator[None]:
    """Keep what huggingface_hub says in this thread off stderr; an application's log gets it.

    `bars` switches its progress bars off, of versions that take no class for them (before 1.5).
    """
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    handlers = list(logging.getLogger("huggingface_hub").handlers)
    for handler in handlers:
        handler.addFilter(others)
    switch = bars and not hub.utils.are_progress_bars_disabled()
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
def translating(repo: str, revision: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into a CheckpointError or an OSError of one line.

    That is UnreachableError where the network or the server is to blame.
    """
    try:
        yield
    except Exception as error:
        raise _translated(error, repo, revision) from error


def _translated(error: Exception, repo: str, revision: str) -> Exception:
    from huggingface_hub import errors

    where = endpoint()
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
    reason = " ".join(str(cause).split())[:300] or type(cause).__name__
    library = type(cause).__module__.partition(".")[0]
    if isinstance(cause, ValueError | TypeError | KeyError | AttributeError):
        return UnreachableError(
            f"{where} does not answer as the Hub does ({reason}): check the address in HF_ENDPOINT"
        )
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
    return UnreachableError(f"the download of {repo!r} from {where} failed: {reason}")
