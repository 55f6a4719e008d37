"""Make what the comparison needs: environments, random checkpoints, every engine's model.

    python -m benchmarks.peers.prepare [--sizes gpt2 ...] [--engines int8 ...] [--cache FOLDER]

Whatever is there already is left as it is, so that it can be started again after a failure. An
engine that cannot be prepared is reported at the end; the others are prepared all the same.
"""

from __future__ import annotations

import argparse
import os
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
_MAKE = {  # how to compile llama.cpp: for this CPU, and for any with AVX2
    "llama": "-DGGML_NATIVE=ON",
    "llama-avx2": "-DGGML_NATIVE=OFF -DGGML_AVX512=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON",
}


def main() -> None:
    """Prepare what the options ask for; exit with 1 if something failed."""
    options = _options()
    places = Places(options.cache)
    disk = sum(_disk(size, options.engines) for size in options.sizes)
    print(f"models: {disk / 1e9:.1f} GB in {places.root}", flush=True)
    failures = []
    for name, step in _steps(places, options.sizes, options.engines):
        start = time.monotonic()
        try:
            step()
        except (OSError, subprocess.CalledProcessError) as error:
            failures.append(name)
            print(f"{name}: FAILED: {error}", flush=True)
        else:
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    if failures:
        sys.exit(f"not prepared: {', '.join(failures)}")


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
    """Make a virtual environment; compiling llama.cpp takes 6 minutes of two CPUs."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = Places(folder.parents[1]).python(name)
    install: list[str | Path] = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--requirement",
        _requirements(name),
    ]
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


def _disk(size: str, engines: list[Engine]) -> int:
    """Return about how many bytes the checkpoint and the models of one size take."""
    bits = {engine.model: engine.bits for engine in engines if engine.converter}
    return parameters(size) * (32 + sum(bits.values()) + 2 * len(bits)) // 8


if __name__ == "__main__":
    main()
