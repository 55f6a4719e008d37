"""The whole package, as installed, on emulated CPUs that lack what it uses elsewhere."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2fast

PROGRAM = """
import gpt2fast
with gpt2fast.load(threads=1) as model:
    print(model.target, repr(model.generate("Once upon", max_new_tokens=2, seed=1).text))
"""
CPUS = {"nehalem": ("Nehalem", "scalar"), "haswell": ("Haswell", "avx2")}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates x86-64")
@pytest.mark.parametrize("cpu", CPUS)
def test_writes(cpu: str) -> None:
    """Catches an illegal instruction anywhere between import and text, in Python's modules too, and
    a text that depends on the CPU.
    """
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("qemu-x86_64 is not installed")
    model, target = CPUS[cpu]
    places = [str(Path(gpt2fast.__file__).parents[1]), *sys.path]
    run = subprocess.run(
        ["qemu-x86_64", "-cpu", model, os.path.realpath(sys.executable), "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    text = gpt2fast.load().generate("Once upon", max_new_tokens=2, seed=1).text
    assert run.stdout == f"{target} {text!r}\n"
