"""Searches: texts that are chosen among others, which are written together for a while."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast._generate import Matching, Workspace, continuations, forward, now
from gpt2fast.completion import Completion, FinishReason, Timings
from gpt2fast.generation import TOGETHER, room_for
from gpt2fast.generation.branch import Branch
from gpt2fast.generation.plan import Plan

NO_CHOICE = "the options rule out every token that could come next"


class Span(NamedTuple):
    """What a text takes from the next forward pass."""

    cache: _core.Cache
    tokens: NDArray[np.int32]
    logits: NDArray[np.float32]  # of the last token
    hidden: NDArray[np.float32] | None = None  # of every token, after the final LayerNorm


class Search(ABC):
    """What continues one prompt, step by step; several share their steps."""

    width: int  # the most texts it considers at a time
    is_over = False

    def __init__(self, plan: Plan, prompt: list[int]) -> None:
        """Check that the texts fit; allocate nothing yet. Raises ValueError."""
        self.plan, self._prompt = plan, prompt
        self._room = room_for(len(prompt), plan)
        self._core = plan.engine.core
        self._stop_tokens = np.array(sorted(plan.stop_tokens), np.int32)

    @abstractmethod
    def start(self) -> None:
        """Allocate."""

    @abstractmethod
    def spans(self) -> list[Span]:
        """Return what the next step reads."""

    @abstractmethod
    def advance(self, workspace: Workspace) -> None:
        """Go on after the forward pass, perhaps to the end."""

    @abstractmethod
    def results(self) -> list[Branch]:
        """Return the texts in order, the best first, as far as they came."""

    def root(self) -> Branch:
        """Return the prompt as a text to be continued."""
        plan = self.plan
        return Branch(
            plan,
            np.array(self._prompt, np.int32),
            len(self._prompt),
            self._room,
            plan.engine.new_cache(core=self._core),
            matching=None if plan.stops is None else Matching(plan.stops),
        )

    def continuations(
        self,
        branch: Branch,
        logits: NDArray[np.float32],
        k: int,
        workspace: Workspace,
        *,
        of_logprobs: bool,
    ) -> list[tuple[int, float]]:
        """Return the best tokens to follow a text, with their log-probabilities under the rules."""
        return continuations(
            logits,
            k,
            workspace,
            branch.tokens,
            branch.n_new,
            stop_tokens=self._stop_tokens,
            rules=self.plan.rules,
            processor=self.plan.processing(branch.tokens),
            of_logprobs=of_logprobs,
        )


def with_caches(branches: list[Branch]) -> list[Branch]:
    """Give each text a cache of its own: the first of those that share one keeps it."""
    taken: set[int] = set()
    found = []
    for branch in branches:
        first = id(branch.cache) not in taken
        taken.add(id(branch.cache))
        found.append(branch if first else replace(branch, cache=branch.fork()))
    return found


class _Running(NamedTuple):
    search: Search
    started: float
    times: list[float]  # at the end of each step


def complete(plan: Plan, searches: list[Search]) -> list[list[Completion]]:
    """Take all searches to their end, many of them together, and return their texts in order."""
    engine, options = plan.engine, plan.options
    deadline = plan.deadline()
    core, workspace = engine.core, Workspace(engine.config.n_vocab)
    waiting = deque(enumerate(searches))
    active: dict[int, _Running] = {}
    done: dict[int, list[Completion]] = {}
    while waiting or active:
        while waiting and (not active or (len(active) + 1) * waiting[0][1].width <= TOGETHER):
            i, search = waiting.popleft()
            active[i] = _Running(search, now(), [])
            search.start()
        spans = [span for running in active.values() for span in running.search.spans()]
        reason = forward(
            core,
            [span.cache for span in spans],
            [span.tokens for span in spans],
            [span.logits for span in spans],
            [span.hidden for span in spans],
            threads=engine.threads,
            prompt_threads=engine.prompt_threads,
            chunk=engine.chunk,
            cancel=options.cancel,
            deadline=deadline,
        )
        for i, running in list(active.items()):
            if reason is None:
                running.search.advance(workspace)
                running.times.append(now())
            if reason is not None or running.search.is_over:
                done[i] = _completions(running, reason or "length")
                del active[i]
    return [done[i] for i in range(len(searches))]


def _completions(running: _Running, reason: FinishReason) -> list[Completion]:
    times = running.times or [now()]
    timings = Timings(times[0] - running.started, times[-1] - times[0])
    return [branch.completion(reason, timings) for branch in running.search.results()]
