"""csrc without Python: the native checker's logits have the hash of _core's, natively and on
AArch64 under qemu.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from core_models import all_logits, build, cache_of
from native import build as native_build
from native import manifest
from random_checkpoints import ODD, random_tensors, random_tokens
from reference_formats import pack_model

from gpt2fast import _core

# Name of the machine -> (compiler, emulator).
MACHINES = {"native": ("g++", ""), "aarch64": ("aarch64-linux-gnu-g++", "qemu-aarch64")}
TOKENS = random_tokens(ODD, 270)


@pytest.fixture(scope="module", params=MACHINES)
def checker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the checker on this machine."""
    compiler, emulator = MACHINES[request.param]
    for tool in filter(None, (compiler, emulator)):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    program = native_build.build(compiler, tmp_path_factory.mktemp(request.param))
    return [*filter(None, [emulator]), str(program)]


def native_targets() -> set[str]:
    return {name for name, reason in _core.supported().items() if not reason}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_hash_of_logits(checker: list[str], dtype: str, tmp_path: Path) -> None:
    """Catches a target or a machine whose logits differ in one bit, and a core that needs Python to
    be right.
    """
    tensors = random_tensors(ODD)
    logits = all_logits(build(ODD, tensors, dtype), TOKENS)
    want = hashlib.sha256(logits.tobytes()).hexdigest()
    packed = pack_model(ODD, tensors, dtype)
    files = manifest.write(
        tmp_path, ODD, dtype, packed, TOKENS, threads=2, chunk=64, cache=cache_of(dtype)
    )
    command = [*checker, *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()]
    hashes = {target: digest for word, digest, target in lines if word == "sha256"}
    assert set(hashes) >= ({"scalar", "neon"} if len(checker) == 2 else native_targets())
    assert hashes == dict.fromkeys(hashes, want)
