"""What the compiler made: wide instructions stay where dispatch guards them, and what is
installed is light.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native import build as native_build

from gpt2fast import _bpe, _core, _generate

CSRC = native_build.ROOT / "csrc"
PREFIXES = {"26", "2e", "36", "3e", "64", "65", "67", "f0"}  # may stand before VEX and EVEX
VEX, EVEX = {"c4", "c5"}, {"62"}  # in 64-bit code these bytes begin nothing else

TARGETS = sorted(native_build.settings(platform.machine())["TARGETS"])
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 instructions")


def read(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_file(compiler: str, source: Path, folder: Path, *extra: str) -> Path:
    """Compile a file of csrc with the flags that setup.py gives it, and with more of them."""
    setup = native_build.settings(platform.machine())
    flags = setup["TARGETS"].get(source.stem, []) if source.parent.name == "targets" else []
    target = folder / f"{source.stem}.o"
    command = [*setup["CPP"], "-fPIC", f"-I{CSRC}", *native_build.for_compiler(compiler, flags)]
    read(compiler, *command, *extra, "-c", str(source), "-o", str(target))
    return target


def wide_functions(binary: Path) -> dict[str, set[str]]:
    """Function -> the first bytes, of VEX or EVEX, of its instructions that have them."""
    found: dict[str, set[str]] = {}
    function = ""
    for line in read("objdump", "-d", "--insn-width=16", str(binary)).splitlines():
        if line.endswith(">:"):
            function = line.split("<", 1)[1]
        elif instruction := re.match(r"\s*[0-9a-f]+:\t((?:[0-9a-f]{2} )+)", line):
            first = next((b for b in instruction[1].split() if b not in PREFIXES), "")
            if first in VEX | EVEX:
                found.setdefault(function, set()).add(first)
    return found


@linux_only
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("level", ["as built", "-O0"])
@pytest.mark.parametrize("name", TARGETS)
def test_objects_of_targets(name: str, level: str, compiler: str, tmp_path: Path) -> None:
    """Catches a weak symbol, whose wide code the linker may take for all, and code that runs
    before dispatch could forbid it.
    """
    extra = [] if level == "as built" else [level]
    built = compile_file(compiler, CSRC / "targets" / f"{name}.cpp", tmp_path, *extra)
    symbols = [line.split()[-2:] for line in read("nm", str(built)).splitlines()]
    shared = {symbol: kind for kind, symbol in symbols if kind in "ABCDGRSTVWiu"}
    shared.pop("DW.ref.__gxx_personality_v0", None)  # a pointer, no code
    assert list(shared) == [f"gpt2fast_target_{name}"]
    assert set(shared.values()) <= {"D", "R"}
    sections = read("objdump", "-h", str(built))
    assert not re.search(r"\.(init_array|ctors|preinit_array|text\.startup)", sections)


def leaks(module: Path) -> set[str]:
    """Functions with wider instructions than their own name, and so their target, allows: each
    function of a target has the name of its instruction set in its own.
    """
    wide = wide_functions(module)
    allowed = {name for name in wide if "Avx512" in name}
    allowed |= {name for name in wide if "Avx" in name and not wide[name] & EVEX}
    return set(wide) - allowed


@linux_only
@x86_only
def test_wide_instructions_stay_in_their_target() -> None:
    """Catches an instruction that an older CPU does not know, outside the functions of a target."""
    core = Path(str(_core.__file__))
    assert leaks(core) == set()
    assert any("Avx2" in name for name in wide_functions(core))
    assert any("Avx512" in name for name in wide_functions(core))
    for module in (_bpe, _generate):
        assert wide_functions(Path(str(module.__file__))) == {}


@linux_only
@x86_only
@pytest.mark.parametrize(
    ("file", "extra"),
    [
        ("matrix.cpp", "-mavx2"),  # built for too new a CPU
        ("matrix.cpp", "-march=x86-64-v4"),
        ("targets/avx2.cpp", "-mavx512vl"),  # a target with more than its name says
    ],
)
def test_the_guard_sees_a_leak(file: str, extra: str, tmp_path: Path) -> None:
    """Catches a guard that passes whatever it is shown: a module in which one file of csrc has the
    flags of another CPU.
    """
    leaked = compile_file("g++", CSRC / file, tmp_path, extra)
    module = tmp_path / "module.so"
    read("g++", "-shared", str(leaked), "-o", str(module))
    assert leaks(module)


def test_intrinsics_live_in_isa() -> None:
    """Catches CPU-specific code outside csrc/isa, where no kernel could be read without it."""
    pattern = re.compile(
        r"\b_mm\w*_|\b__m(128|256|512)|\bv\w+q?_[sufp](8|16|32|64)\b|immintrin|arm_neon"
    )
    files = [p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp") and p.parent.name != "isa"]
    assert len(files) > 20
    assert [p.name for p in files if pattern.search(p.read_text())] == []
    assert pattern.search((CSRC / "isa" / "avx2.h").read_text())
    assert pattern.search((CSRC / "isa" / "neon.h").read_text())


def test_writing_needs_no_framework() -> None:
    """Catches an import that would drag a deep-learning framework into every program."""
    code = (
        "import sys, gpt2fast\n"
        "gpt2fast.load().generate('Once', max_new_tokens=2)\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
