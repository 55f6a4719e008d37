"""What becomes of a comparison's samples: ratios, tables, plans, pictures."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import engines as registry
from benchmarks.peers import overlap, prepare, run
from benchmarks.peers.duration import run_seconds
from benchmarks.peers.engines import ENGINES, Places, chosen
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.overlap import overlaps
from benchmarks.peers.plan import plan, public
from benchmarks.peers.ratios import Cell, Interval, cell, ratio, resampled, student
from benchmarks.peers.report import report
from benchmarks.peers.results import Results
from benchmarks.random_checkpoints import parameters
from gpt2fast.bench.roofline import Roofs

ROOFS = {
    "read_anonymous": 30e9,
    "read_mapped": 30e9,
    "int8_dot": 900e9,
    "float32_fma": 230e9,
    "disturbed": False,
}


def cell_of(*rounds: list[float]) -> Cell:
    samples = [
        {"round": i, "rate": rate, "clean": True}
        for i, rates in enumerate(rounds)
        for rate in rates
    ]
    found = cell(samples)
    assert found
    return found


def test_cell_leaves_out_disturbed_samples() -> None:
    """Catches a median that takes in what was measured while others ran."""
    samples = [
        {"round": 0, "rate": 10.0, "clean": True},
        {"round": 0, "rate": 1.0, "clean": False},
        {"round": 1, "rate": 30.0, "clean": True},
        {"round": 2, "rate": 2.0, "clean": False},
    ]
    found = cell(samples)
    assert found
    assert (found.median, found.low, found.high, found.disturbed) == (20, 10, 30, False)
    spoilt = cell([sample for sample in samples if not sample["clean"]])
    assert spoilt
    assert (spoilt.median, spoilt.disturbed) == (1.5, True)
    assert not cell([])


def test_ratio_is_paired_by_round() -> None:
    """Catches a ratio of medians: a machine that halves its speed between rounds would move it."""
    found = ratio(cell_of([20.0], [10.0], [40.0]), cell_of([10.0], [5.0], [20.0]))
    assert found
    assert found.value == 2
    assert found.interval == pytest.approx((2.0, 2.0))
    alone = ratio(cell_of([3.0]), cell_of([2.0]))
    assert alone and alone.value == 1.5 and alone.interval is None
    early, late = cell_of([3.0]), Cell(1, 1, 1, {7: [1.0]}, disturbed=False)
    assert ratio(early, late) is None


@pytest.mark.parametrize(
    ("kind", "rounds", "least", "most"),
    [
        (student, 2, 0.92, 0.98),
        (student, 3, 0.92, 0.98),
        (student, 4, 0.92, 0.98),
        (student, 12, 0.92, 0.98),
        (resampled, 12, 0.88, 1.0),
        (resampled, 3, 0.6, 0.85),  # why tables of few rounds do not have it
    ],
)
def test_interval_covers(kind: Interval, rounds: int, least: float, most: float) -> None:
    """Catches an interval that is too narrow, or wide for nothing: rounds with noise of 10%."""
    generator = np.random.default_rng(1)
    hits, runs, widths = 0, 600, []
    for _ in range(runs):
        ours, theirs = (
            cell_of(*([float(rate)] for rate in generator.lognormal(mean, 0.07, rounds)))
            for mean in (np.log(1.3), 0.0)
        )
        found = ratio(ours, theirs, kind)
        assert found and found.interval
        low, high = found.interval
        assert low <= found.value <= high
        hits += low <= 1.3 <= high
        widths.append(high - low)
    assert rounds < 12 or 0.05 < np.median(widths) < 0.3
    assert least <= hits / runs <= most


def record(**changes: Any) -> dict[str, Any]:
    """A run of ours, of a peer at half the speed and of one that failed in its second round."""
    engines = chosen(["gpt2fast-int8", "llamacpp-q8_0", "openvino-int8"])
    speeds = {"gpt2fast-int8": 200.0, "llamacpp-q8_0": 100.0, "openvino-int8": 987.0}
    samples, visits = [], []
    for engine, round_ in itertools.product(engines, (0, 1)):
        if engine.name == "openvino-int8" and round_:
            continue
        where = {"engine": engine.name, "size": "gpt2", "threads": 2, "round": round_}
        facts = {"version": "9.9", "load_seconds": 1.0, "first_token_seconds": 2.0}
        visits.append({**where, **facts, "peak_bytes": 3e8, "file_bytes": 13e7})
        samples += [
            {**where, "measure": name, "rate": speeds[engine.name] + round_, "clean": True}
            for name in ("decode32", "prompt512", "batch2")
        ]
    failure = {"engine": "openvino-int8", "size": "gpt2", "threads": 2, "round": 1}
    return {
        "machine": {
            "cpu": "A CPU", "cpus": 2, "caches": {"L3": "32M"}, "memory_bytes": None,
            "version": "0.1", "target": "avx2", "compiler": "gcc",
        },
        "commit": {"id": "0123456789abcdef", "dirty": True},
        "date": "2026-01-02",
        "command": "run",
        "engines": [run._described(engine) for engine in engines],
        "roofs": [{"threads": 2, "target": "", "round": r, "rates": ROOFS} for r in (0, 1)],
        "visits": visits,
        "samples": samples,
        "failures": [{**failure, "reason": "produced [63] tokens,\nnot 64"}],
        **changes,
    }  # fmt: skip


def test_an_engine_that_failed_has_no_number() -> None:
    """Catches a table that shows what an engine did before it gave a wrong number of tokens."""
    text = report(record())
    assert "987" not in text and "988" not in text
    rows = [line for line in text.splitlines() if line.startswith("| OpenVINO int8")]
    assert rows and all("failed" in row and not re.search(r"\d", row[15:]) for row in rows)
    assert "OpenVINO int8 failed: produced [63] tokens, not 64" in text
    assert "| **200.5** (200 to 201) |" in text
    assert "| llama.cpp Q8_0 | 2.00 (1.93 to 2.06) |" in text
    assert "DISTURBED" not in text.partition("0 of 15 samples")[0]


def test_nothing_but_disturbed_rounds_says_so() -> None:
    """Catches numbers of a busy machine that look like any other."""
    given = record()
    for sample in given["samples"]:
        sample["clean"] = sample["engine"] != "llamacpp-q8_0"
    text = report(given)
    assert text.count("| 100.5 (100 to 101) DISTURBED |") == 3
    assert "2.00 (1.93 to 2.06) DISTURBED" in text


def test_the_share_of_the_roof() -> None:
    """Catches a share that forgets the head, or counts a batch's weights more than once."""
    results = Results(record())
    ours = results.engines[0]
    weights = 12 * 12 * 768**2 + 50257 * 768
    assert abs(weights / parameters("gpt2") - 1) < 0.01

    def share(measure: str) -> float:
        found = results.share(ours, "gpt2", 2, measure)
        assert found
        return found.value

    assert share("decode32") == pytest.approx(weights / 30e9 * 200.5)
    prompt = 2 * (512 * 12 * 12 * 768**2 + 50257 * 768) / 900e9
    assert share("prompt512") == pytest.approx(prompt * 200.5 / 512)
    assert share("batch2") == pytest.approx(weights / 30e9 * 200.5 / 2)
    assert results.share(ours, "gpt2", 1, "decode32") is None


