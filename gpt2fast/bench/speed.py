"""Measures a model: prompts, one token after another, latency, memory, and shares of the roof.

Rounds interleave everything that is measured, because a shared machine drifts. What was measured
while other processes used the CPUs is measured again, and does not count.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2fast.bench import machine
from gpt2fast.bench.cpu_clock import FOREIGN_LIMIT, CpuClock
from gpt2fast.bench.roofline import RoofMeter, Roofs, model_work
from gpt2fast.bench.series import Run, Series
from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.completion import Completion
from gpt2fast.memory import peak_bytes
from gpt2fast.model import Model, load
from gpt2fast.ranges import integer

SECONDS = 0.3  # that a measurement takes at least, by repetition
_ATTEMPTS = 3  # to find the CPUs free of others

Key = tuple[str, int, str]  # of a series
Value = tuple[float, bool]  # and whether others let the CPUs alone


@dataclass(frozen=True)
class Lengths:
    """Tokens: of the prompt that is read, and of the `context` after which `new` are written."""

    prompt: int
    context: int
    new: int

    @staticmethod
    def fitting(n_ctx: int, prompt: int | None, context: int | None, new: int | None) -> Lengths:
        """Return what was asked for, or as much of 512, 32 and 64 as the model's context holds.

        Raises ValueError for what it does not hold.
        """
        if n_ctx < 4:
            raise ValueError(f"the model's context of {n_ctx} tokens is too short; allowed: 4")
        prompt = integer("--prompt-tokens", min(512, n_ctx - 1) if prompt is None else prompt,
                         1, n_ctx - 1)  # fmt: skip
        context = integer("--context", min(32, n_ctx // 2) if context is None else context,
                          1, n_ctx - 2)  # fmt: skip
        room = n_ctx - context
        new = integer("--new-tokens", min(64, room) if new is None else new, 2, room)
        return Lengths(prompt, context, new)


class Bench:
    """The measurements of one packed model; `run` makes them."""

    def __init__(self, packed: PackedModel, lengths: Lengths, threads: Sequence[int]) -> None:
        self._packed = packed
        self._lengths = lengths
        self._models = {n: Model(packed, threads=n, prompt_threads=n) for n in threads}
        self._found: dict[Key, list[Value]] = defaultdict(list)
        self._roofs: dict[Key, str] = {}
        self._meter = RoofMeter()
        self._ids = np.random.default_rng(0)

    def run(self, rounds: int, progress: Callable[[int, int], object] | None = None) -> Run:
        """Measure so many rounds; `progress(done, total)` hears of each."""
        peak = self._warm_up()
        for done in range(rounds):
            if self._packed.path:
                self._measure(("load", 0, "seconds"), self._load)
            for n, model in self._models.items():
                self._round(n, model)
            if progress:
                progress(done + 1, rounds)
        series = [Series("peak memory", 0, "bytes", [peak])] if peak else []
        return Run(machine.facts(), self._described(), [*self._series(), *series])

    def _round(self, n: int, model: Model) -> None:
        lengths, path = self._lengths, self._packed.path
        roofs = self._meter.measure(n, path if self._packed.mapped else None)

        def prompt() -> float:
            done = self._generate(model, lengths.prompt, 1)
            return lengths.prompt / done.timings.prompt_seconds

        def decode() -> float:
            done = self._generate(model, lengths.context, lengths.new)
            return (lengths.new - 1) / done.timings.decode_seconds

        def first() -> float:
            return self._generate(model, lengths.context, 1).timings.prompt_seconds

        name = f"prompt of {lengths.prompt}"
        rate = self._measure((name, n, "tokens/s"), prompt)
        self._share((name, n, "of the roof"), roofs, lengths.prompt, lengths.prompt, rate)
        name = f"decode after {lengths.context}"
        rate = self._measure((name, n, "tokens/s"), decode)
        self._share((name, n, "of the roof"), roofs, 1, 1, rate)
        self._measure((f"first token after {lengths.context}", n, "seconds"), first)

    def _generate(self, model: Model, n_prompt: int, n_new: int) -> Completion:
        """Continue ids that were never seen before. Raises RuntimeError if tokens are missing."""
        ids: list[int] = self._ids.integers(0, self._packed.config.n_vocab, n_prompt).tolist()
        done = model.generate(ids, max_new_tokens=n_new, temperature=0, ignore_eot=True)
        if len(done.tokens) != n_new:
            raise RuntimeError(f"{len(done.tokens)} tokens were written, not {n_new}")
        return done

    def _load(self) -> float:
        assert self._packed.path
        start = time.perf_counter()
        load(self._packed.path).close()
        return time.perf_counter() - start

    def _measure(self, key: Key, call: Callable[[], float]) -> Value:
        """Keep the mean of what `call` finds in SECONDS; again while others use the CPUs."""
        for _ in range(_ATTEMPTS):
            found: list[float] = []
            before = CpuClock.now()
            while not found or time.perf_counter() - before.wall < SECONDS:
                found.append(call())
            clean = (before.foreign(CpuClock.now()) or 0.0) <= FOREIGN_LIMIT
            if clean:
                break
        harmonic = key[2] == "tokens/s"  # the mean of the times
        mean = len(found) / sum(1 / v for v in found) if harmonic else sum(found) / len(found)
        self._found[key].append((mean, clean))
        return mean, clean

    def _share(self, key: Key, roofs: Roofs, n_tokens: int, per_call: int, rate: Value) -> None:
        bound, self._roofs[key] = roofs.bound(model_work(self._packed, n_tokens, 1))
        clean = rate[1] and not roofs.disturbed
        self._found[key].append((bound * rate[0] / per_call, clean))

    def _warm_up(self) -> int:
        """Touch all that is used, and return the memory that this took at its peak.

        Before any roof is measured, which takes a large buffer. 0 if it is not known, or if packing
        the model took more.
        """
        lengths, before = self._lengths, peak_bytes()
        for model in self._models.values():
            self._generate(model, lengths.prompt, 1)
            self._generate(model, lengths.context, lengths.new)
        peak = peak_bytes()
        return peak if peak > before else 0

    def _series(self) -> Iterator[Series]:
        for (name, threads, unit), values in self._found.items():
            clean = [value for value, is_clean in values if is_clean]
            yield Series(
                name,
                threads,
                unit,
                clean or [value for value, _ in values],
                dropped=len(values) - len(clean) if clean else 0,
                disturbed=not clean,
                roof=self._roofs.get((name, threads, unit), ""),
            )

    def _described(self) -> dict[str, Any]:
        packed = self._packed
        memory = next(iter(self._models.values())).memory
        return {
            "name": packed.name,
            "dtype": packed.dtype,
            "fingerprint": packed.fingerprint,
            "parameters": sum(map(math.prod, packed.config.tensor_shapes().values())),
            "weights_bytes": memory.weights,
            "cache_bytes_per_token": memory.cache_per_token,
            "workspace_bytes": memory.workspace,
        }
