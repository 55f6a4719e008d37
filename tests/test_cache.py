"""The cache between processes and threads: one conversion, nothing stale, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from loading_process import PATIENCE, PROCESS, names, process, wait_for

from gpt2fast import loading, locks
from gpt2fast.cached_models import remove_debris
from gpt2fast.loading import load_packed
from gpt2fast.locks import exclusive


def test_two_processes_convert_once(cached_source: Path) -> None:
    """Catches two conversions of the same model at once, and a wait without progress."""
    with process(cached_source, "packing", "packs", "waits") as first:
        wait_for(cached_source.with_name("packs").exists)
        with process(cached_source, "waiting", "waits") as second:
            results = [
                json.loads(child.communicate(timeout=PATIENCE)[0]) for child in (first, second)
            ]
    (stages, _, fingerprint), (others, heard, same) = results
    assert stages == ["waiting", "packing"]
    assert others == ["waiting"] and heard > 0
    assert fingerprint == same
    assert len(names(cached_source.with_name("cache"))) == 2


def test_holder_that_dies(cached_source: Path) -> None:
    """Catches a wait for a process that was killed, and what it leaves lying about."""
    cache = cached_source.with_name("cache")
    with process(cached_source, "packing", "packs", "never") as first:
        wait_for(cached_source.with_name("packs").exists)
        with process(cached_source, "waiting", "waits") as second:
            wait_for(cached_source.with_name("waits").exists)
            first.send_signal(signal.SIGKILL)
            first.wait()
            stages, _, _ = json.loads(second.communicate(timeout=PATIENCE)[0])
    assert stages == ["waiting", "packing"]
    [debris] = cache.glob(".gpt2fast-*.tmp")
    os.utime(debris, (time.time() - 60,) * 2)
    remove_debris(cache)
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".json"}
    assert len(names(cache)) == 2


def test_two_threads_convert_once(cached_source: Path, tmp_path: Path) -> None:
    """Catches two threads that convert the same model at once, or wait for each other for ever."""
    waiting = threading.Event()

    class Progress:
        def __init__(self) -> None:
            self.stages: list[str] = []

        def stage(self, stage: str) -> None:
            self.stages.append(stage.partition(" ")[0])

        def __call__(self, *_: int) -> None:
            if self.stages[-1] == "waiting":
                waiting.set()
            else:
                assert waiting.wait(PATIENCE)

    told = [Progress(), Progress()]
    with ThreadPoolExecutor(2) as pool:
        models = list(
            pool.map(
                lambda p: load_packed(cached_source, cache_dir=tmp_path / "c", progress=p), told
            )
        )
    assert models[0].path == models[1].path
    assert sorted(p.stages for p in told) == [["waiting"], ["waiting", "packing"]]


def test_lock_file_is_taken_over(tmp_path: Path) -> None:
    """Catches two holders: one of a lock file that was removed, one of its successor."""
    path = tmp_path / "x.lock"
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with exclusive(path):
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.001)
            with lock:
                running -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(100)))
    assert most == 1
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"1\n", b"\xff" * 100, b"1 2"])
def test_garbage_in_a_lock_file(content: bytes, tmp_path: Path) -> None:
    """Catches a lock file that is believed, or makes waiting fail."""
    path = tmp_path / "x.lock"
    path.write_bytes(content)
    heard: list[object] = []
    with path.open("r+b") as file, ThreadPoolExecutor(1) as pool:
        assert locks.try_lock(file.fileno())

        def wait() -> None:
            with exclusive(path, lambda *step: heard.append(step)):
                pass

        waiting = pool.submit(wait)
        time.sleep(0.1)
        assert not waiting.done()
        file.close()
        waiting.result(PATIENCE)
    assert not heard


def test_what_a_waiter_is_told(tmp_path: Path) -> None:
    """Catches progress that is repeated while nothing happens, or does not arrive."""
    path, heard = tmp_path / "x.lock", queue.SimpleQueue[tuple[int, int]]()

    def wait() -> None:
        with exclusive(path, lambda done, total: heard.put((done, total))):
            pass

    with ThreadPoolExecutor(1) as pool:
        with exclusive(path) as tell:
            tell(1, 10**12)
            tell(2, 10**12)  # too soon
            waiting = pool.submit(wait)
            assert heard.get(timeout=PATIENCE) == (1, 10**12)
            time.sleep(0.3)
            tell(10**12, 10**12)
            assert heard.get(timeout=PATIENCE) == (10**12, 10**12)
        waiting.result(PATIENCE)
    assert heard.empty()


def test_wait_can_be_ended(tmp_path: Path) -> None:
    """Catches a wait that goes on although the caller's progress raises, or leaks the file."""
    path = tmp_path / "x.lock"
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with exclusive(path) as tell:
        tell(1, 2)
        with pytest.raises(KeyboardInterrupt), exclusive(path, stop):
            pass
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_file_system_without_locks(cached_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a network file system on which nothing can be converted."""

    def refuse(_: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "try_lock", refuse)
    path = load_packed(cached_source).path
    assert path is not None and len(names(path.parent)) == 2


def test_read_only_cache(cached_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a model that cannot be opened where nothing can be written, or an unclear error."""
    path = load_packed(cached_source).path
    assert path is not None
    opened = os.open

    def read_only(name: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", name)
        return opened(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    assert load_packed(cached_source).path == path
    with pytest.raises(OSError, match=r"Read-only .* set GPT2FAST_CACHE to a directory") as caught:
        load_packed(cached_source, dtype="float32")
    assert caught.value.errno == errno.EROFS and caught.value.filename == str(path.parent)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_full_disk(cached_source: Path) -> None:
    """Catches half a model that is left when the disk is full."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    cache = cached_source.with_name("cache")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            limit + ignore + PROCESS,
            str(cached_source),
            str(cache),
            "",
            "told",
            ".",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("OSError:") and "set GPT2FAST_CACHE to a directory with room" in last
    assert not [name for name in names(cache) if not name.endswith(".json")]


def test_source_that_fails(cached_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error of the source that is blamed on the cache."""
    failure = OSError(errno.EIO, "Input/output error", str(cached_source / "model.safetensors"))

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(loading, "write_packed", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        load_packed(cached_source)
    assert caught.value is failure


def test_progress_of_the_caller_fails(cached_source: Path) -> None:
    """Catches a lock that stays after the conversion was given up."""

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_packed(cached_source, progress=stop)
    assert not list(cached_source.with_name("cache").glob("*.lock"))
    assert load_packed(cached_source).path is not None
