"""What an engine's process says and hears: one JSON object per line, a request and its reply.

Runs in the environments of the engines too, so it needs NumPy and nothing of gpt2fast.

    {"do": "load", "model": PATH, "format": NAME, "threads": N}  ->  {"version"}
    {"do": "generate", "prompts": [[id, ...], ...], "new": N}    ->  {"tokens", "first", "rest"}
    {"do": "logits", "tokens": [id, ...], "file": PATH}          ->  {"shape"}; writes a .npy file

`first` is the seconds from the call to the first new token of every prompt, `rest` those from there
to the last one. Every reply has `cpu_seconds`, what the request took of the CPUs, and `peak_bytes`,
the most memory the process ever had. {"error": TEXT} is the reply to what failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Generated:
    """New tokens of each prompt, and the seconds up to the first one and from there to the last."""

    tokens: list[list[int]]
    first: float
    rest: float


class Engine(Protocol):
    """What is measured."""

    version: str

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        """Continue prompts of one length by the most likely tokens, `new` of them each."""
        ...

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """Return the logits after each token: (n_tokens, n_vocab)."""
        ...


class Stopwatch:
    """Takes the time of the first token, and of the last one."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._first: float | None = None

    def token(self) -> None:
        """Note that one more token of every prompt is known."""
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last

    def generated(self, tokens: list[list[int]]) -> Generated:
        """Return the tokens with the times noted."""
        first = self._last if self._first is None else self._first
        return Generated(tokens, first - self._start, self._last - first)


def serve(make: Callable[[Path, str, int], Engine]) -> None:
    """Answer requests from standard input until it ends; `make(model, format, threads)` loads.

    What libraries print goes to standard error.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine: Engine | None = None
    for line in sys.stdin:
        before = time.process_time()
        request = json.loads(line)
        try:
            if request["do"] == "load":
                engine = make(Path(request["model"]), request["format"], request["threads"])
                reply: dict[str, Any] = {"version": engine.version}
            elif engine is None:
                reply = {"error": "no model is loaded"}
            else:
                reply = _answer(engine, request)
        except NotImplementedError as error:
            reply = {"error": str(error)}
        except Exception as error:  # an engine may raise anything; the other side is told
            reply = {"error": f"{type(error).__name__}: {error}"}
        facts = {"cpu_seconds": time.process_time() - before, "peak_bytes": peak_bytes()}
        replies.write(json.dumps(reply | facts) + "\n")
        replies.flush()


def _answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "logits":
        rows = engine.logits(request["tokens"])
        np.save(request["file"], rows)
        return {"shape": rows.shape}
    generated = engine.generate(request["prompts"], request["new"])
    return {"tokens": generated.tokens, "first": generated.first, "rest": generated.rest}


def peak_bytes() -> int:
    """Return the most memory this process ever had resident, mapped files included.

    Linux: from /proc, because getrusage counts what the process had that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
