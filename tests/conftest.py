"""Fixtures of the whole suite: targets, test files, models, a Hub; and the guard on skips."""

from __future__ import annotations

import fnmatch
import importlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace

import checkpoint_files
import hub_server
import pytest
import random_checkpoints
from reference import Array

SKIPS = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--expected-skips",
        type=Path,
        help="fail on a skip whose reason matches no line (a shell pattern) of this file",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: builds a model of 124M parameters (a minute, 2 GB)")
    config.stash[SKIPS] = set()
    os.environ["PYTHONSAFEPATH"] = "1"  # child processes import what is installed, not this folder
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's parent ignores it


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        from gpt2fast import _core

        usable = [name for name, reason in _core.supported().items() if not reason]
        metafunc.parametrize("target", usable, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        item.config.stash[SKIPS].add(report.longrepr[2].removeprefix("Skipped: "))
    return report


def unexpected_skips(config: pytest.Config) -> list[str]:
    path = config.getoption("--expected-skips")
    if path is None:
        return []
    patterns = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    found: set[str] = config.stash[SKIPS]
    return [
        reason
        for reason in sorted(found)
        if not any(fnmatch.fnmatchcase(reason, pattern) for pattern in patterns)
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if unexpected_skips(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason in unexpected_skips(terminalreporter.config):
        terminalreporter.line(f"unexpected skip: {reason}", red=True)


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the target that is forced while the test runs; test_dispatch lists the others."""
    from gpt2fast import _core

    name: str = request.param
    _core.force_target(name)
    yield name
    ran = _core.target()
    _core.force_target(None)
    assert ran == name, f"{name} was forced, {ran} ran"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of test files (models, texts, real matrices) that GPT2FAST_TEST_DATA names."""
    folder = os.environ.get("GPT2FAST_TEST_DATA")
    if not folder:
        pytest.skip("GPT2FAST_TEST_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def tales(test_data: Path) -> tuple[dict[str, object], dict[str, Array]]:
    """Configuration and float32 tensors of the small trained model."""
    folder = test_data / "models" / "tales"
    found = json.loads((folder / "config.json").read_text())
    config = random_checkpoints.config_from_huggingface(found)
    return config, random_checkpoints.read_safetensors(folder / "model.safetensors")


@pytest.fixture(scope="session")
def hub_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the stand-in of the Hub offers."""
    from gpt2fast.config import Config

    directory = tmp_path_factory.mktemp("hub") / "local"
    config = checkpoint_files.hf_config(n_layer=1)
    shapes = Config.from_huggingface(config).tensor_shapes()
    checkpoint_files.write_checkpoint(directory, config, checkpoint_files.random_tensors(shapes))
    checkpoint_files.write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def hub_files(hub_checkpoint: Path) -> dict[str, bytes]:
    """All files of its model, with those that nobody here needs."""
    content = {path.name: path.read_bytes() for path in hub_checkpoint.iterdir()}
    others = ["tf_model.h5", "flax_model.msgpack", "pytorch_model.bin", "onnx/model.onnx"]
    return content | hub_server.README | dict.fromkeys(others, b"not needed" * 1000)


@pytest.fixture
def hub(
    hub_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[hub_server.Hub]:
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
    hasty = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr(package.file_download, "time", hasty)
    monkeypatch.setattr("gpt2fast.loading.IN_MEMORY_BELOW", 0)
    monkeypatch.chdir(tmp_path)
    with hub_server.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        server.publish(hub_server.REPO, hub_files)
        yield server


@pytest.fixture
def cached_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that is never packed in memory; the cache is `cache`, beside it."""
    from gpt2fast.config import Config

    monkeypatch.setattr("gpt2fast.loading.IN_MEMORY_BELOW", 0)
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    config = checkpoint_files.hf_config(n_layer=1)
    tensors = checkpoint_files.random_tensors(Config.from_huggingface(config).tensor_shapes())
    directory = checkpoint_files.write_checkpoint(tmp_path / "little", config, tensors)
    checkpoint_files.write_tokenizer(directory)
    return directory


@pytest.fixture
def run_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `gpt2fast chat` with these lines in a pipe: status, stdout, stderr."""
    from gpt2fast.cli import main

    def call(lines: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        status = main(["chat", "--threads", "1", "--max-new-tokens", "9", *arguments])
        out = capsys.readouterr()
        return status, out.out, out.err

    return call
