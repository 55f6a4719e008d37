"""What the documentation shows runs as shown."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.glob("gpt2fast/**/*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings(module: str) -> None:
    """Catches an example that no longer runs or shows something else."""
    result = doctest.testmod(import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(import .*?)```", README, re.DOTALL)  # those that stand alone


@pytest.mark.parametrize("example", EXAMPLES, ids=["begin", "embed"])
def test_examples_of_readme(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an example that does not run as it stands."""
    exec(compile(example, "README.md", "exec"), {})
    assert "cancel=" in example or capsys.readouterr().out.strip()
