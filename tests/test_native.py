"""csrc without Python: the native checker's logits have the hash of _core's, from gcc and clang, on
old CPUs and other ones under qemu, with musl, and on Windows under wine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from core_models import all_logits, build, cache_of
from native import build as native_build
from native import manifest
from random_checkpoints import ODD, random_tensors, random_tokens
from reference_formats import pack_model

from gpt2fast import _core

X86, ARM = "x86_64-linux-gnu-g++", "aarch64-linux-gnu-g++"
ZIG = shlex.join([sys.executable, "-m", "ziglang", "c++", "-target"]) + " "
ARM_TARGETS = ("neon_i8mm", "neon_dotprod", "neon", "scalar")
# Name of the machine -> (compiler, emulator, targets that run there; none: those of this machine).
MACHINES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "native": ("g++", "", ()),
    "clang": ("clang++", "", ()),
    "nehalem": (X86, "qemu-x86_64 -cpu Nehalem", ("scalar",)),
    "haswell": (X86, "qemu-x86_64 -cpu Haswell", ("avx2", "scalar")),
    "cortex-a72": (ARM, "qemu-aarch64 -cpu cortex-a72", ARM_TARGETS[2:]),
    "aarch64": (ARM, "qemu-aarch64 -cpu max", ARM_TARGETS),
    "musl": (ZIG + "x86_64-linux-musl", "", ()),
    "musl-aarch64": (ZIG + "aarch64-linux-musl", "qemu-aarch64 -cpu max", ARM_TARGETS),
    "windows": (ZIG + "x86_64-windows-gnu", "wine", ()),
}
TOKENS = random_tokens(ODD, 270)


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    """What each compiler has built so far."""
    return {}


def need(*tools: str) -> None:
    """Skip the test if one of them is missing; of a command, its first word."""
    for tool in tools:
        if tool.startswith(ZIG):
            if importlib.util.find_spec("ziglang") is None:
                pytest.skip("ziglang is not installed")
        elif shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.fixture(scope="module", params=MACHINES)
def checker(
    request: pytest.FixtureRequest,
    programs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[str], set[str]]:
    """The command that runs the checker on this machine, and the targets it must run."""
    compiler, emulator, targets = MACHINES[request.param]
    need(compiler, *emulator.split()[:1])
    path = str(Path(shutil.which(compiler) or compiler).resolve())  # g++ may be X86
    if path not in programs:
        folder = tmp_path_factory.mktemp(request.param)
        programs[path] = native_build.build(compiler, folder, evex=request.param == "native")
    here = {name for name, reason in _core.supported().items() if not reason}
    if request.param == "native":  # avx_vnni runs where AVX-512 does
        here = here - {"avx_vnni"} | ({"avx_vnni"} if "avx512_vnni" in here else set())
    return [*emulator.split(), str(programs[path])], set(targets) or here


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_hashes(checker: tuple[list[str], set[str]], dtype: str, tmp_path: Path) -> None:
    """Catches a target or a machine whose logits or scores differ in one bit, and a core that needs
    Python to be right.
    """
    tensors = random_tensors(ODD)
    model = build(ODD, tensors, dtype)
    cache = _core.Cache(model, cache_of(dtype))
    [scores] = model.score([cache], [TOKENS], [np.roll(TOKENS, -1)])
    content = {"sha256": all_logits(model, TOKENS).tobytes(), "scores": scores.tobytes()}
    packed = pack_model(ODD, tensors, dtype)
    files = manifest.write(
        tmp_path, ODD, dtype, packed, TOKENS, threads=2, chunk=64, cache=cache_of(dtype)
    )
    command, targets = checker
    run = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    for kind, data in content.items():
        want = hashlib.sha256(data).hexdigest()
        hashes = {target: digest for word, digest, target in lines if word == kind}
        assert set(hashes) == targets
        assert hashes == dict.fromkeys(hashes, want)


@pytest.mark.parametrize("machine", ["aarch64-macos", "x86_64-macos", "aarch64-windows-gnu"])
def test_other_systems(machine: str, tmp_path: Path) -> None:
    """Catches a header, a call or a flag that Linux has and they have not; nothing runs."""
    need(ZIG)
    assert native_build.build(ZIG + machine, tmp_path, link="-Wall").stat().st_size > 100_000