def test_the_share_is_of_the_roof_of_its_round() -> None:
    """Catches a share of the best roof, which halves when memory is fast once."""
    given = record()
    fast = {**ROOFS, "read_anonymous": 60e9}
    given["roofs"][1]["rates"] = fast
    for sample in given["samples"]:
        sample["rate"] *= 1 + sample["round"]
    results = Results(given)
    found = results.share(results.engines[0], "gpt2", 2, "decode32")
    weights = 12 * 12 * 768**2 + 50257 * 768
    assert found and found.value == pytest.approx(weights / 30e9 * 200.5)
    assert "| avx2, 2 threads | 45 (30 to 60) | 900 (900 to 900) |" in report(given)


def test_two_runs_overlap_or_not() -> None:
    """Catches a comparison of runs that finds everything alike, or everything different."""
    slower = record()
    for sample in slower["samples"]:
        sample["rate"] *= 0.5 if sample["engine"] == "gpt2fast-int8" else 1
    same, other = list(overlaps(record(), record())), list(overlaps(record(), slower))
    assert len(same) == 3 and all(row.overlap for row in same)
    assert len(other) == 3 and not any(row.overlap for row in other)


def test_the_command_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an exit status that says that runs agree when they do not, and a bad file's trace."""
    slower = record()
    for sample in slower["samples"]:
        sample["rate"] *= 0.5 if sample["engine"] == "gpt2fast-int8" else 1
    unlike = record(samples=[])
    files = {"a": record(), "b": slower, "c": unlike, "d": {"machine": {}}}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    a, b, c, d = (str(tmp_path / name) for name in files)
    assert [overlap.main([a, other]) for other in (a, b, c)] == [0, 1, 2]
    out = capsys.readouterr().out
    assert out.count("APART") == 3 and "3 of 3 ratios overlap" in out
    for bad in (d, str(tmp_path / "nowhere")):
        with pytest.raises(SystemExit) as end:
            overlap.main([a, bad])
        assert end.value.code == 2
    assert "is no result of benchmarks.peers.run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "3"], "3 threads: 1 to 2 are allowed"),
        (["--threads", "0"], "0 threads: 1 to 2 are allowed"),
        (["--sizes", "gpt3"], "invalid choice: 'gpt3'"),
        (["--measures", "decode"], "invalid choice: 'decode'"),
        (["--rounds", "0"], "--rounds 0: 1 or more"),
        (["--engines", "llama"], "'llama' is no engine; allowed: avx2, "),
    ],
)
def test_bad_options(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches options that fail only after minutes of measuring, or with a traceback."""
    with pytest.raises(SystemExit):
        plan(arguments, cpus=2)
    assert message in capsys.readouterr().err


def test_plan() -> None:
    """Catches options that a profile overrides, and paths that end in a committed file."""
    quick = plan(["--profile", "quick"], cpus=2)
    assert [case.size for case in quick.cases] == ["gpt2"] and quick.rounds == 4
    given = plan(["--sizes", "gpt2-xl", "--threads", "1", "--repeats", "4"], cpus=2)
    [case] = given.cases
    assert (case.size, case.threads, case.repeats) == ("gpt2-xl", 1, 4)
    assert all(not MEASURES[name].scaling for name in case.measures)
    arguments = ["--cache", "/home/me/x", "--sizes", "gpt2", "--output=/home/me/y", "--text", "/z"]
    assert public(arguments) == ["--sizes", "gpt2"]


def test_prompts_differ_between_rounds_and_not_between_engines() -> None:
    """Catches prompts that an engine's prefix cache would answer, or that are not the same."""
    measure = MEASURES["batch8"]
    assert measure.ids(0, 0) == measure.ids(0, 0)
    prompts = [measure.ids(r, n) for r in range(2) for n in range(2)]
    texts = {tuple(ids) for batch in prompts for ids in batch}
    assert len(texts) == 4 * 8 and all(len(text) == 32 for text in texts)


def test_every_engine_has_its_module_and_requirements() -> None:
    """Catches an engine whose process or environment cannot be made."""
    folder = Path(registry.__file__).parent
    for engine in ENGINES:
        assert (folder / f"{engine.module}.py").exists()
        assert not engine.converter or (folder / f"{engine.converter}.py").exists()
        assert (
            not engine.environment or (folder / f"requirements-{engine.environment}.txt").exists()
        )
    assert len({engine.name for engine in ENGINES}) == len(ENGINES)


def test_pictures(tmp_path: Path) -> None:
    """Catches pictures that fail on a run in which an engine failed, or that show its numbers."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from benchmarks.peers.plots import draw

    paths = draw(record(), tmp_path)
    assert [path.name for path in paths] == [
        "speed-2.svg",
        "roof-2.svg",
        "memory-2.svg",
        "scaling.svg",
    ]
    text = paths[0].read_text()
    assert "llama.cpp Q8_0" in text and "OpenVINO" not in text


def test_a_run_says_how_long_it_takes() -> None:
    """Catches a full run that takes more than an hour on two cores, a quick one above 5 minutes."""

    def roofs(threads: int, _target: str) -> Roofs:  # of a server's two cores of 2023
        return Roofs(28e9, 28e9, 460e9 * threads, 115e9 * threads, disturbed=False)

    minutes = {
        profile: run_seconds(plan(["--profile", profile], cpus=2), roofs) / 60
        for profile in ("quick", "full")
    }
    assert 1 < minutes["quick"] < 3 and 30 < minutes["full"] < 50
    half = plan(["--profile", "quick", "--rounds", "2"], cpus=2)
    assert run_seconds(half, roofs) == pytest.approx(30 * minutes["quick"])


def test_prepare_says_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a disk that is full after an hour, and what is there counted as missing."""
    places, engines = Places(tmp_path), chosen(["int8"])
    text = prepare.announced(places, ["gpt2"], engines)
    assert "environments llama, ctranslate2, onnxruntime, openvino, torch; models of gpt2" in text
    assert "3.5 GB of disk" in text and "1.0 GB of memory" in text
    ours = [engine for engine in engines if engine.ours]
    places.checkpoint("gpt2").mkdir(parents=True)
    assert "0.2 GB of disk" in prepare.announced(places, ["gpt2"], ours)
    places.model(ours[0], "gpt2").mkdir()
    assert prepare.announced(places, ["gpt2"], ours).startswith("everything is there")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1e9))
    with pytest.raises(SystemExit, match=r"3\.5 GB are needed, 1\.0 GB are free"):
        prepare.announced(Places(tmp_path / "other"), ["gpt2"], engines)
