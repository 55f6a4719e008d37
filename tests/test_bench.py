"""`gpt2fast bench`: what it measures, what it refuses, and what it says of two runs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint
from numpy.typing import NDArray

import gpt2fast
from gpt2fast import _core, cli
from gpt2fast.bench import bootstrap, speed
from gpt2fast.bench.compare import changes
from gpt2fast.bench.cpu_clock import CpuClock
from gpt2fast.bench.roofline import RoofMeter, Roofs, model_work
from gpt2fast.bench.series import Run, Series, read
from gpt2fast.bench.speed import Lengths
from gpt2fast.config import CheckpointError, Config
from gpt2fast.loading import load_packed

ROOFS = Roofs(30e9, 20e9, 900e9, 230e9, disturbed=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of one call, and roofs as on a machine of 2023."""
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(RoofMeter, "measure", lambda *_: ROOFS)
    monkeypatch.setattr(CpuClock, "foreign", lambda *_: 0.0)
    peaks = itertools.count(100_000_000, 1000)
    monkeypatch.setattr(speed, "peak_bytes", lambda: next(peaks))


def weights(config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    return random_tensors(Config.from_huggingface(config).tensor_shapes())


@pytest.mark.usefixtures("quick")
def test_the_table_and_the_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Catches quantities that are missing, of another unit, or not those of the model."""
    path, threads = tmp_path / "run.json", ["--threads", "1", "1"]
    assert cli.main(["bench", "--rounds", "3", *threads, "--json"]) == 0
    path.write_text(capsys.readouterr().out)
    run = read(path)
    found = {one.key: one for one in run.series}
    assert list(found) == [
        ("load", 0, "seconds"),
        ("prompt of 511", 1, "tokens/s"),
        ("prompt of 511", 1, "of the roof"),
        ("decode after 32", 1, "tokens/s"),
        ("decode after 32", 1, "of the roof"),
        ("first token after 32", 1, "seconds"),
        ("peak memory", 0, "bytes"),
    ]
    assert all(len(one.values) == 3 for one in run.series[:-1])
    with gpt2fast.load() as model:
        assert run.model["fingerprint"] == model.fingerprint
        assert run.model["weights_bytes"] < found["peak memory", 0, "bytes"].median
        step = Roofs.bound(ROOFS, model_work(load_packed("tales"), 1, 1))[0]
    rate, share = (found["decode after 32", 1, unit] for unit in ("tokens/s", "of the roof"))
    assert share.values == pytest.approx([step * value for value in rate.values])
    assert cli.main(["bench", "--rounds", "1", *threads]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name, _, _ in found)
    assert "% of memory" in table and "tokens/s" in table and "DISTURBED" not in table


@pytest.mark.usefixtures("quick")
def test_any_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a model without tokenizer, with a tiny context or an untied head that fails."""
    config = hf_config(n_positions=4, n_ctx=4, tie_word_embeddings=False)
    write_checkpoint(tmp_path / "model", config, weights(config))
    assert cli.main(["bench", "--model", str(tmp_path / "model"), "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "prompt of 3" in out and "decode after 2" in out and "load" not in out


def test_the_head_counts_once(tmp_path: Path) -> None:
    """Catches a share that counts the table of an untied model as read in every step."""
    found = []
    for name, tied in (("tied", True), ("untied", False)):
        config = hf_config(tie_word_embeddings=tied)
        tensors = weights(config)
        if not tied:
            tensors["lm_head.weight"] = tensors["wte.weight"]
        write_checkpoint(tmp_path / name, config, tensors)
        found.append(model_work(load_packed(tmp_path / name), 1, 1))
    assert found[0] == found[1]
    c = load_packed(tmp_path / "tied").config
    d, inner = c.n_embd, c.n_inner
    shapes = [(3 * d, d), (d, d), (inner, d), (d, inner)] * c.n_layer + [(c.n_vocab, d)]
    assert found[0].bytes == sum(_core.packed_nbytes("int8", *shape) for shape in shapes)
    assert found[0].operations == 2 * sum(n_out * n_in for n_out, n_in in shapes)


@pytest.mark.usefixtures("quick")
def test_disturbed_rounds_are_measured_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches what was measured while others ran and counts, and a table that hides it."""
    busy = iter([1.0, 0.0, *[1.0] * 3])  # the load: again; the prompt: never undisturbed
    monkeypatch.setattr(CpuClock, "foreign", lambda *_: next(busy, 0.0))
    assert cli.main(["bench", "--rounds", "1", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    spoilt = [line.split()[1] for line in lines if line.endswith("DISTURBED")]
    assert spoilt == ["prompt"]
    busy = iter([1.0] * 3)  # in the first of two rounds
    assert cli.main(["bench", "--rounds", "2", "--threads", "1"]) == 0
    assert "1 measurements do not count" in capsys.readouterr().out
    spoilt_roofs = dataclasses.replace(ROOFS, disturbed=True)
    monkeypatch.setattr(RoofMeter, "measure", lambda *_: spoilt_roofs)
    assert cli.main(["bench", "--rounds", "1", "--threads", "1", "--json"]) == 0
    series = json.loads(capsys.readouterr().out)["series"]
    assert {one["unit"] for one in series if one["disturbed"]} == {"of the roof"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only getrusage tells")
def test_the_peak_is_of_this_process() -> None:
    """Catches a peak that is that of the process which started this one."""
    held = bytearray(300 << 20)
    code = "from gpt2fast.memory import peak_bytes; print(peak_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 5_000_000 < int(done.stdout) < len(held) / 2


@pytest.mark.usefixtures("quick")
def test_missing_tokens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a speed of tokens that were never written."""
    real = gpt2fast.Model.generate

    def short(self: gpt2fast.Model, prompt: Any, **options: Any) -> Any:
        options["max_new_tokens"] = min(options["max_new_tokens"], 5)
        return real(self, prompt, **options)

    monkeypatch.setattr(gpt2fast.Model, "generate", short)
    assert cli.main(["bench", "--rounds", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "5 tokens were written, not 64" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--threads", "9999"], 2, "--threads is 9999; allowed: 1 to "),
        (["--threads", "0"], 2, "--threads is 0; allowed: 1 to "),
        (["--target", "sse9"], 2, "target is 'sse9', which is no target; usable here: "),
        (["--model", "a/b/c"], 1, "'a/b/c' is neither a bundled model"),
        (["--dtype", "int3"], 2, "dtype must be one of float32, "),
        (["--rounds", "0"], 2, "--rounds is 0; allowed: an integer from 1"),
        (["--prompt-tokens", "512"], 2, "--prompt-tokens is 512; allowed: an integer from 1 to"),
        (["--context", "511"], 2, "--context is 511; allowed: an integer from 1 to 510"),
        (["--new-tokens", "481"], 2, "--new-tokens is 481; allowed: an integer from 2 to 480"),
        (["--compare", "a", "b", "--rounds", "1"], 2, "it goes without --rounds"),
        (["--compare", "a", "b"], 1, "No such file or directory: 'a'"),
    ],
)
def test_bad_options(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an option that fails late, with a traceback, or without saying what is allowed."""
    target = _core.target()
    assert cli.main(["bench", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
    assert _core.target() == target


def test_a_context_that_is_too_short() -> None:
    """Catches lengths that no text has."""
    with pytest.raises(ValueError, match="context of 3 tokens is too short"):
        Lengths.fitting(3, None, None, None)
    assert Lengths.fitting(1024, None, None, None) == Lengths(512, 32, 64)


def run_of(**rates: list[float]) -> Run:
    facts = {"version": "1", "cpu": "A", "cpus": 2}
    series = [Series(name, 2, "tokens/s", values) for name, values in rates.items()]
    return Run(facts, {"name": "m", "dtype": "int8"}, series)


def noise(mean: float, n: int, seed: int) -> list[float]:
    values: list[float] = np.random.default_rng(seed).lognormal(np.log(mean), 0.03, n).tolist()
    return values


@pytest.mark.parametrize(
    ("series", "other", "verdict"),
    [
        (noise(100, 7, 0), noise(120, 7, 1), "better"),
        (noise(100, 7, 0), noise(80, 7, 1), "worse"),
        (noise(100, 7, 0), noise(101, 7, 1), "no difference beyond noise"),
        ([100.0], [200.0], "one round: says nothing"),
    ],
)
def test_verdicts(series: list[float], other: list[float], verdict: str) -> None:
    """Catches noise that is called a difference, and a difference that is called noise."""
    [change] = changes(run_of(decode=series, only_here=[1.0]), run_of(decode=other))
    assert change.verdict == verdict
    first = Series("load", 0, "seconds", series)
    [turned] = changes(Run({}, {}, [first]), Run({}, {}, [Series("load", 0, "seconds", other)]))
    opposite = {"better": "worse", "worse": "better"}
    assert turned.verdict == opposite.get(verdict, verdict)  # fewer seconds are better


def test_disturbed_runs_are_not_judged() -> None:
    """Catches a verdict on what was measured while others used the CPUs."""
    one = Series("decode", 2, "tokens/s", [100.0, 101.0])
    two = Series("decode", 2, "tokens/s", [10.0, 11.0], disturbed=True)
    [change] = changes(Run({}, {}, [one]), Run({}, {}, [two]))
    assert change.verdict == "disturbed: says nothing"


def test_memory_has_a_margin() -> None:
    """Catches a page more or less that is called a difference."""
    runs = [Run({}, {}, [Series("peak", 0, "bytes", [n])]) for n in (100e6, 100.5e6, 120e6)]
    found = [next(changes(runs[0], other)).verdict for other in runs[1:]]
    assert found == ["no difference beyond noise", "worse"]


def test_intervals_cover() -> None:
    """Catches intervals that are too narrow or wide for nothing: 400 pairs of runs, 9 rounds."""
    hits, widths = 0, []
    for seed in range(400):
        value, interval = bootstrap.of_ratio(noise(130, 9, 2 * seed), noise(100, 9, 2 * seed + 1))
        assert interval and interval[0] <= value <= interval[1]
        hits += interval[0] <= 1.3 <= interval[1]
        widths.append(interval[1] - interval[0])
    assert 0.90 <= hits / 400 <= 0.995
    assert 0.03 < np.median(widths) < 0.15  # 0.03 * 1.25 * sqrt(2 / 9) * 2 * 1.96 * 1.3 is 0.09
    assert bootstrap.of_median([3.0]) is None
    assert bootstrap.of_median([1.0, 2.0, 3.0]) == bootstrap.of_median([1.0, 2.0, 3.0])


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a comparison that hides what else differs, or prints other numbers."""
    first, second = run_of(decode=noise(100, 7, 0)), run_of(decode=noise(120, 7, 1))
    second.machine["target"] = "avx2"
    paths = [str(tmp_path / name) for name in "ab"]
    for path, run in zip(paths, (first, second), strict=True):
        Path(path).write_text(run.to_json())
    assert cli.main(["bench", "--compare", *paths]) == 0
    text = capsys.readouterr().out
    assert "machine: target is None, then avx2" in text and text.rstrip().endswith("better")
    assert cli.main(["bench", "--compare", *paths, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["ratio"] == pytest.approx(row["second"] / row["first"])
    assert row["interval"][0] < row["ratio"] < row["interval"][1]
    Path(paths[0]).write_text(run_of(prompt=[1.0]).to_json())
    assert cli.main(["bench", "--compare", *paths]) == 2
    assert "no measurement in common" in capsys.readouterr().err


def broken() -> Iterable[tuple[str, Any]]:
    """Yield names and contents of files that are no result."""
    good = json.loads(run_of(decode=[1.0, 2.0]).to_json())
    [series] = good["series"]
    yield "not JSON", "{"
    yield "nested", "[" * 100_000
    yield "a list", []
    yield "of something else", {"kind": "pytest-benchmark"}
    yield "of a later version", good | {"version": 2}
    yield "without model", {key: value for key, value in good.items() if key != "model"}
    yield "series not a list", good | {"series": {}}
    yield "twice the same", good | {"series": [series, series]}
    wrong: dict[str, list[Any]] = {
        "name": [None, 5, "\x1b[2J"],
        "threads": ["2", 2.5, True],
        "unit": ["tokens", []],
        "values": [[], [0.0], [-1.0], [float("nan")], [float("inf")], ["1"], 5, None, [True]],
        "disturbed": [0],
        "roof": [None],
    }
    for field, values in wrong.items():
        for value in values:
            yield f"{field} {value!r}", good | {"series": [series | {field: value}]}
    yield "no values", good | {"series": [{"name": "decode"}]}
    yield "a number for a series", good | {"series": [5]}


BROKEN = dict(broken())


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_files_that_are_no_result(content: Any, tmp_path: Path) -> None:
    """Catches a file of another kind, or a damaged one, that is believed or ends in a traceback."""
    path = tmp_path / "x.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(CheckpointError, match=r"x\.json"):
        read(path)
