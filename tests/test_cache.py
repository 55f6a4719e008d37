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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer

from gpt2fast import cached_models, cli, loading, locks
from gpt2fast.cache import Origin, cache_path, lock_path, origin_path, read_origin
from gpt2fast.cached_models import remove_debris
from gpt2fast.cli_terminal import megabytes
from gpt2fast.config import Config
from gpt2fast.loading import load_packed
from gpt2fast.locks import exclusive

CONFIG = hf_config(n_layer=1)
PATIENCE = 60  # seconds until a test gives up waiting

# A process that loads argv[1] into the cache argv[2] and prints the stages it went through. Where
# argv[3] and argv[4] are names, it makes the one when it first hears of progress in the stage, and
# waits for the other.
PROCESS = """
import json, os, sys, time
from pathlib import Path
from gpt2fast import loading
loading.IN_MEMORY_BELOW = 0
source, cache, wanted, tell, wait = sys.argv[1:6]
class Progress:
    stages, steps = [], 0
    def stage(self, stage):
        self.stages.append(stage.partition(" ")[0])
    def __call__(self, done, total):
        if self.stages[-1] != wanted:
            return
        self.steps += 1
        Path(tell).touch()
        end = time.monotonic() + 60
        while not os.path.exists(wait) and time.monotonic() < end:
            time.sleep(0.01)
progress = Progress()
model = loading.load_packed(source, cache_dir=cache, progress=progress)
print(json.dumps([progress.stages, progress.steps, model.fingerprint]))
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a checkpoint; it is never packed in memory."""
    monkeypatch.setattr(loading, "IN_MEMORY_BELOW", 0)
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    shapes = Config.from_huggingface(CONFIG).tensor_shapes()
    directory = write_checkpoint(tmp_path / "little", CONFIG, random_tensors(shapes))
    write_tokenizer(directory)
    return directory


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def process(
    source: Path, stage: str, tell: str = "told", wait: str = "."
) -> Iterator[subprocess.Popen[str]]:
    """Run PROCESS in the directory of the source."""
    arguments = [str(source), str(source.parent / "cache"), stage, tell, wait]
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, *arguments],
        cwd=source.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def test_two_processes_convert_once(source: Path) -> None:
    """Catches two conversions of the same model at once, and a wait without progress."""
    with process(source, "packing", "packs", "waits") as first:
        wait_for(source.with_name("packs").exists)
        with process(source, "waiting", "waits") as second:
            results = [
                json.loads(child.communicate(timeout=PATIENCE)[0]) for child in (first, second)
            ]
    (stages, _, fingerprint), (others, heard, same) = results
    assert stages == ["waiting", "packing"]
    assert others == ["waiting"] and heard > 0
    assert fingerprint == same
    assert len(names(source.with_name("cache"))) == 2


def test_holder_that_dies(source: Path) -> None:
    """Catches a wait for a process that was killed, and what it leaves lying about."""
    cache = source.with_name("cache")
    with process(source, "packing", "packs", "never") as first:
        wait_for(source.with_name("packs").exists)
        with process(source, "waiting", "waits") as second:
            wait_for(source.with_name("waits").exists)
            first.send_signal(signal.SIGKILL)
            first.wait()
            stages, _, _ = json.loads(second.communicate(timeout=PATIENCE)[0])
    assert stages == ["waiting", "packing"]
    [debris] = cache.glob(".gpt2fast-*.tmp")
    os.utime(debris, (time.time() - 60,) * 2)
    remove_debris(cache)
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".json"}
    assert len(names(cache)) == 2


def test_two_threads_convert_once(source: Path, tmp_path: Path) -> None:
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
            pool.map(lambda p: load_packed(source, cache_dir=tmp_path / "c", progress=p), told)
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


