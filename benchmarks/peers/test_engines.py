"""Engines in processes of their own: what goes wrong with them, and a run of good and bad ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.peers import engines as registry
from benchmarks.peers import run
from benchmarks.peers.client import EngineError, EngineProcess
from benchmarks.peers.engines import Engine, Places, chosen
from gpt2fast.bench.roofline import Roofs

FAKE = Engine("fake", "Fake int8", "int8", "", "fake_engine", "", "", 8)
FAKE_ENGINE = """
import os
from benchmarks.peers.protocol import Generated, Stopwatch, serve

class Fake:
    version = "1"
    def __init__(self, model, format, threads):
        print("libraries print")
        self.wrong = model.joinpath("wrong").read_text()
        if self.wrong == "load":
            raise RuntimeError("no such layer")
    def generate(self, prompts, new):
        if self.wrong == "crash":
            os.write(2, b"terminate called\\n")
            os._exit(3)
        watch = Stopwatch()
        for _ in range(new):
            watch.token()
        short = new - (self.wrong == "tokens" and new > 8)
        found = watch.generated([[5] * short for _ in prompts])
        if self.wrong == "time":
            return Generated(found.tokens, 100.0, 1.0)
        return Generated(found.tokens, found.first, max(found.rest, 1e-6))

serve(Fake)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Places]:
    """An engine that does as it is told, in a process like any other."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # or its packages come before these
    monkeypatch.setattr("benchmarks.peers.client.ROOT", tmp_path)
    package = tmp_path / "benchmarks"
    real = Path(registry.__file__).parents[1]
    (package / "peers").mkdir(parents=True)
    protocol = Path("peers", "protocol.py")
    (package / protocol).write_bytes((real / protocol).read_bytes())
    (package / "peers" / "fake_engine.py").write_text(FAKE_ENGINE)
    places = Places(tmp_path / "cache")
    places.checkpoint("gpt2").mkdir(parents=True)

    def wrong(how: str) -> Places:
        (places.checkpoint("gpt2") / "wrong").write_text(how)
        return places

    return wrong


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("load", "RuntimeError: no such layer"),
        ("crash", "ended with status 3: terminate called"),
        ("tokens", r"produced \[63\] tokens, not 64"),
        ("time", "says 100.0 s and 1.0 s"),
    ],
)
def test_what_an_engine_does_wrong(how: str, message: str, fake: Callable[[str], Places]) -> None:
    """Catches a failure that becomes a number, hangs, or loses its reason."""
    places = fake(how)
    with pytest.raises(EngineError, match=message), EngineProcess(FAKE, places, "gpt2", 1) as one:
        one.generate([[1, 2, 3]], 64)


def test_an_engine_that_is_not_prepared(tmp_path: Path) -> None:
    """Catches a traceback for an engine that was never installed."""
    [llama] = chosen(["llamacpp-q8_0"])
    with pytest.raises(EngineError, match="not prepared: there is no venvs/llama/"):
        EngineProcess(llama, Places(tmp_path), "gpt2", 1)


def test_a_run_with_good_and_bad_engines(
    fake: Callable[[str], Places],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a run that one engine can stop, and results that overwrite earlier ones."""
    places = fake("nothing")
    [llama] = chosen(["llamacpp-q8_0"])
    monkeypatch.setattr("benchmarks.peers.engines.ENGINES", (FAKE, llama))
    monkeypatch.setattr("benchmarks.peers.run.RoofMeter", lambda: NoRoofs())
    options = ["--sizes", "gpt2", "--threads", "1", "--rounds", "2", "--repeats", "1"]
    folders = ["--cache", str(places.root), "--output", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", ["run", *options, *folders])
    run.main()
    text = capsys.readouterr().out
    assert "| Fake int8 | **" in text
    assert "llama.cpp Q8_0 failed: not prepared: there is no venvs/llama/" in text
    assert str(tmp_path) not in text
    run.main()
    files = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert [Path(name).suffix for name in files] == [".json", ".md"] * 2
    found = json.loads((tmp_path / "results" / files[0]).read_text())
    assert len(found["samples"]) >= 2 * 4 and len(found["failures"]) == 1


class NoRoofs:
    """Stands in for the meter, which takes a second."""

    def measure(self, _threads: int, _path: Path | None) -> Roofs:
        return Roofs(30e9, 30e9, 900e9, 230e9, disturbed=False)
