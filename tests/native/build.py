"""Build the native checker with any compiler: csrc without Python, each target with its flags.

    python tests/native/build.py COMPILER FOLDER [FLAG ...]

A compiler may be a command, like "python -m ziglang c++ -target aarch64-macos". The flags of a
target are read from setup.py, so that the two builds cannot drift apart.
"""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def settings(machine: str, system: str = "linux") -> dict[str, Any]:
    """The flags of setup.py for a machine: CPP of all files, TARGETS of each of csrc/targets."""
    scope: dict[str, Any] = {"SYSTEM": system, "MACHINE": machine, "os": os, "Path": Path}
    given = set(scope)
    constants: list[ast.stmt] = [
        node
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if node.targets[0].id.isupper() and node.targets[0].id not in given
    ]
    exec(compile(ast.Module(constants, []), "setup.py", "exec"), scope)
    return scope


def for_compiler(compiler: str, flags: list[str]) -> list[str]:
    """The flags as this compiler takes them: those that calm gcc's headers are only for gcc."""
    if "zig" in compiler:
        flags = [flag.replace("-march=armv8.2-a", "-mcpu=generic+v8_2a") for flag in flags]
    is_gcc = not any(name in compiler for name in ("clang", "zig"))
    return [flag for flag in flags if is_gcc or not flag.startswith("-Wno-")]


def build(
    compiler: str,
    folder: Path,
    extra: list[str] | None = None,
    link: str = "-static",
    evex: bool = False,
) -> Path:
    """Compile and link the checker into `folder`; return the program.

    `evex` builds avx_vnni so that CPUs with AVX-512 and without AVX-VNNI run it, see its header.
    """
    command = shlex.split(compiler)
    machine = subprocess.run(
        [*command, "-dumpmachine"], capture_output=True, text=True, check=True
    ).stdout.split("-")[0]
    setup = settings(machine)
    base = [*command, *setup["CPP"], "-Werror"]
    if evex and machine == "x86_64":
        base.append("-DGPT2FAST_EVEX_VNNI")
        setup["TARGETS"]["avx_vnni"] = setup["TARGETS"]["avx512_vnni"]
    base += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'native'}"]
    core = [path for path in sorted((ROOT / "csrc").glob("*.cpp")) if "module" not in path.name]
    sources: dict[Path, list[str]] = {path: [] for path in core}
    for name, flags in setup["TARGETS"].items():
        own = for_compiler(compiler, flags)
        sources[ROOT / "csrc" / "targets" / f"{name}.cpp"] = own
    sources[ROOT / "tests" / "native" / "check.cpp"] = []
    jobs = []
    for source, own in sources.items():
        target = folder / f"{source.stem}.o"
        compile_ = [*base, *own, *(extra or []), "-c", str(source), "-o", str(target)]
        jobs.append((target, subprocess.Popen(compile_)))
        if len(jobs) % 2 == 0:
            jobs[-2][1].wait()
    for target, job in jobs:
        if job.wait() != 0:
            raise RuntimeError(f"{compiler} failed on {target.stem}")
    program = folder / "check"
    objects = [str(target) for target, _ in jobs]
    # A static link must take all of libpthread, or its weak references stay null.
    subprocess.run(
        [*base, *(extra or []), *objects, link, "-pthread", "-o", str(program)], check=True
    )
    return program


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    sanitized = any("sanitize" in flag for flag in sys.argv[3:])
    print(build(sys.argv[1], Path(sys.argv[2]), sys.argv[3:], "-Wall" if sanitized else "-static"))
