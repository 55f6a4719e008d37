"""What the Hub, the network, the disk or the user gets wrong."""

from __future__ import annotations

import errno
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_models import load
from hub_server import README, REPO, Hub

import gpt2fast
from gpt2fast.config import CheckpointError
from gpt2fast.hub import Access
from gpt2fast.loading import load_packed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("why", ["refused", "silent", "503", "429", "html"])
def test_hub_that_does_not_answer(why: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a network error that is not explained, or that keeps a converted model closed."""
    path = load()[0].path
    if why == "refused":
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        expected = r"cannot reach http://127.0.0.1:\d+ .*refused.*: check .* HF_ENDPOINT"
    elif why == "silent":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
        hub.delay = 1.0
        expected = r"cannot reach http://127.0.0.1:\d+ .*timed out.*: check .* HF_ENDPOINT"
    elif why == "html":
        hub.answer = (200, "<html>Welcome to the hotel</html>")
        expected = "does not answer as the Hub does .* check the address in HF_ENDPOINT"
    else:
        hub.answer = (int(why), "<html>busy</html>")
        expected = f"answers HTTP status {why} for 'other/model': try later"
    assert load()[0].path == path
    with pytest.raises(OSError, match=expected) as caught:
        load("other/model")
    assert not isinstance(caught.value, CheckpointError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "[]",
        '{"id": "a/b", "sha": null, "siblings": []}',
        '{"id": "a/b", "sha": "main", "siblings": []}',
        '{"id": "a/b", "sha": "%s"}',
        '{"id": "a/b", "sha": "%s", "siblings": [3]}',
        '{"id": "a/b", "sha": "%s", "siblings": [{"rfilename": "x", "size": "much"}]}',
    ],
)
def test_strange_answers(answer: str, hub: Hub) -> None:
    """Catches an answer that is believed, or ends in an error of Python's."""
    hub.answer = (200, answer.replace("%s", "0" * 40))
    with pytest.raises(OSError, match="does not answer as the Hub does"):
        load()


@pytest.mark.parametrize(
    ("repo", "access", "expected"),
    [
        (REPO, {"revision": "v9"}, "'tellers/tale.v1' has no revision 'v9' on http"),
        (REPO, {"revision": "../../x"}, "'../../x' cannot be a revision of"),
        ("no/model", {}, r"'no/model' is neither an existing file .* nor a model on http.*: check"),
        ("tellers/gated", {}, "restricted: ask for it at http.*/tellers/gated, then give token="),
        ("tellers/private", {}, "nor a model .* for a private model give token="),
        ("tellers/private", {"token": "hf_wrong"}, "nor a model .* for a private model give token"),
        ("tellers/empty", {}, "'tellers/empty' has no weights that gpt2fast reads"),
    ],
)
def test_refused(
    repo: str,
    access: dict[str, Any],
    expected: str,
    hub: Hub,
    hub_files: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """Catches a refusal that does not say what to do, has many lines, or shows the token."""
    for name in ("gated", "private"):
        hub.publish(f"tellers/{name}", hub_files)
        hub.repos[f"tellers/{name}"].access = name
    hub.publish("tellers/empty", README)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load(repo, **access)
    assert "\n" not in str(caught.value) and "hf_" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*.safetensors"))


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_token(
    kind: str, hub: Hub, hub_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a token that is not sent, or one of the environment that False does not stop."""
    hub.publish("tellers/own", hub_files)
    hub.repos["tellers/own"].access = kind
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(CheckpointError, match="give token="):
        load("tellers/own", token=False)
    first, _ = load("tellers/own")
    monkeypatch.delenv("HF_TOKEN")
    if kind == "private":
        assert load("tellers/own", token="hf_secret")[0].path == first.path
    assert "hf_secret" not in repr(Access(token="hf_secret"))


@pytest.mark.parametrize(
    "access",
    [{"revision": 1}, {"revision": ""}, {"token": 3}, {"token": b"x"}, {"local_files_only": 1}],
)
def test_bad_options(access: dict[str, Any]) -> None:
    """Catches an option that is taken for something it is not."""
    with pytest.raises(ValueError, match=next(iter(access))):
        gpt2fast.load(REPO, **access)


def test_no_room(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches gigabytes that are downloaded onto a disk that cannot hold them."""
    usage = SimpleNamespace(total=10, used=9, free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"takes \d+ MB and 0 MB are free; set HF_HOME") as caught:
        load()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "downloads")
    assert hub.fetched() == {"main"}


def test_disk_that_fails(hub: Hub, tmp_path: Path) -> None:
    """Catches an error of the disk that is taken for one of the network."""
    (tmp_path / "downloads").write_text("a file, not a directory")
    with pytest.raises(OSError, match=r"cannot download .*; set HF_HOME to a directory with room"):
        load()
    assert hub.requests


@pytest.mark.parametrize("error", [ValueError("enough"), OSError("enough"), KeyboardInterrupt()])
def test_progress_that_raises(error: BaseException, hub: Hub, tmp_path: Path) -> None:
    """Catches a download that cannot be stopped, or an error of the caller's that is reworded."""

    def stop(done: int, _: int) -> None:
        if done > 9000:
            raise error

    with pytest.raises(type(error)) as caught:
        load_packed(REPO, progress=stop)
    assert caught.value is error
    assert hub.requests and not list(tmp_path.glob("cache/*.safetensors"))
