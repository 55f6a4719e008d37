"""Models of the Hub, against a server that stands in for it: what is fetched and kept."""

from __future__ import annotations

import inspect
import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hub_models import Seen, load
from hub_server import NEEDED, README, REPO, Hub

import gpt2fast
from gpt2fast import cli
from gpt2fast.cached_models import cached_models
from gpt2fast.cli.terminal import ProgressLine
from gpt2fast.config import CheckpointError
from gpt2fast.conversion.convert import convert
from gpt2fast.hub import Access
from gpt2fast.loading import load_packed


@pytest.fixture
def terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> pytest.CaptureFixture[str]:
    """What comes out of the process, huggingface_hub's log included."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        monkeypatch.setattr(handler, "stream", sys.stderr)
    return capfd


def test_first_and_second_load(
    hub: Hub, hub_checkpoint: Path, terminal: pytest.CaptureFixture[str]
) -> None:
    """Catches a model that differs from its files, useless requests, and words on the terminal."""
    import huggingface_hub

    hub.warning = "you should see this"
    model, seen = load()
    assert model.fingerprint == load_packed(hub_checkpoint).fingerprint
    assert model.name == "tale.v1" and model.path is not None
    total = sum((hub_checkpoint / name).stat().st_size for name in NEEDED)
    assert hub.fetched() == {*NEEDED, "main"}
    done = seen.steps["downloading"]
    assert done == sorted(done) and done[-1] == (total, total)
    in_pieces = "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters
    assert len(done) > (10 if in_pieces else 3)
    assert seen.packed
    hub.requests.clear()
    again, seen = load()
    assert again.path == model.path and not seen.steps
    assert hub.requests == [("GET", f"/api/models/{REPO}/revision/main", None)]
    assert terminal.readouterr() == ("", "")


def test_short_name(hub: Hub, hub_files: dict[str, bytes]) -> None:
    """Catches a short name that leads elsewhere."""
    hub.publish("distilbert/distilgpt2", hub_files)
    assert load("distilgpt2")[0].name == "distilgpt2"


def test_cut_connection(
    hub: Hub, hub_checkpoint: Path, terminal: pytest.CaptureFixture[str]
) -> None:
    """Catches a download that starts again, or ends damaged, after the connection broke."""
    hub.cut["model.safetensors"] = 5500
    model, seen = load()
    assert model.fingerprint == load_packed(hub_checkpoint).fingerprint
    ranges = [wanted for _, path, wanted in hub.requests if path.startswith("/lfs/")]
    assert ranges == [None, "bytes=5000-"]
    assert seen.steps["downloading"][-1][0] == seen.steps["downloading"][-1][1]
    assert terminal.readouterr() == ("", "")
    logging.getLogger("huggingface_hub").warning("of another part of the program")
    assert "another part" in terminal.readouterr().err


@pytest.mark.parametrize("how", ["option", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline(how: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a model that needs the network, or its source, although it was converted."""
    access: dict[str, Any] = {"local_files_only": True} if how == "option" else {}
    if how != "option":
        monkeypatch.setenv(how, "1")
    with pytest.raises(FileNotFoundError, match=r"'tellers/tale.v1' \(revision 'main'\) was not"):
        load(**access)
    assert not hub.requests
    path = load_online(monkeypatch, how)
    hub.requests.clear()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "huggingface_hub", None)
        shutil.move(tmp_path / "downloads", tmp_path / "elsewhere")
        assert load(**access)[0].path == path
        with pytest.raises(CheckpointError, match=r'pip install "gpt2fast\[hub\]"'):
            load(revision="v2", **access)
    with pytest.raises(FileNotFoundError, match=r"config.json is missing, and the network is"):
        load_packed(REPO, dtype="float32", access=Access(**access))
    shutil.move(tmp_path / "elsewhere", tmp_path / "downloads")
    assert load_packed(REPO, dtype="float32", access=Access(**access)).dtype == "float32"
    assert not hub.requests


