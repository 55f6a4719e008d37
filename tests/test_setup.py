"""Where gpt2fast cannot be built, one line says what is missing and what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from native import build as native_build

SYSTEMS = ("linux", "darwin", "win32")
MACHINES = ("x86_64", "aarch64")
# setup.py asks for the compiler before it translates or compiles anything.
STUBS = {
    "Cython/Build.py": "cythonize = lambda modules, **options: modules",
    "pybind11.py": "get_include = lambda: ''",
}
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="forges compilers by shell scripts")


def attempt(folder: Path, path: Path, before: str = "pass") -> str:
    """Start a build that cannot succeed; return its one line. `before` runs before setup.py."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is older than 77")
    for name, text in STUBS.items():
        stub = folder / "stubs" / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(text)
    arguments = ["build_ext", f"--build-temp={folder}", f"--build-lib={folder}"]
    code = f"import runpy, sys\nsys.argv[1:] = {arguments}\n{before}\nrunpy.run_path('setup.py')"
    environment = {"PATH": str(path), "PYTHONPATH": str(folder / "stubs"), "HOME": str(folder)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=native_build.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    return line


def compilers(folder: Path, script: str) -> Path:
    """A folder with the compilers that this Python asks for, each of them this shell script."""
    names = {sysconfig.get_config_var(name).split()[0] for name in ("CC", "CXX")}
    for name in names:
        compiler = folder / "bin" / Path(name).name
        compiler.parent.mkdir(exist_ok=True)
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
    return folder / "bin"


@posix_only
def test_no_compiler(tmp_path: Path) -> None:
    """Catches a traceback, or a message that does not say which compilers are good enough."""
    line = attempt(tmp_path, tmp_path)
    assert line.startswith("gpt2fast found no compiler '")
    assert "it needs " in line
    assert "clang" in line


@posix_only
@pytest.mark.parametrize("age", ["before C++20", "without <concepts>"])
def test_old_compiler(age: str, tmp_path: Path) -> None:
    """Catches pages of errors from a compiler, or a library, that does not know C++20."""
    script = "echo \"g++: error: unrecognized command line option '-std=c++20'\" >&2; exit 1"
    if age != "before C++20":
        real = shutil.which("g++") or pytest.skip("g++ is not installed")
        kept = 'for a; do shift; [ "$a" = -std=c++20 ] || set -- "$@" "$a"; done'
        script = f'{kept}\nexec {real} -std=c++17 "$@"'
    line = attempt(tmp_path, compilers(tmp_path, script))
    assert line.startswith("gpt2fast needs gcc 11 or clang 14")
    assert "error: " in line


@posix_only
def test_broken_compiler(tmp_path: Path) -> None:
    """Catches a compiler that fails for a reason of its own, of which nobody is told."""
    line = attempt(tmp_path, compilers(tmp_path, "echo reading; echo 'no licence' >&2; exit 1"))
    assert "is too old, or broken: ['no licence']" in line


@posix_only
def test_no_headers(tmp_path: Path) -> None:
    """Catches a Python without its headers, as distributions install it."""
    nowhere = "import sysconfig\nsysconfig.get_path = lambda name: '/nowhere'"
    line = attempt(tmp_path, compilers(tmp_path, "exit 0"), nowhere)
    assert line.startswith("gpt2fast found no Python.h")


@pytest.mark.parametrize(
    ("before", "machine"),
    [
        ("import platform; platform.machine = lambda: 'riscv64'", "riscv64"),
        ("import platform; platform.machine = lambda: 'i686'", "i686"),
        ("sys.maxsize = 2**31 - 1", ""),  # a 32-bit Python on a 64-bit CPU
    ],
)
def test_unsupported_platform(before: str, machine: str, tmp_path: Path) -> None:
    """Catches a build that goes on until the compiler meets an intrinsic it does not have."""
    line = attempt(tmp_path, tmp_path, before)
    assert line.startswith("gpt2fast needs a 64-bit Python on a 64-bit x86 or Arm CPU; this is a ")
    assert machine in line


@pytest.mark.parametrize("machine", MACHINES)
def test_flags_of_windows(machine: str, tmp_path: Path) -> None:
    """Catches a flag that clang-cl does not take; it would only warn, and compile other code."""
    clang = shutil.which("clang") or pytest.skip("clang++ is not installed")
    settings = native_build.settings(machine, "win32")
    tmp_path.joinpath("empty.cpp").touch()
    for flags in (settings["C"], *([*settings["CPP"], *f] for f in settings["TARGETS"].values())):
        command = [clang, "--driver-mode=cl", "-###", *flags, "-c", "empty.cpp"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "warning" not in run.stderr.replace("-as-warning", "").replace("-Wno-", "")
        assert '"-ffp-contract=off"' in run.stderr


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("machine", MACHINES)
def test_no_flag_is_for_this_machine_alone(machine: str, system: str) -> None:
    """Catches a wheel for the CPU it was built on, and arithmetic that the compiler may reorder."""
    settings = native_build.settings(machine, system)
    for flags in (settings["C"], settings["CPP"], *settings["TARGETS"].values()):
        assert not {"-march=native", "-ffast-math", "-Ofast", "/fp:fast"} & set(flags)
    for flags in (settings["C"], settings["CPP"]):
        assert any(flag.endswith("-ffp-contract=off") for flag in flags)
