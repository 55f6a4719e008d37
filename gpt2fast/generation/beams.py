"""Beam search: the likeliest texts of several tokens, not the likeliest tokens one by one.

As transformers has it. A step adds each token to each of the `num_beams` texts that go on; their
scores are sums of log-probabilities, as the rules of the options leave them. Of the best of all
these, `num_beams` that have not ended go on; what has ended and is among the best `num_beams` is a
result, to be judged by its score over length^length_penalty. The search is over when there are
`num_beams` results that the best text going on, judged as it is, is not above.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpt2fast._generate import Workspace
from gpt2fast.generation.branch import Branch
from gpt2fast.generation.plan import Plan
from gpt2fast.generation.search import NO_CHOICE, Search, Span, with_caches


class BeamSearch(Search):
    """The beam search that continues one prompt."""

    def __init__(self, plan: Plan, prompt: list[int]) -> None:
        """Check that the texts fit; allocate nothing yet. Raises ValueError."""
        super().__init__(plan, prompt)
        self.width = plan.options.num_beams
        # A text has at most one continuation for each stop token, so enough are left to go on.
        self._considered = max(2, 1 + len(plan.stop_tokens)) * self.width
        self._running: list[Branch] = []
        self._ended: list[Branch] = []

    def start(self) -> None:
        """Allocate."""
        self._logits = np.empty((self.width, self.plan.engine.config.n_vocab), np.float32)
        self._running = [self.root()]

    def spans(self) -> list[Span]:
        """Return what the next step reads."""
        return [Span(beam.cache, beam.pending, row) for beam, row in self._rows()]

    def advance(self, workspace: Workspace) -> None:
        """Go on by one token. Raises ValueError if the options rule out all."""
        found = []
        for i, (beam, row) in enumerate(self._rows()):
            k = min(self._considered, row.size)
            for token, score in self.continuations(beam, row, k, workspace, of_logprobs=True):
                found.append((-(beam.score + score), i, token))
        if not found and not self._ended:
            raise ValueError(NO_CHOICE)
        found.sort()  # between equal scores the earlier text comes first, then the lower id
        running: list[Branch] = []
        for place, (cost, i, token) in enumerate(found[: self._considered]):
            beam = self._running[i].then(token, -cost, self._logits[i], workspace)
            if beam.finish_reason is None and len(running) < self.width:
                running.append(beam)
            elif beam.finish_reason is not None and place < self.width:
                self._ended.append(beam)
        self._running = with_caches(running)
        self._rank()
        self.is_over = not running or (
            len(self._ended) == self.width
            and running[0].score_per_length <= self._ended[-1].score_per_length
        )

    def results(self) -> list[Branch]:
        """Return the best texts in order: complete ones, or as far as they came."""
        if not self.is_over:
            begun = self._running[0].n_new > 0  # or there is the prompt alone, for all of them
            self._ended += self._running if begun else self._running * self.width
            self._rank()
        return self._ended[: self.plan.options.n or 1]

    def _rows(self) -> Iterator[tuple[Branch, NDArray[np.float32]]]:
        return zip(self._running, self._logits[: len(self._running)], strict=True)

    def _rank(self) -> None:
        self._ended.sort(key=lambda beam: -beam.score_per_length)
        del self._ended[self.width :]
