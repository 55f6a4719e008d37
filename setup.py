"""Build the native core and the Cython modules; every other setting is in pyproject.toml.

Each file of csrc/targets is compiled with its own instruction-set flags, everything else for the
plain baseline, on Windows by clang-cl, which takes the same flags. `python setup.py build_ext
--inplace` compiles only what changed; GPT2FAST_SANITIZE=address,undefined builds with those
sanitizers.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from pybind11 import get_include
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SYSTEM = sys.platform
MACHINE = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
if sys.maxsize < 2**32 or MACHINE not in ("x86_64", "aarch64"):
    found = f"a {platform.architecture()[0]} Python on {MACHINE}"
    sys.exit(f"gpt2fast needs a 64-bit Python on a 64-bit x86 or Arm CPU; this is {found}")
if SYSTEM == "darwin":  # python.org's Python would compile each file for both architectures at once
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni"))]
V82 = "-march=armv8.2-a+dotprod"
CALM = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # gcc 12's AVX-512 headers
TARGETS = {  # what each file of csrc/targets may use; scalar is the specification, no fast path
    "x86_64": {"avx512_vnni": [*AVX512, *CALM], "avx_vnni": [*AVX2, "-mavxvnni"], "avx2": AVX2},
    "aarch64": {"neon_i8mm": [V82 + "+i8mm"], "neon_dotprod": [V82], "neon": []},
}[MACHINE] | {"scalar": ["-O2"]}
SANITIZE = os.environ.get("GPT2FAST_SANITIZE", "")
MACOS = ["-mmacosx-version-min=11.0"] if SYSTEM == "darwin" else []  # for std::atomic::wait
LINK = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-g1", "-O0"] if SANITIZE else MACOS
MSVC = [f"--target={MACHINE}-pc-windows-msvc", "/clang:-ffp-contract=off"]
GNU = ["-O3", "-g0", "-pthread", "-ffp-contract=off", "-fvisibility=hidden", *MACOS]
C = MSVC if SYSTEM == "win32" else GNU
CPP = ["/std:c++20", "/EHsc", "/clang:-fno-math-errno"]
CPP = [*C, *(CPP if C is MSVC else ["-std=c++20", "-fno-math-errno", "-Wall", "-Wextra"])]
FLAGS = {f"csrc/targets/{name}.cpp": flags for name, flags in TARGETS.items()}

PROBE = "#include <atomic>\n#include <concepts>\nstatic_assert(__cpp_lib_atomic_wait >= 201907L);"
WANTED = {  # and how to come by it
    "darwin": "clang of Xcode 14 or newer (xcode-select --install)",
    "win32": "clang-cl ('C++ Clang tools for Windows' in the Visual Studio Installer)",
}.get(SYSTEM, "gcc 11 or clang 14, or newer, with C++ (apt install g++; dnf install gcc-c++)")


def check(compiler: Any) -> None:
    """Exit with one line if a compiler is missing or too old, or Python has no headers."""
    commands = [[compiler.cc]] if C is MSVC else [compiler.compiler_so, compiler.compiler_so_cxx]
    for command in commands:
        if shutil.which(command[0]) is None:
            sys.exit(f"gpt2fast found no compiler {command[0]!r}: it needs {WANTED}")
    if C is not MSVC:
        flags = [*CPP, *(flag for flags in TARGETS.values() for flag in flags)]
        command = [*commands[-1], *flags, "-x", "c++", "-fsyntax-only", "-"]
        run = subprocess.run(command, input=PROBE, capture_output=True, text=True)
        if run.returncode:
            lines = run.stderr.splitlines()
            error = [line for line in lines if "error" in line][:1] or lines[-1:]
            sys.exit(f"gpt2fast needs {WANTED}; {command[0]} is too old, or broken: {error}")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        sys.exit("gpt2fast found no Python.h: it needs Python's headers (apt install python3-dev)")


class Build(build_ext):
    """Compile each file with its own flags, if it or what it may include is newer; always link."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(Path(self.build_temp, SANITIZE))
        self.recompile, self.force = self.force, True

    def build_extensions(self) -> None:
        if C is MSVC:
            self.compiler.initialize(self.plat_name)
            path = os.pathsep.join([os.environ["PATH"], r"C:\Program Files\LLVM\bin"])
            self.compiler.cc = shutil.which("clang-cl", path=path) or "clang-cl"
        check(self.compiler)
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        def compiled(source: str) -> str:
            [built] = self.compiler.object_filenames([source], output_dir=self.build_temp)
            newest = max(Path(f).stat().st_mtime for f in (source, *ext.depends))
            if self.recompile or not Path(built).exists() or Path(built).stat().st_mtime < newest:
                flags = [*ext.extra_compile_args, *FLAGS.get(source, []), *LINK]
                self.compiler.compile([source], output_dir=self.build_temp, extra_postargs=flags,
                                      include_dirs=ext.include_dirs)  # fmt: skip
            return built

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compiled, ext.sources))
        ext.sources = []
        super().build_extension(ext)


def extension(name: str, sources: list[str], depends: list[str], language: str) -> Extension:
    return Extension(f"gpt2fast.{name}", sources, depends=[*depends, "setup.py"], language=language,
                     include_dirs=["csrc", "gpt2fast", get_include()], extra_link_args=LINK,
                     extra_compile_args=CPP if language == "c++" else C)  # fmt: skip


headers = glob("csrc/**/*.h", recursive=True)
core = extension("_core", [*sorted(glob("csrc/*.cpp")), *FLAGS], headers, "c++")
parts = [*glob("gpt2fast/*.pxi"), *glob("gpt2fast/*.h"), "csrc/api.h"]
modules = [extension(name, [f"gpt2fast/{name}.pyx"], parts, "c") for name in ("_bpe", "_generate")]
modules = cythonize(modules, build_dir="build", language_level=3)
setup(ext_modules=[core, *modules], cmdclass={"build_ext": Build})
