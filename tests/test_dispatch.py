"""Which targets this machine runs, and which it must not, from forged facts about a CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gpt2fast import _core

# Facts of a CPU with everything: CPUID leaf 1 ecx, leaf 7 ebx, ecx and subleaf 1 eax, XCR0.
FMA, XSAVE, AVX, F16C = 1 << 12, 1 << 27, 1 << 28, 1 << 29
AVX2 = 1 << 5
AVX512 = 1 << 16 | 1 << 17 | 1 << 30 | 1 << 31
X86 = {
    "leaf1_ecx": FMA | XSAVE | AVX | F16C,
    "leaf7_ebx": AVX2 | AVX512,
    "leaf7_ecx": 1 << 11,
    "leaf7_1_eax": 1 << 4,
    "xcr0": 0xE7,
}
ARM = {"neon": 1, "dotprod": 1, "i8mm": 1}
X86_TARGETS = ("avx2", "avx_vnni", "avx512_vnni")
ARM_TARGETS = ("neon", "neon_dotprod", "neon_i8mm")


@pytest.mark.parametrize("name", _core.targets())
def test_target_runs(name: str) -> None:
    """Catches a target that cannot be forced, or another that runs in its place."""
    reason = _core.supported()[name]
    if reason:
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            _core.force_target(name)
        pytest.skip(f"target {name}: {reason}")
    _core.force_target(name)
    try:
        assert _core.target() == name
    finally:
        _core.force_target(None)


def test_scalar_is_everywhere() -> None:
    """Catches a specification that needs some feature, or that is preferred to another target."""
    assert _core.targets()[-1] == "scalar"
    assert _core.missing_for("scalar", {}) == ""


@pytest.mark.parametrize("name", X86_TARGETS)
def test_x86_needs(name: str) -> None:
    """Catches a feature, or the system's leave to use it, that a target takes for granted."""
    assert _core.missing_for(name, X86) == ""
    needed = [("leaf1_ecx", bit) for bit in (FMA, XSAVE, AVX, F16C)]
    needed += [("leaf7_ebx", AVX2), ("xcr0", 2), ("xcr0", 4)]
    if name == "avx_vnni":
        needed += [("leaf7_1_eax", 1 << 4)]
    if name == "avx512_vnni":
        needed += [("leaf7_ebx", 1 << bit) for bit in (16, 17, 30, 31)]
        needed += [("leaf7_ecx", 1 << 11), *(("xcr0", 1 << bit) for bit in (5, 6, 7))]
    for fact, bit in needed:
        assert _core.missing_for(name, X86 | {fact: X86[fact] & ~bit}), (fact, bit)


def test_x86_does_not_need_more() -> None:
    """Catches a CPU shut out for what it lacks but the target does not use."""
    haswell = {**X86, "leaf7_ebx": AVX2, "leaf7_ecx": 0, "leaf7_1_eax": 0, "xcr0": 7}
    assert _core.missing_for("avx2", haswell) == ""
    assert _core.missing_for("avx_vnni", {**haswell, "leaf7_1_eax": 1 << 4}) == ""
    assert _core.missing_for("avx512_vnni", {**X86, "leaf7_1_eax": 0}) == ""


def test_arm_needs() -> None:
    """Catches an Arm target that runs without its instructions, or on x86."""
    for i, name in enumerate(ARM_TARGETS):
        assert _core.missing_for(name, ARM) == ""
        for fact in list(ARM)[: i + 1]:
            assert _core.missing_for(name, {**ARM, fact: 0})
        assert _core.missing_for(name, X86)
    for name in X86_TARGETS:
        assert _core.missing_for(name, ARM)


def run_with(target: str) -> subprocess.CompletedProcess[str]:
    code = "from gpt2fast import _core; print(_core.target())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GPT2FAST_TARGET": target},
        capture_output=True,
        text=True,
        check=False,
    )


def test_environment() -> None:
    """Catches an override that is ignored, or a misspelt one that is."""
    assert run_with("scalar").stdout == "scalar\n"
    best = next(name for name, reason in _core.supported().items() if not reason)
    assert run_with("").stdout == f"{best}\n"
    wrong = run_with("sclar")
    assert wrong.returncode != 0
    assert "ValueError" in wrong.stderr
    assert "sclar" in wrong.stderr
