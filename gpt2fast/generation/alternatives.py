"""Several continuations of one prompt, each beginning with another token, to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast._generate import Workspace, adjusted, filtered, likeliest, random
from gpt2fast.completion import Completion
from gpt2fast.engine import Engine
from gpt2fast.generation import SharedPrompt, Writing, advance, complete
from gpt2fast.generation.plan import Plan
from gpt2fast.generation.rules import Processing
from gpt2fast.ranges import integer, out_of_range
from gpt2fast.sampling import MAX_SAMPLES, Options


@dataclass(frozen=True)
class Alternative(Completion):
    """One of several continuations of a prompt.

    `probability` is that of its first token, by which it differs from the others: the model's own,
    at temperature 1 and before any option, so those of all alternatives sum up to 1 at most.
    `logprobs` are there in any case: of `logprob` in each, the sum is the natural logarithm of the
    probability of the whole continuation.
    """

    probability: float = field(kw_only=True)


def alternatives(engine: Engine, prompt: list[int], k: int, options: Options) -> list[Alternative]:
    """Return k continuations, fewer if the rules leave fewer tokens to begin with.

    The prompt is processed once, and all are written together. The first is the text that `options`
    and their seed give alone; the first tokens of the others are drawn from the same distribution
    without those taken before (bits of sample i at their position, as for the samples of `n`), and
    when the filters keep no more, they are the likeliest of the rest. Each then goes on as sample i
    does. What was ended from outside before its first token is left out. Raises ValueError for k
    out of range, and for `n` and `forced_tokens`.
    """
    integer("k", k, 1, min(MAX_SAMPLES, engine.config.n_vocab))
    options.check_single("there are k alternatives")
    if options.forced_tokens:
        allowed = "none, as alternatives begin with different tokens"
        raise out_of_range("forced_tokens", options.forced_tokens, allowed)
    if options.logprobs is None:
        options = replace(options, logprobs=0)
    plan, shared = Plan(engine, options), SharedPrompt(k)
    deadline, core = plan.deadline(), engine.core
    writings = [Writing(plan, prompt, shared=shared)]
    sequence = writings[0].start(core)
    advance(plan, core, [sequence], Workspace(engine.config.n_vocab), 0.0, deadline)
    if not writings[0].drawn:
        return []
    writings[0].share()
    if shared.logits is not None:
        row = _row(plan, prompt, shared.logits)
        for token in _others(plan, row, len(prompt), writings[0].new_token(0), k):
            branch = replace(options, seed=plan.seed, forced_tokens=(token,))
            i = len(writings)
            writings.append(Writing(Plan(engine, branch), prompt, sample=i, shared=shared))
    done = complete(plan, writings, core=core, deadline=deadline)
    return [_alternative(completion) for completion in done if completion.tokens]


def _row(plan: Plan, prompt: list[int], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits after the prompt as rules and processors leave them."""
    if plan.rules is None:
        return logits
    tokens, stops = np.array(prompt, np.int32), np.array(sorted(plan.stop_tokens), np.int32)
    row = np.array(adjusted(logits, plan.rules, tokens, 0, stops), np.float32)
    if plan.processors:
        Processing(plan.processors, tokens)(len(prompt), row.data)
    return row


def _others(
    plan: Plan, row: NDArray[np.float32], position: int, first: int, k: int
) -> Iterator[int]:
    """Yield k - 1 tokens, fewer if there are not so many, that are neither each other nor first."""
    taken = {first}
    kept = filtered(row, **plan.filters())
    kept.pop(first, None)
    tokens, masses = list(kept), np.array(list(kept.values()), np.int64)
    while len(taken) < min(k, 1 + len(tokens)):
        sums = masses.cumsum()
        share = random(plan.seed, len(taken), position) * int(sums[-1]) >> 64
        drawn = int(sums.searchsorted(share, "right"))
        masses[drawn] = 0
        taken.add(tokens[drawn])
        yield tokens[drawn]
    for token in likeliest(row, k):
        if token not in taken and len(taken) < k and row[token] > -np.inf:
            taken.add(token)
            yield token


def _alternative(completion: Completion) -> Alternative:
    assert completion.logprobs is not None
    logprob = np.array([completion.logprobs[0].logprob], np.float32)
    found = {item.name: getattr(completion, item.name) for item in fields(completion)}
    return Alternative(**found, probability=float(_core.exp(logprob)[0]))
