"""The models of the cache, as the command line lists and removes them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from loading_process import PATIENCE, names, process, wait_for

from gpt2fast import cached_models, cli
from gpt2fast.cache import Origin, cache_path, lock_path, origin_path, read_origin
from gpt2fast.cli.terminal import megabytes
from gpt2fast.loading import load_packed


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
def test_damaged_note(
    content: bytes, cached_source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a damaged note that hides the model it is about."""
    path = load_packed(cached_source).path
    assert path is not None
    assert read_origin(path) == Origin(str(cached_source))
    origin_path(path).write_bytes(content)
    assert read_origin(path) is None
    assert cli.main(["models"]) == 0
    assert "unknown" in capsys.readouterr().out


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert cli.main(["models", "--json", *options]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def change(cached_source: Path) -> None:
    (cached_source / "tokenizer_config.json").write_text("{}")


def test_models(cached_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a listing without name, dtype, size, source or age, or one with strange files."""
    cache = cached_source.with_name("cache")
    assert cli.main(["models"]) == 0
    assert capsys.readouterr().out == f"no models, 0.0 MB, in {cache}\n"
    paths = [load_packed(cached_source, dtype=dtype).path for dtype in ("int8", "float32")]
    old, new = (path for path in paths if path is not None)
    (cache / "mine-int8.safetensors").write_bytes(b"not of the cache")
    os.utime(old, (time.time() - 3 * 86400 - 10,) * 2)
    sizes = [path.stat().st_size for path in (old, new)]
    assert cli.main(["models"]) == 0
    head, *rows, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "DTYPE", "SIZE", "AGE", "SOURCE"]
    assert [row.split() for row in rows] == [
        ["little", "float32", *megabytes(sizes[1]).split(), "now", str(cached_source)],
        ["little", "int8", *megabytes(sizes[0]).split(), "3", "days", str(cached_source)],
    ]
    assert total == f"2 models, {megabytes(sum(sizes))}, in {cache}"
    content = listed(capsys)
    entries = content["models"]
    assert content["directory"] == str(cache)
    assert content["size"] == sum(entry["size"] for entry in entries) == sum(sizes)
    assert {entry["state"] for entry in entries} == {"current"}
    assert entries[0]["origin"] == {"source": str(cached_source), "revision": None, "commit": None}


def test_states_and_prune(cached_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a model in use that is pruned, or one that nothing can use and is kept."""
    cache = cached_source.with_name("cache")
    replaced = load_packed(cached_source).path
    assert replaced is not None
    os.utime(replaced, (time.time() - 100,) * 2)
    change(cached_source)
    current = load_packed(cached_source).path
    damaged = load_packed(cached_source, dtype="float16").path
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
    cached_source.rename(cached_source.with_name("moved"))
    assert [entry["state"] for entry in listed(capsys)["models"]] == ["source gone"]
    assert listed(capsys, "--prune")["removed"] == []


def test_prune_while_converting(cached_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches pruning that takes the lock, note or temporary file of a running conversion."""
    cache = cached_source.with_name("cache")
    with process(cached_source, "packing", "packs", "go") as child:
        wait_for(cached_source.with_name("packs").exists)
        [temporary] = cache.glob(".gpt2fast-*.tmp")
        os.utime(temporary, (0, time.time() - 3600))
        before = names(cache)
        assert len(before) == 3
        listed(capsys, "--prune")
        assert names(cache) == before
        cached_source.with_name("go").touch()
        assert child.communicate(timeout=PATIENCE)[0]
    assert len(listed(capsys)["models"]) == 1


@pytest.mark.parametrize("by", ["name", "source", "file", "all"])
def test_remove(by: str, cached_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a model that is not removed, or another one that is."""
    other = cached_source.with_name("other")
    other.symlink_to(cached_source)
    paths = [
        load_packed(s, dtype=d).path for s in (cached_source, other) for d in ("int8", "float32")
    ]
    assert None not in paths
    model = load_packed(cached_source)
    called = {"name": "little", "source": str(cached_source), "file": str(paths[0])}
    options = ["--remove-all"] if by == "all" else ["--remove", called[by]]
    assert cli.main(["models", *options]) == 0
    out = capsys.readouterr().out
    number = {"name": 4, "source": 2, "file": 1, "all": 4}[by]
    assert out.splitlines()[-1].startswith(f"removed {number} model")
    left = {path for path in paths if path is not None and path.exists()}
    assert len(left) == 4 - number and paths[0] not in left
    notes = {origin_path(path).name for path in left}
    assert names(cached_source.with_name("cache")) == notes | {path.name for path in left}
    assert model.tensors["ln_f.bias"].shape == (24,)  # mapped all the same


def test_remove_what_is_not_there(cached_source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a mistyped name that removes something, or passes for removed."""
    load_packed(cached_source)
    assert cli.main(["models", "--remove", "little", "large"]) == 2
    assert "no cached model is called 'large'; there are: little" in capsys.readouterr().err
    assert len(listed(capsys)["models"]) == 1
    assert cached_models.cached_models(cached_source.with_name("nowhere")) == []
