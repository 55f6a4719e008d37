"""What the guard says of runs that became slower, or did not, and that it runs at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import guard
from benchmarks.peers.engines import Places, chosen
from benchmarks.peers.run import Comparison, _described
from benchmarks.peers.test_report import ROOFS

SHARE, OVER = "gpt2 decode32, share of the roof", "gpt2 decode32 over llamacpp-q8_0"


def record(ours: list[float], peer: float = 100.0, **changes: Any) -> dict[str, Any]:
    """A run of rounds with these speeds of ours, on a machine that halves its speed in each."""
    engines = chosen(["gpt2fast-int8", "llamacpp-q8_0"])
    samples, visits, roofs = [], [], []
    for round_, rate in enumerate(ours):
        slow = 2.0**-round_
        rates = {name: value if name == "disturbed" else value * slow
                 for name, value in ROOFS.items()}  # fmt: skip
        roofs.append({"threads": 2, "target": "", "round": round_, "rates": rates})
        for engine, speed in zip(engines, (rate, peer), strict=True):
            where = {"engine": engine.name, "size": "gpt2", "threads": 2, "round": round_}
            visits.append(where)
            sample = {"measure": "decode32", "rate": speed * slow, "clean": True}
            samples.append(where | sample)
    return {
        "machine": {"cpu": "A CPU", "target": "avx2"},
        "engines": [_described(engine) for engine in engines],
        "samples": samples, "visits": visits, "roofs": roofs, "failures": [], **changes,
    }  # fmt: skip


def baseline(share: float = 0.8, over: float = 2.0) -> guard.Baseline:
    return {"A CPU": {"avx2": {"2": {SHARE: share, OVER: over}}}}


def verdicts(found: dict[str, Any], known: guard.Baseline) -> list[str]:
    return [row.verdict for row in guard.judged(found, known)]


def test_what_has_fallen() -> None:
    """Catches a slowdown that passes, noise that fails, and drift of the machine that counts."""
    good = guard.updated(record([200.0, 202.0, 198.0]), {})
    assert verdicts(record([190.0, 205.0, 195.0]), good) == ["ok", "ok"]
    assert verdicts(record([150.0, 152.0, 149.0]), good) == ["FALLEN", "FALLEN"]
    assert verdicts(record([150.0, 205.0, 149.0]), good) == ["ok", "ok"]  # reaches above
    assert verdicts(record([300.0, 301.0, 299.0]), good) == ["ok", "ok"]
    only_peer = verdicts(record([200.0, 200.0, 200.0], peer=130.0), good)
    assert only_peer == ["ok", "FALLEN"]


def test_what_cannot_be_judged() -> None:
    """Catches a verdict without rounds, without a baseline, or on a busy machine."""
    assert verdicts(record([200.0]), baseline()) == ["one round: says nothing"] * 2
    assert verdicts(record([1.0, 1.0]), {}) == ["no baseline"] * 2
    other = {"B CPU": baseline()["A CPU"]}
    assert verdicts(record([1.0, 1.0]), other) == ["no baseline"] * 2
    busy = record([1.0, 1.0])
    for sample in busy["samples"]:
        sample["clean"] = False
    assert verdicts(busy, baseline()) == ["disturbed: says nothing"] * 2
    spoilt = record([200.0, 200.0])
    for roofs in spoilt["roofs"]:
        roofs["rates"]["disturbed"] = True
    assert verdicts(spoilt, baseline()) == ["disturbed: says nothing", "ok"]
    failure = {"engine": "llamacpp-q8_0", "size": "gpt2", "threads": 2, "reason": "no such file"}
    failed = record([200.0, 200.0], failures=[failure])
    assert verdicts(failed, baseline()) == ["ok", "not measured"]


def test_status() -> None:
    """Catches a failure that looks like success to whoever reads the exit status."""
    rows = {name: list(guard.judged(record(ours), known)) for name, ours, known in (
        ("ok", [200.0, 200.0], baseline()), ("fallen", [1.0, 1.0], baseline()),
        ("unknown", [1.0, 1.0], {}))}  # fmt: skip
    assert guard.status(rows["ok"], []) == 0
    assert guard.status(rows["fallen"], []) == guard.status(rows["ok"], ["crashed"]) == 1
    assert guard.status(rows["unknown"], []) == 2
    assert any("FALLEN" in line for line in guard.table(rows["fallen"]))


def test_update() -> None:
    """Catches an update that forgets other machines, or takes in what says nothing."""
    known = baseline(share=0.5) | {"B CPU": {"avx2": {"1": {SHARE: 0.9}}}}
    new = guard.updated(record([200.0, 200.0, 200.0]), known)
    assert new["B CPU"] == known["B CPU"] and known["A CPU"]["avx2"]["2"][SHARE] == 0.5
    assert new["A CPU"]["avx2"]["2"] == pytest.approx({SHARE: 0.825, OVER: 2.0}, rel=0.01)
    assert guard.updated(record([200.0]), known) == known


@pytest.mark.parametrize(
    ("arguments", "content", "message"),
    [
        (["--threads", "9999"], "{}", "--threads 9999: 1 to "),
        (["--rounds", "0"], "{}", "--rounds 0: 1 or more is allowed"),
        (["--size", "gpt3"], "{}", "invalid choice: 'gpt3'"),
        ([], "[1]", "x.json is no baseline: "),
        ([], "{", "x.json is no baseline: "),
        ([], '{"a": {"b": {"1": {"c": 0}}}}', "a ratio is not above 0"),
        ([], '{"a": {"b": {"1": {"c": "x"}}}}', "x.json is no baseline: "),
    ],
)
def test_bad_input(
    arguments: list[str],
    content: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches bad input that is found only after minutes of measuring, or with a traceback."""
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as end:
        guard.main([*arguments, "--baseline", str(path), "--cache", str(tmp_path)])
    assert message in f"{end.value} {capsys.readouterr().err}"


