"""Proof that the guard notices a slowdown: a copy of the source tree with a sleep in a kernel.

    python -m benchmarks.doctored [--microseconds 20] [--threads 1] [--rounds 5] [--cache FOLDER]

Measures a baseline, then judges the same code, which has to pass, and the doctored copy, in which
every LayerNorm sleeps, which has to be caught. Exit status: 0 if both happened. Run from a source
tree with its compiled modules beside it; needs what builds them (setuptools, Cython, pybind11).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.peers.engines import Places

ROOT = Path(__file__).resolve().parents[1]
_FILES = (
    "build",
    "csrc",
    "gpt2fast",
    "benchmarks",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
_SOUND = "const Kernels& active() {"
_DOCTORED = """
#include <time.h>

namespace gpt2fast {{
namespace {{
void slow_norm(const NormCall& call) {{
  const timespec pause{{0, {nanoseconds}}};
  nanosleep(&pause, nullptr);
  sound().layer_norm(call);
}}
}}  // namespace

const Kernels& active() {{
  static const Kernels doctored = [] {{
    Kernels kernels = sound();
    kernels.layer_norm = slow_norm;
    return kernels;
  }}();
  return doctored;
}}
}}  // namespace gpt2fast
"""


def main() -> int:
    """Build, measure, and say what the guard said."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--microseconds", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--threads", default="1", help="default: %(default)s")
    parser.add_argument("--rounds", default="5", help="default: %(default)s")
    parser.add_argument("--cache", type=Path, default=Places.default(), help="as of the guard")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree, baseline = Path(folder, "tree"), Path(folder, "baseline.json")
        doctor(tree, 1000 * options.microseconds)
        common = ["--threads", options.threads, "--rounds", options.rounds]
        common += ["--cache", str(options.cache), "--baseline", str(baseline)]
        common += ["--size", "distilgpt2", "--peers"]
        if guard(ROOT, [*common, "--update"]) or not baseline.exists():
            sys.exit("no baseline could be measured")
        sound, doctored = guard(ROOT, common), guard(tree, common)
    print(f"the same code: {'passes' if sound == 0 else f'status {sound}'}")
    print(f"a sleep in LayerNorm: {'caught' if doctored == 1 else f'status {doctored}'}")
    return 0 if (sound, doctored) == (0, 1) else 1


def doctor(tree: Path, nanoseconds: int) -> None:
    """Copy the source tree with its build, put a sleep into a kernel, and build what changed."""
    tree.mkdir()
    for name in _FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name)  # with the times that tell what is built
        else:
            shutil.copy2(source, tree / name)
    dispatch = tree / "csrc" / "dispatch.cpp"
    text = dispatch.read_text()
    if text.count(_SOUND) != 1:
        sys.exit(f"csrc/dispatch.cpp has no {_SOUND!r}: nothing to doctor")
    sound = text.replace(_SOUND, _SOUND.replace("active", "sound"))
    dispatch.write_text(sound + _DOCTORED.format(nanoseconds=nanoseconds))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, check=True)


def guard(tree: Path, arguments: list[str]) -> int:
    """Run the guard with the modules of a tree, and return its exit status."""
    command = [sys.executable, "-m", "benchmarks.guard", *arguments]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
