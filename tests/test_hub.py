"""Models of the Hub, against a server that stands in for it: what is fetched, kept and refused."""

from __future__ import annotations

import errno
import importlib
import inspect
import logging
import shutil
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer
from hub_server import Hub, serve

import gpt2fast
from gpt2fast import cli, loading
from gpt2fast.cached_models import cached_models
from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.cli_terminal import ProgressLine
from gpt2fast.config import CheckpointError, Config
from gpt2fast.convert import convert
from gpt2fast.hub import SHORT_NAMES, Access, hub_id, needed
from gpt2fast.loading import load_packed

CONFIG = hf_config(n_layer=1)
SHAPES = Config.from_huggingface(CONFIG).tensor_shapes()
REPO = "tellers/tale.v1"
NEEDED = ["config.json", "merges.txt", "vocab.json", "model.safetensors"]
README = {"README.md": b"# a model", ".gitattributes": b"*.bin filter=lfs"}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the checkpoint that the server offers."""
    directory = tmp_path_factory.mktemp("hub") / "local"
    write_checkpoint(directory, CONFIG, random_tensors(SHAPES))
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def files(checkpoint: Path) -> dict[str, bytes]:
    content = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    others = ["tf_model.h5", "flax_model.msgpack", "pytorch_model.bin", "onnx/model.onnx"]
    return content | README | dict.fromkeys(others, b"not needed" * 1000)


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with one model, caches that are empty, and models that are never packed in memory."""
    package = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    for module in ("constants", "file_download"):
        importlib.import_module(f"huggingface_hub.{module}")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(package.constants, "HF_HUB_CACHE", str(tmp_path / "downloads"))
    monkeypatch.setattr(package.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(package.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    pause = SimpleNamespace(**{**vars(__import__("time")), "sleep": lambda _: None})
    monkeypatch.setattr(package.file_download, "time", pause)
    monkeypatch.setattr(loading, "IN_MEMORY_BELOW", 0)
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        server.publish(REPO, files)
        yield server


class Seen:
    """A progress that remembers the stages and what was said in each."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: dict[str, list[tuple[int, int]]] = {}

    def stage(self, stage: str) -> None:
        self.stages.append(stage.partition(" ")[0])

    def __call__(self, done: int, total: int) -> None:
        self.steps.setdefault(self.stages[-1], []).append((done, total))

    @property
    def packed(self) -> bool:
        return "packing" in self.steps


def load(name: str = REPO, **access: Any) -> tuple[PackedModel, Seen]:
    seen = Seen()
    return load_packed(name, progress=seen, access=Access(**access)), seen


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        *SHORT_NAMES.items(),
        (REPO, REPO),
        ("a/b", "a/b"),
        ("Org_1/gpt2-v1.0", "Org_1/gpt2-v1.0"),
        ("gpt-2", None),
        ("tales", None),
        ("./models/x", None),
        ("../models/x", None),
        ("/models/x", None),
        ("~/models", None),
        ("a/b/c", None),
        ("a/b/", None),
        ("a//b", None),
        ("a\\b", None),
        ("C:/models", None),
        ("models/gpt2.gguf", None),
        ("models/gpt2.safetensors", None),
        ("run/ckpt.PT", None),
        ("a/b\n", None),
        ("a/..b", None),
        ("a/b--c", None),
        ("a/é", None),
        ("a/" + "b" * 97, None),
        ("", None),
        (Path("a/b"), None),
    ],
)
def test_what_can_be_a_name(source: object, expected: str | None) -> None:
    """Catches a mistyped path that is sent to the Hub, and a model of the Hub that is not."""
    assert hub_id(source) == expected


INDEXED = ["model.safetensors.index.json", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (NEEDED, NEEDED),
        ([*NEEDED, "pytorch_model.bin", "sub/model.safetensors", "rust_model.ot"], NEEDED),
        ([*NEEDED, "tokenizer.json"], [*NEEDED[:2], "tokenizer.json", *NEEDED[2:]]),
        (["config.json", *INDEXED], ["config.json", *INDEXED]),
        ([*NEEDED, *INDEXED], NEEDED),
        (["config.json", "pytorch_model.bin", *INDEXED[:2]], ["config.json", "pytorch_model.bin"]),
        (["README.md", "gpt2-q8_0.gguf", "q4/gpt2.gguf"], ["gpt2-q8_0.gguf"]),
        (["q4/gpt2.gguf"], "no weights that gpt2fast reads"),
        (["config.json", "tale-int8.safetensors"], ["tale-int8.safetensors"]),
        (["gpt2-q8_0.gguf", "gpt2-q4_0.gguf"], r"holds 2 models \(gpt2-q4_0.gguf, gpt2-q8"),
        (["model.safetensors"], "has model.safetensors, but no config.json"),
        (
            ["config.json", "tf_model.h5"],
            "no weights that gpt2fast reads .* it has config.json, tf",
        ),
        ([], "it has nothing"),
    ],
)
def test_what_is_needed(names: list[str], expected: list[str] | str) -> None:
    """Catches copies of the weights that are downloaded for nothing, and files that are missing."""
    if isinstance(expected, list):
        assert needed(REPO, names) == expected
    else:
        with pytest.raises(CheckpointError, match=expected):
            needed(REPO, names)


@pytest.fixture
def terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> pytest.CaptureFixture[str]:
    """What comes out of the process, huggingface_hub's log included."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        monkeypatch.setattr(handler, "stream", sys.stderr)
    return capfd


def test_first_and_second_load(
    hub: Hub, checkpoint: Path, terminal: pytest.CaptureFixture[str]
) -> None:
    """Catches a model that differs from its files, useless requests, and words on the terminal."""
    import huggingface_hub

    hub.warning = "you should see this"
    model, seen = load()
    assert model.fingerprint == load_packed(checkpoint).fingerprint
    assert model.name == "tale.v1" and model.path is not None
    total = sum((checkpoint / name).stat().st_size for name in NEEDED)
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


def test_short_name(hub: Hub, files: dict[str, bytes]) -> None:
    """Catches a short name that leads elsewhere."""
    hub.publish("distilbert/distilgpt2", files)
    assert load("distilgpt2")[0].name == "distilgpt2"


def test_cut_connection(hub: Hub, checkpoint: Path, terminal: pytest.CaptureFixture[str]) -> None:
    """Catches a download that starts again, or ends damaged, after the connection broke."""
    hub.cut["model.safetensors"] = 5500
    model, seen = load()
    assert model.fingerprint == load_packed(checkpoint).fingerprint
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_pinned_commit(hub: Hub, files: dict[str, bytes]) -> None:
    """Catches a commit, which cannot change, that is looked up each time, or is not the one."""
    old = hub.repos[REPO].refs["main"]
    hub.publish(REPO, files | {"merges.txt": files["merges.txt"] + b"\n"})
    model, _ = load(revision=old)
    assert model.tokenizer_files["merges.txt"] == files["merges.txt"]
    hub.requests.clear()
    assert load(revision=old)[0].path == model.path
    assert not hub.requests
    assert load()[0].path != model.path


def test_changed_model(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    """Catches a new version that is not noticed, and one converted again for its README."""
    old = load()[0].path
    hub.publish(REPO, files | {"README.md": b"# better words"})
    hub.requests.clear()
    model, seen = load()
    assert model.path == old and not seen.steps and len(hub.requests) == 1
    hub.publish(REPO, files | {"config.json": files["config.json"] + b"\n"})
    new, seen = load()
    assert new.path != old and seen.packed
    assert hub.fetched() == {"config.json", "main"}
    states = {model.path: model.state for model in cached_models(tmp_path / "cache")}
    assert states == {old: "replaced", new.path: "current"}
    hub.publish(REPO, files, "v1")
    assert load(revision="v1")[0].path == old
    assert {model.state for model in cached_models(tmp_path / "cache")} == {"current"}
    hub.publish(REPO, files | {"config.json": files["config.json"] + b"\n\n"})
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


def test_mirror_that_knows_only_names(hub: Hub, files: dict[str, bytes]) -> None:
    """Catches a mirror without hashes whose new version is not noticed."""
    hub.blobs = False
    first, _ = load()
    assert load()[0].path == first.path
    hub.publish(REPO, files | {"README.md": b"#"})
    assert load()[0].path != first.path


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
    files: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """Catches a refusal that does not say what to do, has many lines, or shows the token."""
    for name in ("gated", "private"):
        hub.publish(f"tellers/{name}", files)
        hub.repos[f"tellers/{name}"].access = name
    hub.publish("tellers/empty", README)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load(repo, **access)
    assert "\n" not in str(caught.value) and "hf_" not in str(caught.value)
    assert not list(tmp_path.glob("cache/*.safetensors"))


@pytest.mark.parametrize("kind", ["gated", "private"])
def test_token(
    kind: str, hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a token that is not sent, or one of the environment that False does not stop."""
    hub.publish("tellers/own", files)
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


def test_local_wins(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    """Catches a directory that loses against a model of the same name, and paths that are sent."""
    shutil.copytree(checkpoint, tmp_path / REPO)
    assert load()[0].name == "tale.v1"
    for typo in (f"./{REPO}x", f"{tmp_path}/{REPO}x", f"{REPO}x.gguf", f"{REPO}/x"):
        with pytest.raises(CheckpointError, match="nor an existing file or directory"):
            load(typo)
    assert not hub.requests


def test_model_of_one_file(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    """Catches a packed file on the Hub that is packed again, or asked for in another dtype."""
    convert(checkpoint, tmp_path / "tale.safetensors", dtype="float16")
    content = (tmp_path / "tale.safetensors").read_bytes()
    hub.publish("tellers/packed", README | {"tale-float16.safetensors": content})
    model, seen = load("tellers/packed")
    assert model.dtype == "float16" and not seen.packed
    with pytest.raises(ValueError, match="is packed as float16"):
        load_packed("tellers/packed", dtype="int8")
    with pytest.raises(CheckpointError, match="is a packed file, not a checkpoint"):
        convert("tellers/packed", tmp_path / "never")


def test_convert(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    """Catches a conversion that ignores the revision, or names the file after the commit."""
    seen = Seen()
    hub.publish(REPO, README, "other")
    with pytest.raises(CheckpointError, match="has no weights"):
        convert(REPO, tmp_path, revision="other")
    receipt = convert(REPO, tmp_path, revision="main", progress=seen)
    assert receipt.source == "tale.v1"
    assert seen.steps["downloading"]
    model = load_packed(tmp_path / "tale.v1-int8.safetensors")
    assert model.fingerprint == load_packed(checkpoint).fingerprint
    assert hub.requests


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
