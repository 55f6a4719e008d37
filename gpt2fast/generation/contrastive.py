"""Contrastive search: likely tokens that do not say again what the text has said.

After Su, Lan, Wang, Yogatama, Kong and Collier: A contrastive framework for neural text generation
(2022). A step reads each of the `top_k` likeliest tokens as the next one, in one forward pass, and
takes the best by

    (1 - penalty_alpha) * probability - penalty_alpha * similarity

where similarity is the greatest cosine between its last hidden state and any before it. The pass
has then read the token that was taken, so a step is one pass of `top_k` tokens.
"""

from __future__ import annotations

import numpy as np

from gpt2fast._generate import Workspace, contrast, normalise_rows
from gpt2fast.generation.branch import Branch
from gpt2fast.generation.plan import Plan
from gpt2fast.generation.search import NO_CHOICE, Search, Span, with_caches


class ContrastiveSearch(Search):
    """The contrastive search that continues one prompt."""

    def __init__(self, plan: Plan, prompt: list[int]) -> None:
        """Check that the text fits; allocate nothing yet. Raises ValueError."""
        super().__init__(plan, prompt)
        self.width = min(plan.options.top_k, plan.engine.config.n_vocab)

    def start(self) -> None:
        """Allocate."""
        config = self.plan.engine.config
        self._text = self.root()
        self._candidates: list[Branch] = []
        self._logprobs = np.empty(0, np.float32)  # of what each candidate added
        self._logits = np.empty((self.width, config.n_vocab), np.float32)
        self._hidden = np.empty((self.width, config.n_embd), np.float32)
        # The states of the text, divided by their norms.
        self._context = np.empty((self._text.n_prompt + self._room, config.n_embd), np.float32)

    def spans(self) -> list[Span]:
        """Return what the next step reads: the prompt, or each candidate."""
        if not self._candidates:
            text = self._text
            return [Span(text.cache, text.pending, self._logits[0], self._context)]
        return [
            Span(one.cache, one.pending, self._logits[i], self._hidden[i : i + 1])
            for i, one in enumerate(self._candidates)
        ]

    def advance(self, workspace: Workspace) -> None:
        """Take a candidate, if there are any yet, and name the next ones."""
        chosen = 0
        if self._candidates:
            chosen = self._take()
        else:
            normalise_rows(self._context[: len(self._text.tokens)])
        if self._text.finish_reason is not None:
            self.is_over = True
            return
        row, text = self._logits[chosen], self._text
        found = self.continuations(text, row, self.width, workspace, of_logprobs=False)
        if not found:
            raise ValueError(NO_CHOICE)
        self._logprobs = np.array([logprob for _, logprob in found], np.float32)
        self._candidates = with_caches(
            [text.then(token, 0.0, row, workspace) for token, _ in found]
        )

    def _take(self) -> int:
        """Go on with the best candidate, and return which it is."""
        n, hidden = len(self._text.tokens), self._hidden[: len(self._candidates)]
        alpha = self.plan.options.penalty_alpha
        scores = contrast(hidden, self._logprobs, self._context, n, alpha)
        best = scores.index(max(scores))  # between equal ones the likelier
        self._text, self._context[n] = self._candidates[best], hidden[best]
        return best

    def results(self) -> list[Branch]:
        """Return the text as far as it came."""
        return [self._text]
