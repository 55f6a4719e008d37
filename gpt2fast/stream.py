"""A text as it is written: an iterator over its chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpt2fast._generate import Workspace
from gpt2fast.completion import Chunk, Completion, FinishReason, Timings
from gpt2fast.exclusive import Exclusive
from gpt2fast.generation import Writing, advance
from gpt2fast.tokenizer import StreamDecoder

SECONDS = 0.02  # what was drawn in this time is taken at once, or one token if that is slower


class Stream(Iterator[Chunk]):
    """Iterate over the chunks of a text as it is written.

    Work is done only while the iterator is asked for a chunk: one that is abandoned costs nothing
    more. `completion` is the whole once it has ended. For one thread at a time: a call while
    another one runs raises RuntimeError and changes nothing.
    """

    def __init__(
        self,
        writing: Writing,
        on_token: Callable[[int], object] | None = None,
        on_end: Callable[[], object] | None = None,
    ) -> None:
        """Start; `on_token` is told every id that is handed out, `on_end` that no more will be."""
        self._writing = writing
        self._on_token, self._on_end = on_token, on_end
        self._alone = Exclusive("the stream is in use by another thread or signal handler")
        engine = writing.plan.engine
        self._core = engine.core  # until it ends, whoever closes the model
        self._workspace = Workspace(engine.config.n_vocab)
        self._sequence = writing.start(self._core)
        self._deadline = writing.plan.deadline()
        self._decoder = StreamDecoder()
        self._n_tokens = 0  # handed out
        self._data = b""  # their bytes
        self._shown = 0  # how many of these were handed out
        self._texts: list[str] = []
        self._reason: FinishReason | None = None
        self._completion: Completion | None = None
        self._error: Exception | None = None
        self._closed = False

    def __next__(self) -> Chunk:
        with self._alone.held():
            if self._closed:
                raise StopIteration
            try:
                if self._n_tokens == self._drawn and self._sequence.finish_reason is None:
                    self._go_on()
                chunk = self._chunk()
            except BaseException:
                self._end()
                raise
            self._texts.append(chunk.text)
            self._reason = chunk.finish_reason
            if self._reason is not None:
                self._end()
            return chunk

    @property
    def _drawn(self) -> int:
        return self._sequence.n_tokens - len(self._writing.prompt)

    @property
    def ready(self) -> bool:
        """Whether the next chunk needs no computing."""
        return self._closed or self._n_tokens < self._drawn or bool(self._sequence.finish_reason)

    def _go_on(self) -> None:
        """Draw one token at least; what then fails is raised when that was handed out."""
        if self._error is not None:
            raise self._error
        try:
            self._run()
        except Exception as error:
            if self._n_tokens == self._drawn:
                raise
            self._error = error

    def _run(self) -> None:
        seconds = SECONDS if self._n_tokens else 0.0
        plan, sequences = self._writing.plan, [self._sequence]
        advance(plan, self._core, sequences, self._workspace, seconds, self._deadline)

    def _chunk(self) -> Chunk:
        """Return the next token drawn, or the end that came from outside."""
        writing = self._writing
        token = logprob = top = None
        if self._n_tokens < self._drawn:
            token = writing.new_token(self._n_tokens)
            found = writing.logprob(self._n_tokens)
            if found is not None:
                logprob, top = found.logprob, found.top
            self._n_tokens += 1
            self._data += writing.bytes_of(token)
            if self._on_token is not None:
                self._on_token(token)
        ended_by_token = self._n_tokens == self._drawn and not writing.ended_from_outside
        at_end = token is None or ended_by_token
        reason = self._sequence.finish_reason if at_end else None
        visible = len(self._data)
        if token is not None:
            visible = writing.visible(self._n_tokens, visible)
        text = self._decoder.push(self._data[self._shown : visible])
        self._shown = visible
        if reason is not None:
            text += self._decoder.finish()
        return Chunk(text, token, logprob, reason, top)

    @property
    def completion(self) -> Completion:
        """What was handed out, as a whole; "cancelled" if it was closed before its end.

        Raises ValueError while the stream goes on.
        """
        if self._completion is None:
            raise ValueError("the stream has not ended")
        return self._completion

    def close(self) -> None:
        """Stop here; a session keeps the tokens that were handed out.

        Raises RuntimeError while another thread asks for a chunk: a `CancelFlag` ends that.
        """
        with self._alone.held():
            self._end()

    def _end(self) -> None:
        if self._closed:
            return
        self._closed = True
        writing = self._writing
        try:
            self._completion = Completion(
                "".join(self._texts),
                writing.drawn[: self._n_tokens],
                self._reason or "cancelled",
                writing.prompt,
                writing.plan.seed,
                Timings(*self._sequence.seconds),
                writing.logprobs(self._n_tokens),
            )
            writing.release()
            del self._core
        finally:
            if self._on_end is not None:
                self._on_end()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()
