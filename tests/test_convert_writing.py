"""Writing a packed file: catches one half-written, whatever goes wrong, and a source destroyed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer

from gpt2fast.checkpoints.huggingface import HuggingFaceCheckpoint
from gpt2fast.config import CheckpointError, Config
from gpt2fast.conversion.convert import convert
from gpt2fast.loading import load_packed

CONFIG = hf_config()
TENSORS = random_tensors(Config.from_huggingface(CONFIG).tensor_shapes())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a small checkpoint with tokenizer."""
    directory = write_checkpoint(tmp_path / "little", CONFIG, TENSORS)
    write_tokenizer(directory)
    return directory


@pytest.mark.parametrize("kind", ["same", "symlink", "hard link", "config.json"])
def test_own_source_is_not_overwritten(kind: str, source: Path, tmp_path: Path) -> None:
    """Catches a conversion that destroys what it reads."""
    weights = source / "model.safetensors"
    destination = {"same": weights, "config.json": source / "config.json"}.get(kind, tmp_path / "x")
    if kind == "symlink":
        destination.symlink_to(weights)
    elif kind == "hard link":
        os.link(weights, destination)
    before = weights.read_bytes()
    with pytest.raises(CheckpointError, match="belongs to the source: name another destination"):
        convert(source, destination)
    assert weights.read_bytes() == before


class Stop(BaseException):
    """Stands for anything that may interrupt a conversion."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stop, MemoryError, OSError])
@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_interrupted(
    at: float, existing: bool, error: type[BaseException], source: Path, tmp_path: Path
) -> None:
    """Catches anything left behind by a conversion that was stopped at any point."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "packed.safetensors"
    if existing:
        path.write_bytes(b"old")

    def stop(done: int, total: int) -> None:
        if done >= at * total:
            raise error

    with pytest.raises(error):
        convert(source, path, progress=stop)
    assert list(folder.iterdir()) == ([path] if existing else [])
    assert not existing or path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [0, 5_000, 20_000, 70_000])
