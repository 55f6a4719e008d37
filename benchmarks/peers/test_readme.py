"""The section of README.md that a run writes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.peers import readme
from benchmarks.peers.test_report import record

TEXT = f"before\n{readme.BEGIN}old\n{readme.END}after\n"


def test_the_section() -> None:
    """Catches numbers that are not the run's, a failed engine with one, and a lost command."""
    given = record()
    lines = readme.section(given, "2026-01-02-a-cpu").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows[2].startswith("| gpt2fast int8 | **200.5** (200 to 201) | **200.5**")
    assert rows[2].endswith("| 300 |")
    assert rows[3].startswith("| llama.cpp Q8_0 | 100.5 (100 to 101)")
    assert not re.search(r"\d", rows[4].removeprefix("| OpenVINO int8 "))
    assert rows[4].count("failed") == 3
    text = "\n".join(lines)
    assert given["command"] in text and "results/2026-01-02-a-cpu.json" in text
    assert "```" not in text  # continuous integration counts README.md's blocks of commands


def test_runs_that_are_not_fit() -> None:
    """Catches a README with numbers of a busy machine, or of a run in which ours failed."""
    busy = record()
    for sample in busy["samples"]:
        sample["clean"] = sample["engine"] != "llamacpp-q8_0"
    with pytest.raises(readme.UnfitError, match=r"Q8_0, GPT-2 124M, decode after 32: other"):
        readme.section(busy, "x")
    failure = {"engine": "gpt2fast-int8", "size": "gpt2", "threads": 2, "reason": "no\nfile"}
    with pytest.raises(readme.UnfitError, match="gpt2fast int8 failed with GPT-2 124M: no file"):
        readme.section(record(failures=[failure]), "x")


def test_the_section_replaces_the_last_one() -> None:
    """Catches a section that is written twice, or takes what is beside it along."""
    once = readme.replaced(TEXT, "new\n")
    assert once == f"before\n{readme.BEGIN}\nnew\n\n{readme.END}after\n"
    assert readme.replaced(once, "new\n") == once
    for broken in ("before\n", TEXT.replace(readme.END, "")):
        with pytest.raises(readme.UnfitError, match=r"README\.md lacks <!-- speed"):
            readme.replaced(broken, "new\n")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a command that leaves README.md as it was, or links to what is not there."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (tmp_path / "README.md").write_text(TEXT)
    path = results / "run.json"
    path.write_text(json.dumps(record()))
    monkeypatch.setattr(sys, "argv", ["readme", str(path)])
    readme.main()
    text = (tmp_path / "README.md").read_text()
    [picture] = re.findall(r"!\[.*\]\((.*)\)", text)
    assert (tmp_path / picture).exists() and "old" not in text
    path.write_text("{}")
    with pytest.raises(SystemExit, match=r"run\.json is no result of benchmarks\.peers\.run"):
        readme.main()
    monkeypatch.setattr(sys, "argv", ["readme", str(tmp_path / "run.json")])
    with pytest.raises(SystemExit, match=r"not in benchmarks/results"):
        readme.main()


def test_readme_is_what_its_run_says() -> None:
    """Catches a README whose numbers are not those of the run that it names."""
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(readme.BEGIN)
    shown, end, _ = rest.partition(readme.END)
    assert end
    if shown:  # until the first run there is nothing to show
        [name] = re.findall(r"peers\.readme benchmarks/results/(\S+)\.json", shown)
        path = readme.ROOT / "benchmarks" / "results" / f"{name}.json"
        assert shown == f"\n{readme.section(json.loads(path.read_text()), name)}\n"
        assert path.with_suffix(".md").exists()
        assert all((readme.ROOT / p).exists() for p in re.findall(r"!\[.*\]\((.*)\)", shown))
