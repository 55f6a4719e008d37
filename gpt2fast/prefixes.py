"""Which beginnings several texts share, so that each is processed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from gpt2fast import _core

LEAST = 16  # tokens: a shorter beginning costs less to process again than to copy its cache's page


@dataclass(eq=False)
class Node:
    """A beginning that several texts have in common, or, at the root, that all have."""

    length: int  # in tokens
    parent: Node | None
    texts: list[int] = field(default_factory=list)  # those that go on from here alone
    children: list[Node] = field(default_factory=list)
    cache: _core.Cache | None = None

    @property
    def example(self) -> int:
        """One of the texts that begin so."""
        node = self
        while not node.texts:
            node = node.children[0]
        return node.texts[0]


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])


def _token_at(prefixes: Sequence[list[int]], place: int) -> Callable[[int], list[int]]:
    """Return what gives the token at a place of a text's beginning, or none after its end."""
    return lambda text: prefixes[text][place : place + 1]


def tree(prefixes: Sequence[list[int]], texts: Sequence[int]) -> Node:
    """Return the tree of the beginnings that these texts share, each by two texts at least.

    `texts` are indices of `prefixes`, in the order of what they point to. No node is less than
    LEAST tokens longer than its parent, or than nothing.
    """
    length = common_length(prefixes[texts[0]], prefixes[texts[-1]])
    if length < LEAST or len(texts) == 1:
        length = 0
    root = Node(length, None)
    todo = [(root, list(texts), length)]
    while todo:
        node, members, length = todo.pop()
        for following, run in groupby(members, _token_at(prefixes, length)):
            alike = list(run)
            if not following or len(alike) == 1:
                node.texts += alike
                continue
            longer = common_length(prefixes[alike[0]], prefixes[alike[-1]])
            child = node
            if longer - node.length >= LEAST:
                child = Node(longer, node)
                node.children.append(child)
            todo.append((child, alike, longer))
    return root
