"""Make what the comparison needs: environments, random checkpoints, every engine's model.

    python -m benchmarks.peers.prepare [--sizes gpt2 ...] [--engines int8 ...] [--cache FOLDER]

Whatever is there already is left as it is, so that it can be started again after a failure. An
engine that cannot be prepared is reported at the end; the others are prepared all the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.peers.client import LAUNCH, ROOT
from benchmarks.peers.engines import SEED, Engine, Places, chosen
from benchmarks.peers.weights import finished
from benchmarks.random_checkpoints import SIZES, parameters, write

HERE = Path(__file__).parent
_DISK = {  # bytes of each environment, of which torch with CUDA would take 5 GB more
    "llama": 0.18e9,
    "llama-avx2": 0.18e9,
    "ctranslate2": 0.26e9,
    "onnxruntime": 0.22e9,
    "openvino": 0.31e9,
    "torch": 1.25e9,
}
_MINUTES = {"llama": 5, "llama-avx2": 5, "torch": 1}  # of two CPUs; the others take seconds
_MINUTES_PER_BYTE = 0.3e-9
_MAKE = {  # how to compile llama.cpp: for this CPU, and for any with AVX2
    "llama": "-DGGML_NATIVE=ON",
    "llama-avx2": "-DGGML_NATIVE=OFF -DGGML_AVX512=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON",
}


def main() -> None:
    """Prepare what the options ask for; exit with 1 if something failed."""
    options = _options()
    places = Places(options.cache)
    print(announced(places, options.sizes, options.engines), flush=True)
    failures = prepare(places, options.sizes, options.engines)
    if failures:
        sys.exit(f"not prepared: {', '.join(failures)}")


def prepare(places: Places, sizes: list[str], engines: list[Engine]) -> list[str]:
    """Make what is not there yet, and return what could not be made."""
    failures = []
    for name, step in _steps(places, sizes, engines):
        start = time.monotonic()
        try:
            step()
        except (OSError, subprocess.CalledProcessError) as error:
            failures.append(name)
            print(f"{name}: FAILED: {error}", flush=True)
        else:
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return failures


def announced(places: Places, sizes: list[str], engines: list[Engine]) -> str:
    """Return what is missing and what it will take; ends the program if the disk is too small."""
    environments = [
        name
        for name in dict.fromkeys(engine.environment for engine in engines)
        if name and not _is_complete(places.venv(name), name)
    ]
    missing = {size: _missing(places, size, engines) for size in sizes}
    disk = sum(_DISK[name] for name in environments) + sum(missing.values())
    largest = max((parameters(size) for size in sizes if missing[size]), default=0)
    minutes = sum(_MINUTES.get(name, 0.3) for name in environments) + disk * _MINUTES_PER_BYTE
    places.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(places.root).free
    parts = [f"environments {', '.join(environments)}"] * bool(environments)
    parts += [f"models of {size}" for size in sizes if missing[size]]
    if not parts:
        return f"everything is there: {places.root}"
    if disk > free:
        sys.exit(f"{places.root}: {disk / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    return (
        f"to make in {places.root}: {'; '.join(parts)}\n{disk / 1e9:.1f} GB of disk, of "
        f"{free / 1e9:.1f} GB free; {largest * 4.1e-9 + 0.5:.1f} GB of memory; about "
        f"{minutes:.0f} minutes on two CPUs"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cache", type=Path, default=Places.default(), help="default: %(default)s")
    parser.add_argument("--sizes", nargs="+", default=["gpt2"], choices=SIZES, metavar="SIZE")
    parser.add_argument("--engines", nargs="+", default=["int8"], metavar="ENGINE or GROUP")
    options = parser.parse_args()
    try:
        options.engines = chosen(options.engines)
    except ValueError as error:
        parser.error(str(error))
    return options


def _steps(
    places: Places, sizes: list[str], engines: list[Engine]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what is not there yet."""
    for name in dict.fromkeys(engine.environment for engine in engines):
        if name and not _is_complete(places.venv(name), name):
            yield f"environment {name}", partial(_environment, places.venv(name), name)
    for size in sizes:
        checkpoint = places.checkpoint(size)
        if not checkpoint.exists():
            yield f"{size} checkpoint", partial(_checkpoint, size, checkpoint)
        models = {engine.model: engine for engine in engines}
        for name, engine in models.items():
            if not places.model(engine, size).exists():
                yield f"{size} {name}", partial(convert, places, engine, size)


def _environment(folder: Path, name: str) -> None:
    """Make a virtual environment; compiling llama.cpp takes 5 minutes of two CPUs."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = Places(folder.parents[1]).python(name)
    install: list[str | Path] = ["-m", "pip", "install", "--quiet"]
    if name in _MAKE:
        install.append("--no-cache-dir")  # it has what was compiled with other options
    install += ["--requirement", _requirements(name)]
    subprocess.run(
        [python, *install], check=True, env=os.environ | {"CMAKE_ARGS": _MAKE.get(name, "")}
    )
    (folder / "complete").write_text(_recipe(name))


def _is_complete(folder: Path, name: str) -> bool:
    """Return whether an environment was made from the requirements as they are now."""
    try:
        return (folder / "complete").read_text() == _recipe(name)
    except FileNotFoundError:
        return False


def _recipe(name: str) -> str:
    return f"{_MAKE.get(name, '')}\n{_requirements(name).read_text()}"


def _requirements(name: str) -> Path:
    return HERE / f"requirements-{name}.txt"


def _checkpoint(size: str, folder: Path) -> None:
    with finished(folder) as unfinished:
        write(size, unfinished, SEED)


def convert(places: Places, engine: Engine, size: str) -> None:
    """Make the model of an engine; raises CalledProcessError if that fails."""
    checkpoint, model = places.checkpoint(size), places.model(engine, size)
    arguments: list[str | Path] = [
        LAUNCH,
        ROOT,
        "benchmarks.peers.convert",
        engine.converter,
        checkpoint,
        model,
    ]
    python = places.python(engine.environment)
    subprocess.run([python, "-P", "-c", *arguments, engine.format], check=True)


def _missing(places: Places, size: str, engines: list[Engine]) -> int:
    """Return about how many bytes what is not there of a size will take."""
    bits = {
        engine.model: engine.bits + 2
        for engine in engines
        if engine.converter and not places.model(engine, size).exists()
    }
    total = sum(bits.values()) + 32 * (not places.checkpoint(size).exists())
    return parameters(size) * total // 8


if __name__ == "__main__":
    main()
