"""Dispatch on the registers that known CPUs and hypervisors report."""

from __future__ import annotations

import pytest

from gpt2fast import _core

BEST_FIRST = ("avx512_vnni", "avx_vnni", "avx2", "neon_i8mm", "neon_dotprod", "neon", "scalar")
SSE, AVX, AVX512 = 0x3, 0x7, 0xE7  # what XCR0 says the operating system saves
# CPUID leaf 1 ecx, leaf 7 ebx and ecx, leaf 7.1 eax.
NEHALEM = (0x0098E3BD, 0, 0, 0)
HASWELL = (0x7FDAFBBF, 0x000027AB, 0, 0)
SKYLAKE_X = (0x7FFEFBFF, 0xD39FFFFB, 0, 0)
CASCADE_LAKE = (0x7FFEFBFF, 0xD39FFFFB, 0x00000808, 0)
ALDER_LAKE = (0x7FFAFBBF, 0x239C27EB, 0x98C027AC, 0x00400810)
ZEN_2 = (0x7ED8320B, 0x219C91A9, 0x00400004, 0)
ZEN_4 = (0x7EF8320B, 0xF1BF97A9, 0x00405FCE, 0x00000020)
OSXSAVE = 1 << 27

CASES = {
    # Illegal instruction on the oldest CPU that the wheel runs on.
    "Nehalem": (NEHALEM, 0, "scalar"),
    # AVX-512 chosen for AVX2, or AVX2 missed.
    "Haswell": (HASWELL, AVX, "avx2"),
    # VNNI taken for granted with AVX-512.
    "Skylake-X": (SKYLAKE_X, AVX512, "avx2"),
    "Cascade Lake": (CASCADE_LAKE, AVX512, "avx512_vnni"),
    # AVX-VNNI needs no AVX-512.
    "Alder Lake": (ALDER_LAKE, AVX, "avx_vnni"),
    # Intel's features looked for by Intel's name.
    "Zen 2": (ZEN_2, AVX, "avx2"),
    "Zen 4": (ZEN_4, AVX512, "avx512_vnni"),
    # A CPU with AVX-512 under a system that does not save its registers.
    "AVX-512 without the system's leave": (CASCADE_LAKE, AVX, "avx2"),
    # The same one step lower: an old kernel, or one started with noxsave.
    "AVX without the system's leave": (CASCADE_LAKE, SSE, "scalar"),
    # XCR0 believed though CPUID does not say that it may be read.
    "no OSXSAVE": ((0x7FFEFBFF & ~OSXSAVE, *CASCADE_LAKE[1:]), AVX512, "scalar"),
    # A hypervisor that hides the AVX-512 foundation but forgets VNNI.
    "AVX-512 masked by a hypervisor": ((0x7FFEFBFF, 0x000027AB, 0x808, 0), AVX512, "avx2"),
    # A hypervisor that hides FMA of a CPU that has AVX2.
    "FMA masked by a hypervisor": ((HASWELL[0] & ~(1 << 12), *HASWELL[1:]), AVX, "scalar"),
    # An emulator that leaves leaf 7 out.
    "no leaf 7": ((HASWELL[0], 0, 0, 0), AVX, "scalar"),
}


def best(facts: dict[str, int]) -> str:
    return next(name for name in BEST_FIRST if not _core.missing_for(name, facts))


@pytest.mark.parametrize("name", CASES)
def test_x86(name: str) -> None:
    """Catches an illegal instruction, or half the speed; each case says which."""
    registers, xcr0, expected = CASES[name]
    fields = ("leaf1_ecx", "leaf7_ebx", "leaf7_ecx", "leaf7_1_eax")
    assert best({**dict(zip(fields, registers, strict=True)), "xcr0": xcr0}) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"neon": 1}, "neon"),  # Cortex-A72: no dot product
        ({"neon": 1, "dotprod": 1}, "neon_dotprod"),  # Apple M1, Neoverse N1
        ({"neon": 1, "dotprod": 1, "i8mm": 1}, "neon_i8mm"),  # Graviton 3
        ({"neon": 1, "i8mm": 1}, "neon"),  # a report that cannot be: the dot product is older
    ],
)
def test_arm(facts: dict[str, int], expected: str) -> None:
    """Catches an Arm target chosen without its instructions."""
    assert best(facts) == expected


def test_order_is_that_of_the_build() -> None:
    """Catches a target that this table does not know, or another order."""
    assert [name for name in BEST_FIRST if name in _core.targets()] == _core.targets()