def test_full_disk(limit: int, source: Path, tmp_path: Path) -> None:
    """Catches a partial file left by a disk that fills up (here: a limit on file sizes)."""
    import resource

    folder = tmp_path / "out"
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"too large: '.*packed\.safetensors'"):
            convert(source, folder / "packed.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []


SMALL_DISK = """
import errno, os, shutil, sys
from gpt2fast.conversion.convert import convert
source, disk = sys.argv[1:]
os.makedirs(disk)
if os.system(f"mount -t tmpfs -o size=48k none {disk}"):
    sys.exit("no mount")
for free in (None, 1 << 40):
    if free is not None:  # the disk fills up after we looked
        shutil.disk_usage = lambda path: shutil._ntuple_diskusage(free, 0, free)
    try:
        convert(source, disk + "/packed.safetensors")
    except OSError as error:
        assert error.errno == errno.ENOSPC and "packed.safetensors" in str(error), error
        assert "are free" in str(error) or free is not None
        assert os.listdir(disk) == []
    else:
        raise AssertionError("the disk was not full")
"""


def test_disk_without_room(source: Path, tmp_path: Path) -> None:
    """Catches what a limit on file sizes does not: a disk that is really full."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("cannot mount a small disk here")
    done = subprocess.run(
        [unshare, "-Urm", sys.executable, "-c", SMALL_DISK, str(source), str(tmp_path / "disk")],
        capture_output=True,
        text=True,
    )
    if "no mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip("cannot mount a small disk here")
    assert done.returncode == 0, done.stderr


def test_no_room_is_said_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a conversion that works for minutes before it finds the disk too small."""
    read = []
    free = shutil._ntuple_diskusage(1 << 40, 0, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(OSError, match=r"takes [0-9,]+ bytes, 1,000 are free: .*p\.safetensors"):
        convert(source, tmp_path / "p.safetensors", progress=lambda *done: read.append(done))
    assert not read and [path.name for path in tmp_path.iterdir()] == ["little"]

    def refuse(_: Path) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    convert(source, tmp_path / "p.safetensors")


def test_rename_fails(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error of the last step taken for success."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    path = tmp_path / "packed.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="input/output"):
        convert(source, path)
    assert path.read_bytes() == b"old"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["little", "packed.safetensors"]


def test_source_cannot_be_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a failing disk whose error names the destination, or nothing."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(HuggingFaceCheckpoint, "read", fail)
    with pytest.raises(OSError, match=r"input/output error: '.*little: tensor wte\.weight'"):
        convert(source, tmp_path / "p.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c(tmp_path: Path) -> None:
    """Catches a Ctrl-C that waits for the end, prints a traceback or leaves a part."""
    config = hf_config(n_embd=512, n_head=8, n_positions=256, vocab_size=20_000)
    shapes = Config.from_huggingface(config).tensor_shapes()
    tensors = {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}
    source = write_checkpoint(tmp_path / "large", config, tensors)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "gpt2fast", "convert", str(source), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not any(path.stat().st_size > 1_000_000 for path in out.iterdir()):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        printed = process.communicate()
    assert (process.returncode, printed) == (130, (b"", b""))
    assert list(out.iterdir()) == []


def test_order_of_writing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rename before the content is on the disk, or a directory never flushed."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        calls.append("fsync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))[:9])
        fsync(descriptor)

    def traced_replace(old: Path, new: Path) -> None:
        calls.append("replace " + Path(new).name)
        replace(old, new)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("reads the names of open files from /proc")
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out" / "p.safetensors")
    assert calls == ["fsync .gpt2fast", "replace p.safetensors", "fsync out"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_permissions(source: Path, tmp_path: Path) -> None:
    """Catches a converted file that only its owner may read, or one that lost its bits."""
    path = tmp_path / "packed.safetensors"
    (tmp_path / "plain").touch()
    convert(source, path)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    convert(source, path)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_directory_as_destination(dtype: str, tmp_path: Path) -> None:
    """Catches a directory that is refused, and a name that the source's could lead elsewhere."""
    source = write_checkpoint(tmp_path / "two words", CONFIG, TENSORS)
    (tmp_path / "out").mkdir()
    for destination in (tmp_path / "out", source):
        convert(source, destination, dtype=dtype)
        assert load_packed(destination / f"two_words-{dtype}.safetensors").name == "two words"
    assert len(list((tmp_path / "out").iterdir())) == 1
    (tmp_path / "out" / "two_words-float32.safetensors").mkdir()
    with pytest.raises(FileExistsError, match=r"two_words-float32\.safetensors exists"):
        convert(source, tmp_path / "out", dtype="float32")


@pytest.mark.parametrize("kind", ["no directory", "device"])
def test_bad_destination(kind: str, source: Path, tmp_path: Path) -> None:
    """Catches a destination that is not a file's name."""
    paths = {
        "no directory": tmp_path / "no" / "x",
        "device": Path(os.devnull),
    }
    with pytest.raises(OSError, match=r"not a regular file|does not exist"):
        convert(source, paths[kind])


@pytest.mark.parametrize("change", ["replaced", "rewritten", "truncated", "removed"])
@pytest.mark.parametrize("name", ["model.safetensors", "merges.txt"])
def test_source_changed_while_read(name: str, change: str, source: Path, tmp_path: Path) -> None:
    """Catches a file of mixed versions when the source changes during the conversion."""
    path = source / name
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    changes: dict[str, Callable[[], object]] = {
        "replaced": lambda: os.replace(copy, path),
        "rewritten": lambda: path.write_bytes(copy.read_bytes()),
        "truncated": lambda: os.truncate(path, path.stat().st_size - 1),
        "removed": path.unlink,
    }

    def meddle(done: int, total: int) -> None:
        if changes and done > total / 2:
            changes[change]()
            changes.clear()

    said = rf"{re.escape(name)} was removed" if change == "removed" else re.escape(name)
    with pytest.raises(CheckpointError, match=rf"{said}.* while it was read"):
        convert(source, tmp_path / "p.safetensors", progress=meddle)
    assert not (tmp_path / "p.safetensors").exists()
