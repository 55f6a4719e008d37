"""Scoring: how likely texts are. Many are processed together, what they begin with alike once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core
from gpt2fast._generate import CancelFlag
from gpt2fast.engine import Engine
from gpt2fast.prefixes import Node, common_length, tree
from gpt2fast.ranges import cancel_flag, flag, integer
from gpt2fast.scoring.score import UNKNOWN, Score, exponential, pieces_of, texts_of

if TYPE_CHECKING:
    from gpt2fast.tokenizer import Tokenizer

Text = str | Sequence[int] | NDArray[np.integer]
Progress = Callable[[int, int], object]
Rows = NDArray[np.void]  # of ROW, one for each token that is scored

ROW = np.dtype(
    [("logprob", np.float32), ("entropy", np.float32), ("rank", np.int32), ("likeliest", np.int32)]
)
STRIDE = 512
_PAGE = 64  # positions that a cache grows by


class Request(NamedTuple):
    """Token ids to score after others, which are not scored themselves.

    Without context the first token is not scored either. At most n_ctx + 1 ids together: the last
    one is not read.
    """

    context: list[int]
    tokens: list[int]

    @property
    def read(self) -> list[int]:
        """The ids that the model reads."""
        return [*self.context, *self.tokens][:-1]

    @property
    def targets(self) -> list[int]:
        """The ids that it predicts, after the last so many of those it reads."""
        return self.tokens if self.context else self.tokens[1:]


def score(
    engine: Engine,
    texts: Sequence[Text],
    contexts: Sequence[Text | None],
    bos: bool,
    cancel: CancelFlag | None = None,
) -> list[Score]:
    """Return the score of each text after its context. Raises as `Model.score` does."""
    start = _start(engine, bos)
    requests = []
    for text, context in zip(texts, contexts, strict=True):
        tokens = _ids(engine, text)
        if not tokens:
            raise ValueError('the text to score is ""; it must have a token at least')
        before = [] if context is None else _ids(engine, context)
        requests.append(Request(start + before, tokens))
    tokenizer = engine.tokenizer if engine.has_tokenizer else None  # the model may be closed later
    rows = score_requests(engine, requests, cancel=cancel)
    return [_score(tokenizer, *pair) for pair in zip(requests, rows, strict=True)]


def _start(engine: Engine, bos: object) -> list[int]:
    """Return what stands before everything."""
    if not flag("bos", bos):
        return []
    if engine.eot is None:
        raise ValueError("bos is True, but the model has no <|endoftext|> to start from")
    return [engine.eot]


def _ids(engine: Engine, text: Text) -> list[int]:
    return [] if isinstance(text, str) and not text else engine.ids(text)


def _score(tokenizer: Tokenizer | None, request: Request, rows: Rows) -> Score:
    missing = len(request.tokens) - len(rows)  # the first token without context, or none

    def column(name: str, unknown: float) -> NDArray[Any]:
        return np.concatenate([np.full(missing, unknown, ROW[name]), rows[name]])

    likeliest = column("likeliest", UNKNOWN)
    return Score(
        tokens=request.tokens,
        logprobs=column("logprob", np.nan),
        ranks=column("rank", UNKNOWN),
        entropies=column("entropy", np.nan),
        likeliest=likeliest,
        pieces=pieces_of(request.tokens, tokenizer) if tokenizer else [],
        likeliest_pieces=texts_of(likeliest.tolist(), tokenizer) if tokenizer else [],
    )


def score_requests(
    engine: Engine,
    requests: Sequence[Request],
    progress: Progress | None = None,
    core: _core.Model | None = None,
    cancel: CancelFlag | None = None,
) -> list[Rows]:
    """Return the rows of each request, in order: one of ROW for each of its `targets`.

    The same bits as each request alone. What contexts begin with alike is processed once, so many
    requests at a time are faster than one after the other; `progress(done, total)` counts them.
    `core` is the engine's, of a caller who goes on after `close`. Raises ValueError for a request
    without tokens or longer than n_ctx + 1, before any work, and CancelledError if `cancel` is set.
    """
    cancel_flag("cancel", cancel)
    for request in requests:
        _check_length(request, engine.config.n_ctx)
    found: list[Rows] = [np.empty(0, ROW)] * len(requests)
    # What may be shared: all that is read before the first row that is wanted.
    prefixes = [request.context[:-1] for request in requests]
    reader, done = _Reader(engine, core or engine.core, cancel), 0
    for batch in _batches(prefixes, requests, 2 * engine.config.n_ctx):
        for i, rows in zip(batch, reader.read(prefixes, requests, batch), strict=True):
            found[i] = rows
        done += len(batch)
        if progress is not None:
            progress(done, len(requests))
    return found


def _check_length(request: Request, n_ctx: int) -> None:
    n_before, n = len(request.context), len(request.tokens)
    if n == 0:
        raise ValueError("a request has no tokens to score")
    if n_before + n > n_ctx + 1:
        where = f" after {n_before}" if n_before else ""
        raise ValueError(
            f"{n} tokens to score{where}, but at most {n_ctx + 1} together can be scored at once, "
            f"one more than the context has; perplexity() takes longer texts"
        )


def _batches(
    prefixes: list[list[int]], requests: Sequence[Request], room: int
) -> Iterator[list[int]]:
    """Yield indices of requests, similar beginnings together, whose caches take about so much room.

    `room` is in tokens; each request takes a page at least. Equal beginnings stay together unless
    they take twice the room.
    """
    order = sorted(range(len(requests)), key=prefixes.__getitem__)
    batch: list[int] = []
    taken = 0
    for i in order:
        n = len(requests[i].context) + len(requests[i].tokens)
        last = prefixes[batch[-1]] if batch else []
        new = _pages(n - common_length(last, prefixes[i]))
        if batch and taken + new > (2 * room if last == prefixes[i] else room):
            yield batch
            batch, taken, new = [], 0, _pages(n)
        batch.append(i)
        taken += new
    if batch:
        yield batch


def _pages(n: int) -> int:
    return -(-n // _PAGE) * _PAGE


class _Reader:
    """Reads batches of requests, and remembers what the last one began with."""

    def __init__(self, engine: Engine, core: _core.Model, cancel: CancelFlag | None) -> None:
        self._engine, self._core, self._cancel = engine, core, cancel
        self._cache = engine.new_cache(core=core)
        self._known: list[int] = []  # what the cache holds

    def read(
        self, prefixes: list[list[int]], requests: Sequence[Request], batch: list[int]
    ) -> list[Rows]:
        """Return the rows of the requests with these indices."""
        root = tree(prefixes, batch)
        root.cache = self._beginning(prefixes[batch[0]][: root.length])
        level = [root]
        owners: dict[int, Node] = {}
        while level:
            owners |= {i: node for node in level for i in node.texts}
            level = [child for node in level for child in node.children]
            self._grow(level, prefixes)
        wanted = [i for i in batch if requests[i].targets]
        caches = [self._fork(owners[i]) for i in wanted]
        texts = [requests[i].read[owners[i].length :] for i in wanted]
        targets = [requests[i].targets for i in wanted]
        rows = self._score(caches, texts, targets)
        found = dict(zip(wanted, rows, strict=True))
        return [found.get(i, np.empty(0, ROW)) for i in batch]

    def _beginning(self, tokens: list[int]) -> _core.Cache:
        """Return a cache of these tokens, made of the one from the last batch."""
        same = common_length(self._known, tokens)
        self._cache.truncate(same)
        if tokens[same:]:
            self._forward([self._cache], [tokens[same:]])
        self._known = tokens
        return self._cache

    def _grow(self, nodes: list[Node], prefixes: list[list[int]]) -> None:
        """Process what nodes have more than their parents, all together."""
        if not nodes:
            return
        new = []
        for node in nodes:
            assert node.parent is not None
            node.cache = self._fork(node.parent)
            new.append(prefixes[node.example][node.parent.length : node.length])
        self._forward([node.cache for node in nodes if node.cache is not None], new)

    def _fork(self, node: Node) -> _core.Cache:
        assert node.cache is not None
        return self._engine.watched(node.cache.fork())

    def _forward(self, caches: list[_core.Cache], tokens: list[list[int]]) -> None:
        self._core.forward(caches, _arrays(tokens), [0] * len(caches), **self._control())

    def _score(
        self, caches: list[_core.Cache], tokens: list[list[int]], targets: list[list[int]]
    ) -> list[Rows]:
        """Append tokens to caches; targets[i] follow the last of tokens[i], one each."""
        if not caches:
            return []
        return self._core.score(caches, _arrays(tokens), _arrays(targets), **self._control())

    def _control(self) -> dict[str, Any]:
        return {
            "threads": self._engine.threads,
            "prompt_threads": self._engine.prompt_threads,
            "chunk": self._engine.chunk,
            "cancel": None if self._cancel is None else self._cancel.capsule(),
        }


def _arrays(ids: list[list[int]]) -> list[NDArray[np.int32]]:
    return [np.array(some, np.int32) for some in ids]


def perplexity(
    engine: Engine,
    text: Text,
    *,
    stride: object = None,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
) -> float:
    """Return the perplexity of a text of any length. Raises as `Model.perplexity` does."""
    n_ctx = engine.config.n_ctx
    step = min(STRIDE, n_ctx) if stride is None else integer("stride", stride, 2, n_ctx)
    tokens = _ids(engine, text)
    if len(tokens) < 2:
        raise ValueError(f"perplexity takes two tokens at least; the text has {len(tokens)}")
    core, loss, weight, done = engine.core, 0.0, 0, 0
    for window in windows(tokens, n_ctx, step):
        [rows] = score_requests(engine, [window], core=core, cancel=cancel)
        # The page weighs a window's mean by one less than its new tokens, though in all windows
        # but the first it is the mean over all of them.
        share = len(window.tokens) - 1
        if share:
            loss -= share * float(rows["logprob"].mean(dtype=np.float64))
            weight += share
        done += len(window.tokens)
        if progress is not None:
            progress(done, len(tokens))
    return exponential(loss / weight) if weight else math.nan


def windows(tokens: list[int], n_ctx: int, stride: int) -> Iterator[Request]:
    """Yield windows of n_ctx tokens, `stride` apart, of which each scores what is new in it."""
    scored = 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + n_ctx, len(tokens))
        yield Request(tokens[begin:scored], tokens[scored:end])
        scored = end
        if end == len(tokens):
            return
