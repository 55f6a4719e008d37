"""How long a run will take, so that it can say so before it begins."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.peers.engines import Engine
from benchmarks.peers.measures import MEASURES, Measure
from benchmarks.peers.plan import Case, Plan
from benchmarks.random_checkpoints import parameters
from gpt2fast.bench.roofline import Roofs

# Of the roofs, as most engines reach it: one token after another; prompts and batches, in bytes and
# in floats.
_STEP, _INTEGERS, _FLOATS = 0.5, 0.4, 0.45
_START = 2.0  # seconds from a process to its first request, without the model
_LOAD = 0.5e9  # bytes of weights that are made ready in a second

RoofsOf = Callable[[int, str], Roofs]


def run_seconds(plan: Plan, roofs_of: RoofsOf) -> float:
    """Return what all rounds take on free CPUs; `roofs_of(threads, target)` knows the machine."""
    cases = ((case, engine) for case in plan.cases for engine in plan.engines)
    return plan.rounds * sum(_visit(c, e, roofs_of(c.threads, e.target)) for c, e in cases)


def _visit(case: Case, engine: Engine, roofs: Roofs) -> float:
    bits = engine.bits
    seconds = _START + parameters(case.size) * bits / 8 / _LOAD
    for name in case.measures:
        measure = MEASURES[name]
        new = measure.new(case.size)
        prompt = _prompt(measure, case.size, bits, roofs)
        step = roofs.bound(measure.work(case.size, bits)[0])[0]
        steps = 0.0
        if not measure.counts_prompt:
            steps = (new - 1) * step / (_STEP if measure.prompts == 1 else _together(bits))
        seconds += case.repeats * (prompt + steps)
        if measure.counts_prompt or measure.prompts > 1:  # once to warm up
            seconds += prompt
    return seconds


def _prompt(measure: Measure, size: str, bits: int, roofs: Roofs) -> float:
    reading = Measure("", "", measure.prompts, measure.length, counts_prompt=True)
    return roofs.bound(reading.work(size, bits)[0])[0] / _together(bits)


def _together(bits: int) -> float:
    return _INTEGERS if bits <= 8 else _FLOATS