def test_file_system_without_locks(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a network file system on which nothing can be converted."""

    def refuse(_: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "try_lock", refuse)
    path = load_packed(source).path
    assert path is not None and len(names(path.parent)) == 2


def test_read_only_cache(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a model that cannot be opened where nothing can be written, or an unclear error."""
    path = load_packed(source).path
    assert path is not None
    opened = os.open

    def read_only(name: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", name)
        return opened(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    assert load_packed(source).path == path
    with pytest.raises(OSError, match=r"Read-only .* set GPT2FAST_CACHE to a directory") as caught:
        load_packed(source, dtype="float32")
    assert caught.value.errno == errno.EROFS and caught.value.filename == str(path.parent)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_full_disk(source: Path) -> None:
    """Catches half a model that is left when the disk is full."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    cache = source.with_name("cache")
    done = subprocess.run(
        [sys.executable, "-c", limit + ignore + PROCESS, str(source), str(cache), "", "told", "."],
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("OSError:") and "set GPT2FAST_CACHE to a directory with room" in last
    assert not [name for name in names(cache) if not name.endswith(".json")]


def test_source_that_fails(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error of the source that is blamed on the cache."""
    failure = OSError(errno.EIO, "Input/output error", str(source / "model.safetensors"))

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(loading, "write_packed", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        load_packed(source)
    assert caught.value is failure


def test_progress_of_the_caller_fails(source: Path) -> None:
    """Catches a lock that stays after the conversion was given up."""

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_packed(source, progress=stop)
    assert not list(source.with_name("cache").glob("*.lock"))
    assert load_packed(source).path is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"source": 1, "revision": null, "commit": null}',
        b'{"source": "x", "revision": "main", "commit": null}',
        b"\xff",
    ],
)
def test_damaged_note(content: bytes, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a damaged note that hides the model it is about."""
    path = load_packed(source).path
    assert path is not None
    assert read_origin(path) == Origin(str(source))
    origin_path(path).write_bytes(content)
    assert read_origin(path) is None
    assert cli.main(["models"]) == 0
    assert "unknown" in capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert cli.main(["models", "--json", *options]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def change(source: Path) -> None:
    (source / "tokenizer_config.json").write_text("{}")


def test_models(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a listing without name, dtype, size, source or age, or one with strange files."""
    cache = source.with_name("cache")
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().out == f"no models, 0.0 MB, in {cache}\n"
    paths = [load_packed(source, dtype=dtype).path for dtype in ("int8", "float32")]
    old, new = (path for path in paths if path is not None)
    (cache / "mine-int8.safetensors").write_bytes(b"not of the cache")
    os.utime(old, (time.time() - 3 * 86400 - 10,) * 2)
    sizes = [path.stat().st_size for path in (old, new)]
    assert cli.main(["models"]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "DTYPE", "SIZE", "AGE", "SOURCE"]
    assert [row.split() for row in rows] == [
        ["little", "float32", *megabytes(sizes[1]).split(), "now", str(source)],
        ["little", "int8", *megabytes(sizes[0]).split(), "3", "days", str(source)],
    ]
    assert total == f"2 models, {megabytes(sum(sizes))}, in {cache}"
    content = listed(capsys)
    entries = content["models"]
    assert content["directory"] == str(cache)
    assert content["size"] == sum(entry["size"] for entry in entries) == sum(sizes)
    assert {entry["state"] for entry in entries} == {"current"}
    assert entries[0]["origin"] == {"source": str(source), "revision": None, "commit": None}


def test_states_and_prune(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a model in use that is pruned, or one that nothing can use and is kept."""
    cache = source.with_name("cache")
    replaced = load_packed(source).path
    assert replaced is not None
    os.utime(replaced, (time.time() - 100,) * 2)
    change(source)
    current = load_packed(source).path
    damaged = load_packed(source, dtype="float16").path
    assert current is not None and damaged is not None
    os.truncate(damaged, 1000)
    unmade = cache_path("never", "int8", "x", cache)
    for path in (lock_path(unmade), origin_path(unmade), cache / "notes.json", cache / "x.lock"):
        path.touch()
    states = {entry["path"]: entry["state"] for entry in listed(capsys)["models"]}
    assert states == {
        str(replaced): "replaced",
        str(current): "current",
        str(damaged): "unreadable",
    }
    removed = listed(capsys, "--prune")["removed"]
    assert {entry["path"] for entry in removed} == {str(replaced), str(damaged)}
    assert names(cache) == {current.name, origin_path(current).name, "notes.json", "x.lock"}
    source.rename(source.with_name("moved"))
    assert [entry["state"] for entry in listed(capsys)["models"]] == ["source gone"]
    assert listed(capsys, "--prune")["removed"] == []


def test_prune_while_converting(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches pruning that takes the lock, note or temporary file of a running conversion."""
    cache = source.with_name("cache")
    with process(source, "packing", "packs", "go") as child:
        wait_for(source.with_name("packs").exists)
        [temporary] = cache.glob(".gpt2fast-*.tmp")
        os.utime(temporary, (0, time.time() - 3600))
        before = names(cache)
        assert len(before) == 3
        listed(capsys, "--prune")
        assert names(cache) == before
        source.with_name("go").touch()
        assert child.communicate(timeout=PATIENCE)[0]
    assert len(listed(capsys)["models"]) == 1


@pytest.mark.parametrize("by", ["name", "source", "file", "all"])
def test_remove(by: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a model that is not removed, or another one that is."""
    other = source.with_name("other")
    other.symlink_to(source)
    paths = [load_packed(s, dtype=d).path for s in (source, other) for d in ("int8", "float32")]
    assert None not in paths
    model = load_packed(source)
    called = {"name": "little", "source": str(source), "file": str(paths[0])}
    options = ["--remove-all"] if by == "all" else ["--remove", called[by]]
    assert cli.main(["models", *options]) == 0
    out = capsys.readouterr().out
    number = {"name": 4, "source": 2, "file": 1, "all": 4}[by]
    assert out.splitlines()[-1].startswith(f"removed {number} model")
    left = {path for path in paths if path is not None and path.exists()}
    assert len(left) == 4 - number and paths[0] not in left
    assert model.tensors["ln_f.bias"].shape == (24,)  # mapped all the same


def test_remove_what_is_not_there(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a mistyped name that removes something, or passes for removed."""
    load_packed(source)
    assert cli.main(["models", "--remove", "little", "large"]) == 2
    assert "no cached model is called 'large'; there are: little" in capsys.readouterr().err
    assert len(listed(capsys)["models"]) == 1
    assert cached_models.cached_models(source.with_name("nowhere")) == []
