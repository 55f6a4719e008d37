"""The stubs of the compiled modules tell the truth."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2fast import _core

ROOT = Path(__file__).resolve().parents[1]
Functions = dict[str, ast.FunctionDef]


def functions(body: list[ast.stmt], prefix: str = "") -> Functions:
    """The functions of a stub, those of a class as Class.name; properties apart."""
    found: Functions = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            found |= functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list:
            found[prefix + node.name] = node
    return found


STUB = functions(ast.parse(ROOT.joinpath("gpt2fast", "_core.pyi").read_text()).body)


def parameters(function: ast.FunctionDef) -> str:
    """Names, defaults and kinds, without types."""
    for argument in (*function.args.args, *function.args.kwonlyargs):
        argument.annotation = None
    return ast.unparse(function.args)


@pytest.mark.parametrize("name", STUB)
def test_parameters_of_core(name: str) -> None:
    """Catches a name, an order or a default that differs from the binding's own signature."""
    runtime: object = _core
    for part in name.split("."):
        runtime = getattr(runtime, part)
    signature = re.sub(r"(\(anonymous namespace\)|\w+)::", "", str(runtime.__doc__).splitlines()[0])
    [bound] = ast.parse(f"def {signature}: ...").body
    assert isinstance(bound, ast.FunctionDef)
    assert parameters(STUB[name]) == parameters(bound)


def test_stubtest() -> None:
    """Catches a name that is missing on one side, and a signature of the Cython modules."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases"]
    command += ["--mypy-config-file", "pyproject.toml"]
    command += ["--allowlist", "tests/stubtest_allowlist.txt"]
    modules = [f"gpt2fast.{name}" for name in ("_core", "_bpe", "_generate")]
    run = subprocess.run(
        [*command, *modules], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