def test_an_update_and_a_judgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a command that does not write what it then reads."""
    found = record([200.0, 200.0])
    engines = chosen(["gpt2fast-int8", "llamacpp-q8_0"])
    monkeypatch.setattr(guard, "_engines", lambda *_: engines)
    monkeypatch.setattr(Comparison, "minutes", lambda _: 0.0)
    monkeypatch.setattr(Comparison, "run", lambda self: self.record.update(found))
    path = tmp_path / "new.json"
    common = ["--baseline", str(path), "--cache", str(tmp_path), "--threads", "1"]
    assert guard.main(common) == 2
    assert guard.main([*common, "--update"]) == 0
    assert set(json.loads(path.read_text())["A CPU"]["avx2"]["2"]) == {SHARE, OVER}
    assert guard.main(common) == 0
    found |= record([100.0, 100.0])
    capsys.readouterr()
    assert guard.main(common) == 1
    assert "FALLEN" in capsys.readouterr().out
    assert guard.main([*common, "--smoke"]) == 0
    found["failures"] = [{"engine": "gpt2fast-int8", "size": "gpt2", "threads": 2, "reason": "?"}]
    assert guard.main([*common, "--smoke"]) == 1


def test_which_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a peer that nobody prepared, and a baseline's that is passed over."""
    monkeypatch.setattr(guard, "prepare", lambda *_: [])
    places = Places(tmp_path)

    def names(known: guard.Baseline, *arguments: str) -> list[str]:
        options = guard._options([*arguments])
        return [engine.name for engine in guard._engines(places, options, known)]

    assert names(baseline()) == ["gpt2fast-int8"]
    for engine in chosen(["onnxruntime-int8", "llamacpp-q8_0"]):
        python = places.python(engine.environment)
        python.parent.mkdir(parents=True)
        python.touch()
        places.model(engine, "gpt2").mkdir(parents=True)
    assert names({}) == ["gpt2fast-int8", "llamacpp-q8_0"]
    onnx = {"A": {"avx2": {"1": {"gpt2 decode32 over onnxruntime-int8": 1.0}}}}
    assert names(onnx) == ["gpt2fast-int8", "onnxruntime-int8"]
    assert names(onnx, "--peers") == ["gpt2fast-int8"]
    with pytest.raises(SystemExit, match="'nix' is not one of llamacpp-q8_0"):
        names(onnx, "--peers", "nix")


def test_the_committed_baseline() -> None:
    """Catches a baseline that the guard cannot read, or of ratios that it does not measure."""
    for by_target in guard._read(guard.BASELINE).values():
        for by_threads in by_target.values():
            for ratios in by_threads.values():
                assert all(name.split()[1].strip(",") in guard._MEASURES for name in ratios)
