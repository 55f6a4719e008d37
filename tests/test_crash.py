"""Conversions that are killed or have no room: the destination has the old file or the new one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer

import gpt2fast
from gpt2fast.checkpoints.packed import open_packed
from gpt2fast.config import Config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

KILLED = """
import os, signal, sys, gpt2fast
import gpt2fast.conversion.comparison, gpt2fast.conversion.convert, gpt2fast.conversion.passage
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

def convert(source, destination, point):
    def progress(done, total):
        if point.isdecimal() and done >= int(point) / 100 * total:
            die()
    if point in ("fsync", "replace"):
        setattr(os, point, die)
    elif point == "after":
        replace = os.replace
        os.replace = lambda *paths: (replace(*paths), die())
    gpt2fast.convert(source, destination, progress=progress)

for argument in sys.argv[2:]:  # a folder named by its point
    child = os.fork()
    if child == 0:
        try:
            convert(sys.argv[1], argument + "/packed.safetensors", argument.rpartition("-")[2])
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, argument
"""
POINTS = ["0", "20", "60", "90", "100", "fsync", "replace", "after"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small checkpoint with tokenizer."""
    config = hf_config()
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    directory = write_checkpoint(tmp_path_factory.mktemp("crash") / "little", config, tensors)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def killed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill conversions at all points, with and without an existing destination."""
    root = tmp_path_factory.mktemp("killed")
    folders = [root / f"{kind}-{point}" for kind in ("old", "new") for point in POINTS]
    for folder in folders:
        folder.mkdir()
        if folder.name.startswith("old"):
            (folder / "packed.safetensors").write_bytes(b"old")
    command = [sys.executable, "-c", KILLED, str(source), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("kind", ["old", "new"])
@pytest.mark.parametrize("point", POINTS)
def test_killed(point: str, kind: str, killed: Path, source: Path) -> None:
    """Catches a half-written destination, or one that a killed conversion makes unusable."""
    folder = killed / f"{kind}-{point}"
    path = folder / "packed.safetensors"
    if point == "after":
        open_packed(path, verify=True)
    else:
        assert not path.exists() if kind == "new" else path.read_bytes() == b"old"
    assert len([left for left in folder.iterdir() if left != path]) == (point != "after")
    gpt2fast.convert(source, path)
    open_packed(path, verify=True)


@pytest.mark.parametrize("existing", [True, False])
def test_no_room_at_the_end(
    existing: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a destination replaced by a file that the disk did not take."""
    path = tmp_path / "packed.safetensors"
    if existing:
        path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        gpt2fast.convert(source, path)
    assert list(tmp_path.iterdir()) == ([path] if existing else [])
    assert not existing or path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a directory where nobody may write")
def test_directory_where_nobody_may_write(source: Path) -> None:
    """Catches an error that is no OSError, or does not name the place."""
    with pytest.raises(OSError, match="/proc"):
        gpt2fast.convert(source, Path("/proc/packed.safetensors"))


def test_two_at_once(source: Path, tmp_path: Path) -> None:
    """Catches two conversions to one destination that write into one another's file."""
    path = tmp_path / "packed.safetensors"
    code = "import sys, gpt2fast; gpt2fast.convert(*sys.argv[1:3], dtype=sys.argv[3])"
    command = [sys.executable, "-c", code, str(source), str(path)]
    processes = [subprocess.Popen([*command, dtype]) for dtype in ("int8", "float32") * 2]
    assert [process.wait(timeout=240) for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == [path]
    open_packed(path, verify=True)