def load_online(monkeypatch: pytest.MonkeyPatch, how: str) -> Path | None:
    with monkeypatch.context() as online:
        online.delenv(how, raising=False)
        return load()[0].path


def test_downloaded_by_another_program(hub: Hub) -> None:
    """Catches files of huggingface_hub's cache that are not found, or are fetched again."""
    import huggingface_hub

    for name in NEEDED[:-1]:
        huggingface_hub.hf_hub_download(REPO, name, endpoint=hub.url)
    with pytest.raises(FileNotFoundError, match="was not downloaded before"):
        load(local_files_only=True)
    huggingface_hub.hf_hub_download(REPO, NEEDED[-1], endpoint=hub.url)
    hub.requests.clear()
    model, _ = load(local_files_only=True)
    assert not hub.requests
    hub.answer = (503, "")
    assert load()[0].path == model.path
    hub.answer = None
    online, seen = load()
    assert online.path == model.path and not seen.packed


def test_others_find_what_was_downloaded(hub: Hub) -> None:
    """Catches a download that transformers does not find offline, for lack of the branch."""
    import huggingface_hub

    load()
    path = huggingface_hub.hf_hub_download(REPO, NEEDED[-1], local_files_only=True)
    assert Path(path).parent.name == hub.repos[REPO].refs["main"]


def test_pinned_commit(hub: Hub, hub_files: dict[str, bytes]) -> None:
    """Catches a commit, which cannot change, that is looked up each time, or is not the one."""
    old = hub.repos[REPO].refs["main"]
    hub.publish(REPO, hub_files | {"merges.txt": hub_files["merges.txt"] + b"\n"})
    model, _ = load(revision=old)
    assert model.tokenizer_files["merges.txt"] == hub_files["merges.txt"]
    hub.requests.clear()
    assert load(revision=old)[0].path == model.path
    assert not hub.requests
    assert load()[0].path != model.path


def test_changed_model(hub: Hub, hub_files: dict[str, bytes], tmp_path: Path) -> None:
    """Catches a new version that is not noticed, and one converted again for its README."""
    old = load()[0].path
    hub.publish(REPO, hub_files | {"README.md": b"# better words"})
    hub.requests.clear()
    model, seen = load()
    assert model.path == old and not seen.steps and len(hub.requests) == 1
    hub.publish(REPO, hub_files | {"config.json": hub_files["config.json"] + b"\n"})
    new, seen = load()
    assert new.path != old and seen.packed
    assert hub.fetched() == {"config.json", "main"}
    states = {model.path: model.state for model in cached_models(tmp_path / "cache")}
    assert states == {old: "replaced", new.path: "current"}
    hub.publish(REPO, hub_files, "v1")
    assert load(revision="v1")[0].path == old
    assert {model.state for model in cached_models(tmp_path / "cache")} == {"current"}
    hub.publish(REPO, hub_files | {"config.json": hub_files["config.json"] + b"\n\n"})
    assert load()[0].path not in (old, new.path)
    for answer in tmp_path.glob("cache/hub-*.json"):
        answer.unlink()  # then nobody knows which is the current one
    assert {model.state for model in cached_models(tmp_path / "cache")} == {"current"}


def test_two_threads(hub: Hub) -> None:
    """Catches a model that is downloaded or packed once for each thread that asks for it."""
    with ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(load), pool.submit(load)]]
    assert results[0][0].path == results[1][0].path
    assert sorted(seen.packed for _, seen in results) == [False, True]
    assert len([path for _, path, _ in hub.requests if path.startswith("/lfs/")]) == 1


def test_mirror_that_knows_only_names(hub: Hub, hub_files: dict[str, bytes]) -> None:
    """Catches a mirror without hashes whose new version is not noticed."""
    hub.blobs = False
    first, _ = load()
    assert load()[0].path == first.path
    hub.publish(REPO, hub_files | {"README.md": b"#"})
    assert load()[0].path != first.path


