"""Sessions: a text whose keys and values stay in memory between calls."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from gpt2fast._generate import window_start
from gpt2fast.asynchronous import AsyncSession
from gpt2fast.checkpoints.session_file import State, read_session, write_session
from gpt2fast.completion import Completion
from gpt2fast.config import CheckpointError
from gpt2fast.engine import Engine
from gpt2fast.exclusive import Exclusive
from gpt2fast.generation import Writing, complete
from gpt2fast.generation.plan import Plan, window_stride
from gpt2fast.ranges import integer
from gpt2fast.sampling import GenerateOptions, Options
from gpt2fast.stream import Stream

UNKNOWN = -1  # where the cache begins, while a text that may outgrow the context is written
_BUSY = "the session is in use: another call runs, or a stream is open; finish or close that first"


class Session(AsyncSession):
    """A text that grows: what was read once is not read again.

    For one thread at a time: a call while another one runs, or while a stream of the session is
    open, raises RuntimeError and changes nothing.

    >>> import gpt2fast
    >>> session = gpt2fast.load().session()
    >>> session.append("Once upon a time")
    >>> story = session.generate(max_new_tokens=20)
    """

    def __init__(self, engine: Engine, overflow: str = "error", stride: int | None = None) -> None:
        """Use `Model.session`."""
        options = Options(overflow=overflow, stride=stride)
        self._stride = window_stride(options, engine.config.n_ctx)
        self._overflow: dict[str, Any] = {"overflow": overflow, "stride": options.stride}
        self._engine = engine
        self._cache = engine.new_cache(0)
        self._start = 0  # the first of the tokens that the cache holds
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

        Raises ValueError if there is no room for them in the context, unless the session may
        outgrow it.
        """
        with self._alone():
            new = self._engine.ids(text)
            n, n_ctx = len(self._tokens) + len(new), self._engine.config.n_ctx
            if n > n_ctx and not self._stride:
                raise ValueError(
                    f"the session has {len(self._tokens)} tokens and {len(new)} are to be added: "
                    f"together {n}, but the context has {n_ctx}"
                )
            self._tokens += new

    @property
    def logits(self) -> NDArray[np.float32]:
        """The logits after the last token, shape (n_vocab,).

        Raises ValueError if there is no token, or more than the context has and the session may not
        outgrow it.
        """
        with self._alone():
            self._check_begun()
            self._place()
            pending = self._tokens[self._start + self._cache.length :]
            if pending:
                self._read(pending)
            return self._logits.copy()

    def _read(self, pending: list[int]) -> None:
        """Process the tokens that the cache does not hold."""
        engine = self._engine
        engine.recent.make_room(min(len(self._tokens), engine.config.n_ctx))
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

    def _place(self) -> None:
        """Let the cache begin where the text is kept from."""
        n, n_ctx = len(self._tokens), self._engine.config.n_ctx
        if n > n_ctx and not self._stride:
            raise ValueError(
                f"the session has {n} tokens, but the context has {n_ctx}; allowed: to truncate "
                'it, or a session with overflow "truncate" or "stride"'
            )
        start = window_start(n, n_ctx, self._stride)
        if start != self._start:
            self._cache.truncate(0)
            self._start = start

    def generate(self, **options: Unpack[GenerateOptions]) -> Completion:
        """Continue the text and return what was added.

        Options as in `Model.generate`; `overflow` and `stride` are the session's unless given.
        """
        chosen = self._options(options)
        with self._alone():
            writing = self._begin(chosen)
            try:
                return complete(writing.plan, [writing])[0]
            finally:
                self._tokens += writing.drawn
                self._start = writing.start_of_cache

    def stream(self, **options: Unpack[GenerateOptions]) -> Stream:
        """Continue the text and iterate over what is added, chunk by chunk.

        When the stream ends or is closed, the session holds the tokens that were handed out.
        """
        chosen = self._options(options)
        alone = ExitStack()  # the stream's, once there is one
        with ExitStack() as call:
            call.enter_context(self._alone())
            writing = self._begin(chosen)
            end = partial(self._end_stream, writing, alone)
            stream = Stream(writing, self._tokens.append, end)
            alone.push(call.pop_all())
            return stream

    def truncate(self, n_tokens: int) -> None:
        """Keep the first n_tokens. Raises ValueError if there are not so many."""
        with self._alone():
            n_tokens = integer("n_tokens", n_tokens, 0, len(self._tokens))
            if n_tokens < len(self._tokens):
                self._drop_logits(n_tokens)
                del self._tokens[n_tokens:]

    def fork(self) -> Session:
        """Return an independent session with the same text; what was processed is shared."""
        other = Session.__new__(Session)
        with self._alone():
            other._engine, other._stride = self._engine, self._stride
            other._overflow, other._start = self._overflow, self._start
            other._cache = self._engine.watched(self._cache.fork())
            other._tokens, other._logits = list(self._tokens), self._logits.copy()
        other._busy = Exclusive(_BUSY)
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, for `Model.restore`; a file of that name is replaced.

        The text in it can be read by whoever can read the file. Raises OSError if it cannot be
        written, ValueError for a text of more than 16,777,216 tokens; what was there is then left
        as it was.
        """
        with self._alone():
            state = State(self._tokens, self._start, **self._overflow)
            write_session(Path(path), self._engine.kind, state, self._cache)

    @classmethod
    def restored(cls, engine: Engine, path: str | os.PathLike[str]) -> Session:
        """Use `Model.restore`."""
        cache = engine.new_cache(0)
        state = read_session(Path(path), engine.kind, cache)
        try:
            session = cls(engine, state.overflow, state.stride)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        session._cache, session._start, session._tokens = cache, state.start, state.tokens
        if state.tokens:
            session._drop_logits(len(state.tokens))
        return session

    def _begin(self, options: Options) -> Writing:
        self._check_begun()
        options.check_single("a session goes on with one text: fork it")
        plan = Plan(self._engine, options)
        prompt, cache, logits, start = self._tokens.copy(), self._cache, self._logits, self._start
        writing = Writing(plan, prompt, cache=cache, logits=logits, start=start)
        if plan.stride or start:
            self._start = UNKNOWN
        return writing

    def _options(self, options: GenerateOptions) -> Options:
        chosen: dict[str, Any] = {**options}
        mine = chosen.get("overflow", self._overflow["overflow"]) == self._overflow["overflow"]
        return Options(**(self._overflow | chosen if mine else chosen))

    def _end_stream(self, writing: Writing, alone: ExitStack) -> None:
        """Forget what the stream drew but did not hand out, and let other calls in."""
        with alone:
            self._start = writing.start_of_cache
            if self._start + self._cache.length >= len(self._tokens):
                self._drop_logits(len(self._tokens))

    def _drop_logits(self, n_tokens: int) -> None:
        """Shorten the cache to less than n_tokens: the last is processed again when needed."""
        self._cache.truncate(min(self._cache.length, max(n_tokens - 1 - self._start, 0)))
        if not self._cache.length:
            self._start = 0  # it may have begun after all tokens that are left

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other calls out for the block. Raises RuntimeError if one is in already."""
        with self._busy.held():
            self._settle()
            yield

    def _settle(self) -> None:
        """Check that the model is open; forget what an interrupted call left in the cache."""
        _ = self._engine.core
        if self._start == UNKNOWN:
            self._cache.truncate(0)
            self._start = 0
        if self._start + self._cache.length > len(self._tokens):
            self._drop_logits(len(self._tokens))

    def _check_begun(self) -> None:
        if not self._tokens:
            raise ValueError("the session has no token yet: append text or ids first")
