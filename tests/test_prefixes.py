"""Scoring many texts together: what they share is read once, and changes no bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from test_score import same

import gpt2fast
from gpt2fast import scoring
from gpt2fast.model import Model
from gpt2fast.prefixes import LEAST, Node, tree
from gpt2fast.scoring import Request


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with gpt2fast.load("tales", threads=2) as loaded:
        yield loaded


class Draws:
    """Token ids at random, the same ones in each test."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(7)

    def __call__(self, n: int) -> list[int]:
        return [int(token) for token in self.rng.integers(0, 4000, n)]


def nodes(root: Node) -> Iterator[Node]:
    yield root
    for child in root.children:
        yield from nodes(child)


def mixture() -> list[tuple[list[int], list[int]]]:
    """Contexts and texts: equal ones, one within another, almost equal ones, and none."""
    some = Draws()
    shots, question, other = some(150), some(40), some(30)
    contexts = [shots + question] * 4 + [shots + other, shots, shots + question + other]
    contexts += [[*shots[:149], 1], [], [], other, [*other, 9], other[:1], other[:LEAST]]
    texts = [some(n) for n in (1, 1, 5, 70, 3, 8, 2, 4, 20, 1, 6, 6, 6, 130)]
    pairs = list(zip(contexts, texts, strict=True))
    pairs.append((shots + question, texts[2]))  # one of them once more
    return [pairs[i] for i in some.rng.permutation(len(pairs))]


def test_batch_equals_each_alone(model: Model) -> None:
    """Catches rows that go to another text, and a cache that holds another's tokens."""
    pairs = mixture()
    together = scoring.score_requests(model._engine, [Request(*pair) for pair in pairs])
    for (context, tokens), rows in zip(pairs, together, strict=True):
        alone = model.score(tokens, context=context or "")
        first = 0 if context else 1
        assert rows["logprob"].tobytes() == alone.logprobs[first:].tobytes()
        assert rows["entropy"].tobytes() == alone.entropies[first:].tobytes()
        assert rows["rank"].tolist() == alone.ranks[first:].tolist()


def test_lists_of_texts(model: Model) -> None:
    """Catches a list whose scores are in another order, or a context that is given to another."""
    texts, contexts = ["Once upon a time", " x", "The end."], ["", "The king said", "He"]
    for context in ("He", contexts):
        scores = model.score(texts, context=context)
        each = contexts if isinstance(context, list) else ["He"] * 3
        for score, text, before in zip(scores, texts, each, strict=True):
            assert same(score, model.score(text, context=before))
    ids = model.score([[1, 2, 3], [4]], bos=True)
    assert [score.tokens for score in ids] == [[1, 2, 3], [4]]


def test_shared_beginnings_are_read_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches beginnings that are read for each text, or again for the next batch."""
    some = Draws()
    read: list[int] = []
    begin, score = scoring._Reader._forward, scoring._Reader._score

    def counted_begin(self: Any, caches: Any, tokens: list[list[int]]) -> None:
        read.extend(map(len, tokens))
        begin(self, caches, tokens)

    def counted_score(self: Any, caches: Any, tokens: list[list[int]], targets: Any) -> Any:
        read.extend(map(len, tokens))
        return score(self, caches, tokens, targets)

    monkeypatch.setattr(scoring._Reader, "_forward", counted_begin)
    monkeypatch.setattr(scoring._Reader, "_score", counted_score)
    shots = some(300)
    questions = [some(60) for _ in range(10)]
    pairs = [(shots + question, some(5)) for question in questions for _ in range(4)]
    scoring.score_requests(model._engine, [Request(*pair) for pair in pairs])
    # The last token of a context is read with each text, whose last one is not read.
    assert sum(read) == 299 + 1 + 10 * 59 + len(pairs) * 5


def test_tree() -> None:
    """Catches nodes that are not beginnings of their texts, not shared, or too short."""
    prefixes = sorted(context[:-1] for context, _ in mixture())
    root = tree(prefixes, range(len(prefixes)))
    assert sorted(itertools.chain(*(node.texts for node in nodes(root)))) == [*range(len(prefixes))]
    found = list(nodes(root))
    assert len(found) >= 4
    for node in found[1:]:
        assert node.parent is not None and node.length >= node.parent.length + LEAST
        below = list(itertools.chain(*(other.texts for other in nodes(node))))
        assert len(below) >= 2
        assert len({tuple(prefixes[i][: node.length]) for i in below}) == 1


def test_short_beginnings_are_not_shared() -> None:
    """Catches a cache that is copied for less than reading its tokens again costs."""
    for n, length in ((LEAST - 1, 0), (LEAST, LEAST)):
        prefixes = [[*range(n), 1000, *range(50)], [*range(n), 2000, *range(50)]]
        root = tree(prefixes, [0, 1])
        assert (root.length, root.texts, root.children) == (length, [0, 1], [])
    assert tree([[*range(100)]], [0]).length == 0  # alone, with its text in one piece


def test_contexts_that_grow_by_a_token(model: Model) -> None:
    """Catches recursion as deep as the context is long."""
    tokens = Draws()(90)
    requests = [Request(tokens[:i], [tokens[i]]) for i in range(1, len(tokens))]
    rows = np.concatenate(scoring.score_requests(model._engine, requests))
    assert rows["logprob"].tobytes() == model.score(tokens).logprobs[1:].tobytes()
    prefixes = [list(range(i)) for i in range(1200)]
    assert len(list(nodes(tree(prefixes, range(1200))))) > 50
