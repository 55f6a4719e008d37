"""Build the native checker with any compiler: csrc without module.cpp, each target with its flags.

    python tests/native/build.py COMPILER FOLDER [FLAG ...]

The flags of a target are read from setup.py, so that the two builds cannot drift apart.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def target_flags(machine: str) -> dict[str, list[str]]:
    """The flags of each file of csrc/targets that setup.py compiles for a machine."""
    names = {"AVX2", "AVX512", "TARGETS"}
    found = [
        node
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if node.targets[0].id in names
    ]
    scope: dict[str, object] = {"MSVC": False, "MACHINE": machine}
    exec(compile(ast.Module(found, []), "setup.py", "exec"), scope)
    flags = scope["TARGETS"]
    assert isinstance(flags, dict)
    return flags


def build(compiler: str, folder: Path, extra: list[str] | None = None, link: str = "-static") -> Path:
    """Compile and link the checker into `folder`; return the program."""
    machine = subprocess.run(
        [compiler, "-dumpmachine"], capture_output=True, text=True, check=True
    ).stdout.split("-")[0]
    base = [compiler, "-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", *WARNINGS]
    base += [*(extra or []), f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests' / 'native'}"]
    flags = target_flags(machine)
    sources = {p: [] for p in sorted((ROOT / "csrc").glob("*.cpp")) if p.name != "module.cpp"}
    sources |= {ROOT / "csrc" / "targets" / f"{name}.cpp": own for name, own in flags.items()}
    sources[ROOT / "tests" / "native" / "check.cpp"] = []
    if "clang" in compiler:  # the flags that calm gcc's headers
        sources = {p: [f for f in own if not f.startswith("-Wno-")] for p, own in sources.items()}
    jobs = []
    for source, own in sources.items():
        target = folder / f"{source.stem}.o"
        command = [*base, *own, "-c", str(source), "-o", str(target)]
        jobs.append((target, subprocess.Popen(command)))
        if len(jobs) % 2 == 0:
            jobs[-2][1].wait()
    for target, job in jobs:
        if job.wait() != 0:
            raise RuntimeError(f"{compiler} failed on {target.stem}")
    program = folder / "check"
    objects = [str(target) for target, _ in jobs]
    # A static link must take all of libpthread, or its weak references stay null.
    subprocess.run([*base, *objects, link, "-pthread", "-o", str(program)], check=True)
    return program


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    sanitized = any("sanitize" in flag for flag in sys.argv[3:])
    print(build(sys.argv[1], Path(sys.argv[2]), sys.argv[3:], "-Wall" if sanitized else "-static"))
