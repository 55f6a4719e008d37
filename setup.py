"""Build the native core and the Cython modules; every other setting is in pyproject.toml.

Each file of csrc/targets is compiled with its own instruction-set flags, everything else for the
plain baseline. `python setup.py build_ext --inplace` compiles only what changed;
GPT2FAST_SANITIZE=address,undefined builds with those sanitizers.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from pybind11 import get_include
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MSVC = sys.platform == "win32"
MACHINE = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
if sys.maxsize < 2**32 or MACHINE not in ("x86_64", "aarch64"):
    sys.exit(f"gpt2fast runs on 64-bit x86 and Arm, not on {platform.architecture()[0]} {MACHINE}")

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni"))]
V82 = "-march=armv8.2-a+dotprod"
CALM = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # gcc 12's AVX-512 headers
TARGETS = {  # what each file of csrc/targets may use; scalar is the specification, no fast path
    "x86_64": {"avx512_vnni": [*AVX512, *CALM], "avx_vnni": [*AVX2, "-mavxvnni"], "avx2": AVX2},
    "aarch64": {"neon_i8mm": [V82 + "+i8mm"], "neon_dotprod": [V82], "neon": []},
}[MACHINE] | {"scalar": ["-O2"]}
SANITIZE = os.environ.get("GPT2FAST_SANITIZE", "")
C = [] if MSVC else ["-O3", "-g0", "-pthread", "-ffp-contract=off", "-fvisibility=hidden"]
CPP = ["-std=c++20", "-fno-math-errno", "-Wall", "-Wextra"]
CPP = ["/std:c++20", "/O2", "/EHsc", "/fp:precise"] if MSVC else [*C, *CPP]
LINK = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-g1", "-O0"] if SANITIZE else []
ARCH = {"avx512_vnni": ["/arch:AVX512"], "avx_vnni": ["/arch:AVX2"], "avx2": ["/arch:AVX2"]}
FLAGS = {f"csrc/targets/{name}.cpp": (ARCH if MSVC else TARGETS).get(name, []) for name in TARGETS}


class Build(build_ext):
    """Compile each file with its own flags, if it or what it may include is newer; always link."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(Path(self.build_temp, SANITIZE))
        self.recompile, self.force = self.force, True

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
