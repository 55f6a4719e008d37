"""Sessions: a text whose keys and values stay in memory between calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from gpt2fast.completion import Completion
from gpt2fast.engine import Engine
from gpt2fast.exclusive import Exclusive
from gpt2fast.generation import Writing, complete
from gpt2fast.plan import Plan
from gpt2fast.sampling import GenerateOptions, Options
from gpt2fast.stream import Stream

_BUSY = "the session is in use: another call runs, or a stream is open; finish or close that first"


class Session:
    """A text that grows: what was read once is not read again.

    For one thread at a time: a call while another one runs, or while a stream of the session is
    open, raises RuntimeError and changes nothing.

    >>> import gpt2fast
    >>> session = gpt2fast.load().session()
    >>> session.append("Once upon a time")
    >>> story = session.generate(max_new_tokens=20)
    """

    def __init__(self, engine: Engine) -> None:
        """Use `Model.session`."""
        self._engine = engine
        self._cache = engine.new_cache()
        self._tokens: list[int] = []
        # Of the last token, if the cache holds all tokens; otherwise free for use.
        self._logits = np.empty(engine.config.n_vocab, np.float32)
        self._busy = Exclusive(_BUSY)  # held by the call, or the open stream, that may change it

    @property
    def tokens(self) -> list[int]:
        """The token ids of the text."""
        return list(self._tokens)

    def append(self, text: str | Sequence[int] | NDArray[np.integer]) -> None:
        """Add text or token ids at the end; they are processed when logits are needed.

        Raises ValueError if there is no room for them in the context.
        """
        with self._alone():
            new = self._engine.ids(text)
            n, n_ctx = len(self._tokens) + len(new), self._engine.config.n_ctx
            if n > n_ctx:
                raise ValueError(
                    f"the session has {len(self._tokens)} tokens and {len(new)} are to be added: "
                    f"together {n}, but the context has {n_ctx}"
                )
            self._tokens += new

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits after the last token, shape (n_vocab,).

        Raises ValueError if there is no token.
        """
        with self._alone():
            self._check_begun()
            pending = self._tokens[self._cache.length :]
            if pending:
                self._read(pending)
            return self._logits.copy()

    def _read(self, pending: list[int]) -> None:
        """Process the tokens that the cache does not hold."""
        engine = self._engine
        try:
            rows = engine.core.forward(
                [self._cache],
                [np.array(pending, np.int32)],
                [1],
                threads=engine.threads,
                prompt_threads=engine.prompt_threads,
                chunk=engine.chunk,
            )
            self._logits[:] = rows[0][0]
        except BaseException:  # a signal may come when they are in the cache
            self._drop_logits(len(self._tokens))
            raise

    def generate(self, **options: Unpack[GenerateOptions]) -> Completion:
        """Continue the text and return what was added; options as in `Model.generate`."""
        chosen = Options(**options)
        with self._alone():
            writing = self._begin(chosen)
            try:
                return complete(writing.plan, [writing])[0]
            finally:
                self._tokens += writing.drawn

    def stream(self, **options: Unpack[GenerateOptions]) -> Stream:
        """Continue the text and iterate over what is added, chunk by chunk.

        When the stream ends or is closed, the session holds the tokens that were handed out.
        """
        chosen = Options(**options)
        self._busy.acquire()
        try:
            self._settle()
            return Stream(self._begin(chosen), self._tokens.append, self._end_stream)
        except BaseException:
            self._busy.release()
            raise

    def truncate(self, n_tokens: int) -> None:
        """Keep the first n_tokens. Raises ValueError if there are not so many."""
        with self._alone():
            if not 0 <= n_tokens <= len(self._tokens):
                raise ValueError(f"n_tokens is {n_tokens}; allowed: 0 to {len(self._tokens)}")
            if n_tokens < len(self._tokens):
                self._drop_logits(n_tokens)
                del self._tokens[n_tokens:]

    def fork(self) -> Session:
        """Return an independent session with the same text; what was processed is shared."""
        other = Session.__new__(Session)
        with self._alone():
            other._engine = self._engine
            other._cache = self._engine.watched(self._cache.fork())
            other._tokens, other._logits = list(self._tokens), self._logits.copy()
        other._busy = Exclusive(_BUSY)
        return other

    def _begin(self, options: Options) -> Writing:
        self._check_begun()
        options.check_single("a session goes on with one text: fork it")
        plan = Plan(self._engine, options)
        return Writing(plan, list(self._tokens), cache=self._cache, logits=self._logits)

    def _end_stream(self) -> None:
        """Forget what the stream drew but did not hand out."""
        try:
            if self._cache.length >= len(self._tokens):
                self._drop_logits(len(self._tokens))
        finally:
            self._busy.release()

    def _drop_logits(self, n_tokens: int) -> None:
        """Shorten the cache to less than n_tokens: the last is processed again when needed."""
        self._cache.truncate(min(self._cache.length, max(n_tokens - 1, 0)))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other calls out for the block. Raises RuntimeError if one is in already."""
        with self._busy:
            self._settle()
            yield

    def _settle(self) -> None:
        """Check that the model is open; forget what an interrupted call left in the cache."""
        _ = self._engine.core
        if self._cache.length > len(self._tokens):
            self._drop_logits(len(self._tokens))

    def _check_begun(self) -> None:
        if not self._tokens:
            raise ValueError("the session has no token yet: append text or ids first")
