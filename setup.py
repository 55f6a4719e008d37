"""Build the native core and the Cython modules; every other setting is in pyproject.toml.

The files of csrc/targets are compiled each with its own instruction-set flags, everything else for the plain baseline of
the architecture. GPT2FAST_SANITIZE=address,undefined builds with those sanitizers.
"""

import os
import platform
import sys
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from pybind11 import get_include
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MSVC = sys.platform == "win32"
MACHINE = {"AMD64": "x86_64", "ARM64": "aarch64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
if sys.maxsize < 2**32 or MACHINE not in ("x86_64", "aarch64"):
    sys.exit(f"gpt2fast needs a 64-bit x86 or Arm Python; this one runs on {MACHINE}, {sys.maxsize.bit_length() + 1} bits")

AVX2 = ["/arch:AVX2"] if MSVC else ["-mavx2", "-mfma", "-mf16c"]
AVX512 = ["/arch:AVX512"] if MSVC else [*AVX2, *(f"-mavx512{x}" for x in ("f", "bw", "dq", "vl", "vnni"))]
# What each file of csrc/targets may use. gcc 12 sees uninitialised registers in its own AVX-512 headers.
TARGETS = {
    "x86_64": {"avx512_vnni": [*AVX512, *([] if MSVC else ["-Wno-uninitialized", "-Wno-maybe-uninitialized"])], "avx2": AVX2},
    "aarch64": {"neon": []},
}[MACHINE] | {"scalar": []}

COMPILE = ["/std:c++20", "/O2", "/fp:precise"] if MSVC else [
    "-std=c++20", "-O3", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-g0", "-Wall", "-Wextra"]  # fmt: skip
SANITIZE = [f"-fsanitize={s}" for s in (os.environ.get("GPT2FAST_SANITIZE"),) if s]
CORE = [f for f in sorted(glob("csrc/*.cpp"))]
HEADERS = sorted(glob("csrc/**/*.h", recursive=True))


class BuildTargets(build_ext):
    """Compile each target file with its own flags and link the objects into the core."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name == "gpt2fast._core":
            ext.extra_objects = [self.target_object(name, flags, ext) for name, flags in TARGETS.items()]
        super().build_extension(ext)

    def target_object(self, name: str, flags: list[str], ext: Extension) -> str:
        source = Path("csrc/targets", f"{name}.cpp")
        built = Path(self.build_temp, source).with_suffix(".obj" if MSVC else ".o")
        newest = max(Path(f).stat().st_mtime for f in (source, "setup.py", *HEADERS))
        if self.force or not built.exists() or built.stat().st_mtime < newest:
            # The scalar target is the specification, not a fast path, and four times the work for the optimiser at -O3.
            level = [] if MSVC or name != "scalar" else ["-O2"]
            self.compiler.compile([str(source)], output_dir=self.build_temp, include_dirs=["csrc"],
                                  extra_postargs=[*ext.extra_compile_args, *level, *flags])  # fmt: skip
        return str(built)


def cython(name: str, **options: object) -> Extension:
    flags = [] if MSVC else ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
    return Extension(f"gpt2fast.{name}", [f"gpt2fast/{name}.pyx"], include_dirs=["csrc", "gpt2fast"],
                     depends=[*glob("gpt2fast/*.pxi"), *glob("gpt2fast/*.h"), "csrc/api.h"],
                     extra_compile_args=[*flags, *SANITIZE], extra_link_args=SANITIZE)  # fmt: skip


core = Extension("gpt2fast._core", CORE, include_dirs=["csrc", get_include()], language="c++",
                 depends=[*HEADERS, *glob("csrc/targets/*.cpp"), "setup.py"],
                 extra_compile_args=[*COMPILE, *SANITIZE], extra_link_args=SANITIZE)  # fmt: skip
modules = cythonize([cython("_bpe"), cython("_generate")], build_dir="build", language_level=3)
setup(ext_modules=[core, *modules], cmdclass={"build_ext": BuildTargets})