def test_local_wins(hub: Hub, hub_checkpoint: Path, tmp_path: Path) -> None:
    """Catches a directory that loses against a model of the same name, and paths that are sent."""
    shutil.copytree(hub_checkpoint, tmp_path / REPO)
    assert load()[0].name == "tale.v1"
    for typo in (f"./{REPO}x", f"{tmp_path}/{REPO}x", f"{REPO}x.gguf", f"{REPO}/x"):
        with pytest.raises(CheckpointError, match="nor an existing file or directory"):
            load(typo)
    assert not hub.requests


def test_model_of_one_file(hub: Hub, hub_checkpoint: Path, tmp_path: Path) -> None:
    """Catches a packed file on the Hub that is packed again, or asked for in another dtype."""
    convert(hub_checkpoint, tmp_path / "tale.safetensors", dtype="float16")
    content = (tmp_path / "tale.safetensors").read_bytes()
    hub.publish("tellers/packed", README | {"tale-float16.safetensors": content})
    model, seen = load("tellers/packed")
    assert model.dtype == "float16" and not seen.packed
    with pytest.raises(ValueError, match="is packed as float16"):
        load_packed("tellers/packed", dtype="int8")
    with pytest.raises(CheckpointError, match="is a packed file, not a checkpoint"):
        convert("tellers/packed", tmp_path / "never")


def test_convert(hub: Hub, hub_checkpoint: Path, tmp_path: Path) -> None:
    """Catches a conversion that ignores the revision, or names the file after the commit."""
    seen = Seen()
    hub.publish(REPO, README, "other")
    with pytest.raises(CheckpointError, match="has no weights"):
        convert(REPO, tmp_path, revision="other")
    receipt = convert(REPO, tmp_path, revision="main", progress=seen)
    assert receipt.source == "tale.v1"
    assert seen.stages == ["downloading", "packing"] and len(seen.steps) == 2
    model = load_packed(tmp_path / "tale.v1-int8.safetensors")
    assert model.fingerprint == load_packed(hub_checkpoint).fingerprint
    assert hub.requests


def test_progress_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches stages that overwrite each other, and one that is named although nothing happens."""
    line = ProgressLine("loading")
    for stage, steps in (("getting", (0, 1, 2, 2)), ("waiting", ()), ("packing", (1, 4))):
        line.stage(stage)
        for step in steps:
            line(step, 4)
    parts = ["\rgetting:   0%", "\rgetting:  25%", "\rgetting:  50%", "\n"]
    parts += ["\rpacking:  25%", "\rpacking: 100%\n"]
    assert capsys.readouterr().err == "".join(parts)


def test_command_line(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a command that cannot load from the Hub, or shows an error in many lines."""
    arguments = ["--max-new-tokens", "3", "--quiet", "--seed", "1", "a"]
    assert cli.main(["generate", "--model", REPO, "--revision", "main", *arguments]) == 0
    text = capfd.readouterr().out
    hub.requests.clear()
    assert cli.main(["generate", "--model", REPO, "--local-files-only", *arguments]) == 0
    assert capfd.readouterr() == (text, "") and not hub.requests
    assert cli.main(["info", REPO, "--revision", "v9"]) == 1
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "has no revision 'v9'" in err
    assert cli.main(["convert", REPO, "p.safetensors", "--revision", "main", "--quiet"]) == 0
    assert Path("p.safetensors").exists()


def test_estimate(hub: Hub, tmp_path: Path) -> None:
    """Catches an estimate that downloads, or that differs from what load then takes."""
    with pytest.raises(FileNotFoundError, match="was not downloaded before"):
        gpt2fast.estimate(REPO)
    model = load()[0]
    assert model.path is not None
    hub.requests.clear()
    converted = gpt2fast.estimate(REPO)
    assert (converted.file, converted.weights) == (model.path.stat().st_size, model.nbytes)
    model.path.unlink()
    assert gpt2fast.estimate(REPO) == converted
    assert gpt2fast.estimate(REPO, dtype="float32").weights > converted.weights
    assert not hub.requests and not list(tmp_path.glob("cache/*.safetensors"))
