"""An engine in a process of its own, asked over pipes."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.engines import Engine, Places
from gpt2fast.bench.cpu_clock import CpuClock

ROOT = Path(__file__).resolve().parents[2]
# The source tree goes last on the path: an installed gpt2fast has the compiled modules.
LAUNCH = """import runpy, sys
sys.path.append(sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
PATIENCE = 600  # seconds for one request


class EngineError(Exception):
    """An engine is not there, failed, or did not do what it was asked."""


@dataclass(frozen=True)
class Sample:
    """One timed generation. `foreign` is the share of CPU time that others took, if known."""

    tokens: list[list[int]]
    first: float
    rest: float
    foreign: float | None


class EngineProcess:
    """A loaded engine. `load_seconds` are those from starting its process to having the model."""

    def __init__(self, engine: Engine, places: Places, size: str, threads: int) -> None:
        python, model = places.python(engine.environment), places.model(engine, size)
        for needed in (python, model):
            if not needed.exists():
                place = needed.relative_to(places.root)
                raise EngineError(f"not prepared: there is no {place.as_posix()}")
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            start = time.perf_counter()
            self._process = subprocess.Popen(
                [python, "-P", "-c", LAUNCH, str(ROOT), f"benchmarks.peers.{engine.module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | {"OMP_NUM_THREADS": str(threads), **engine.variables},
                text=True,
            )
            stack.callback(self._end)
            reply = self._ask(do="load", model=str(model), format=engine.format, threads=threads)
            self.load_seconds = time.perf_counter() - start
            self.version: str = reply["version"]
            self._stack = stack.pop_all()

    def generate(self, prompts: list[list[int]], new: int) -> Sample:
        """Continue prompts; raises EngineError unless there are `new` tokens for each."""
        before = CpuClock.now()
        reply = self._ask(do="generate", prompts=prompts, new=new)
        after = CpuClock.now()
        foreign = before.foreign(after, reply["cpu_seconds"])
        sample = Sample(reply["tokens"], reply["first"], reply["rest"], foreign)
        taken = after.wall - before.wall
        produced = [len(tokens) for tokens in sample.tokens]
        if produced != [new] * len(prompts):
            raise EngineError(f"produced {produced} tokens, not {new} for {len(prompts)} prompts")
        if not (sample.first > 0 and sample.rest >= 0 and sample.first + sample.rest <= taken):
            raise EngineError(f"says {sample.first} s and {sample.rest} s, but took {taken} s")
        return sample

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """Return the logits after each token: (n_tokens, n_vocab)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "logits.npy")
            self._ask(do="logits", tokens=tokens, file=str(path))
            rows: NDArray[np.float32] = np.load(path)
        return rows

    def _ask(self, **request: Any) -> dict[str, Any]:
        process = self._process
        assert process.stdin
        assert process.stdout
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            raise EngineError(f"ended with status {process.wait()}: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise EngineError(reply["error"])
        self.peak_bytes: int = reply["peak_bytes"]
        return reply

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"no message; more than {PATIENCE} s are not waited for"

    def _end(self) -> None:
        """Close the pipe, at which the process ends by itself, or else is killed."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
