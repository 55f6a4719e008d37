"""The thread that loads models and writes, so that the window never waits for either.

One job at a time; a new one stops the one before it, within a token. What happens is told by
events, from this thread, some thirty times a second at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2fast._generate import CancelFlag
from gpt2fast.desktop.events import (
    Ended,
    Failed,
    Loading,
    Offered,
    Opened,
    Report,
    Scored,
    Wrote,
)
from gpt2fast.desktop.offers import SpaceFirst, offers
from gpt2fast.desktop.prompt import Prompt, joined, prompt_of
from gpt2fast.desktop.settings import Settings
from gpt2fast.desktop.spans import spans, utf16_length
from gpt2fast.model import Model, load
from gpt2fast.sampling import LogitsProcessor

SECONDS = 0.03  # between two events of a job


class _StopLoadingError(Exception):
    """Ends the loading of a model from within."""


@dataclass
class _Job:
    number: int
    what: str
    run: Callable[[_Job], None]
    cancel: CancelFlag = field(default_factory=CancelFlag)
    told: float = 0.0  # when the last event was reported

    def is_due(self) -> bool:
        """Tell whether it is time for an event."""
        now = time.monotonic()
        due = now - self.told >= SECONDS
        if due:
            self.told = now
        return due


class Writer:
    """Runs jobs in its own thread. All methods return at once, a job's number where there is one.

    `report` is called from that thread.
    """

    def __init__(self, report: Report, **load_options: Any) -> None:
        """Start the thread; `load_options` go to `gpt2fast.load`."""
        self._report, self._load_options = report, load_options
        self._model: Model | None = None
        self._space_first: SpaceFirst | None = None
        self._condition = threading.Condition()
        self._number = 0
        self._running: _Job | None = None
        self._waiting: _Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="gpt2fast writer", daemon=True)
        self._thread.start()

    @property
    def model(self) -> Model | None:
        """The model in use, None before the first one is loaded."""
        return self._model

    def open(self, source: str) -> int:
        """Load a model; the one before stays in use if that fails or is stopped."""
        return self._submit(f"open {Path(source).name}", lambda job: self._open(job, source))

    def offer(self, text: str, settings: Settings) -> int:
        """Write alternatives after a text."""
        return self._submit("write", lambda job: self._offer(job, text, settings))

    def go_on(self, text: str, settings: Settings) -> int:
        """Write after a text until it is stopped, or the context is full."""
        return self._submit("write", lambda job: self._go_on(job, text, settings))

    def score(self, text: str, start: int) -> int:
        """Find how probable each word of a text is, which begins at `start` of the draft."""
        return self._submit("colour the text", lambda job: self._score(job, text, start))

    def stop(self) -> None:
        """End the job that runs, and the one that waits."""
        with self._condition:
            self._stop()

    def close(self) -> None:
        """Stop, and let go of the model; report nothing more. Waits for the job to end."""
        with self._condition:
            self._closed = True
            self._stop()
            self._condition.notify()
        self._thread.join()
        if self._model is not None:
            self._model.close()

    def _stop(self) -> None:
        self._waiting = None
        if self._running is not None:
            self._running.cancel.set()

    def _submit(self, what: str, run: Callable[[_Job], None]) -> int:
        with self._condition:
            self._stop()
            self._number += 1
            self._waiting = _Job(self._number, what, run)
            self._condition.notify()
            return self._number

    def _work(self) -> None:
        while True:
            with self._condition:
                self._running = None
                self._condition.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                job, self._waiting = self._waiting, None
                self._running = job
            assert job is not None
            try:
                job.run(job)
                event: Ended | Failed = Ended(job.number)
            except (_StopLoadingError, CancelledError):
                event = Ended(job.number)
            except Exception as error:  # whatever it is, the window lives on and shows it
                event = Failed(job.number, job.what, _reason(error))
            self._tell(event)

    def _tell(self, event: Any) -> None:
        if not self._closed:
            self._report(event)

    def _ready(self) -> Model:
        if self._model is None:
            raise ValueError("there is no model yet: open one")
        return self._model

    def _open(self, job: _Job, source: str) -> None:
        model = load(source, progress=_Progress(job, self._tell), **self._load_options)
        try:
            tokenizer, n_vocab = model.tokenizer, model.config.n_vocab
            if job.cancel.is_set():
                raise _StopLoadingError
            space_first = SpaceFirst(tokenizer, n_vocab)
        except BaseException:
            model.close()
            raise
        before, self._model, self._space_first = self._model, model, space_first
        if before is not None:
            before.close()
        config = model.config
        facts = (
            f"{config.n_layer} layers, {config.n_embd} wide, context {config.n_ctx}, "
            f"{model.dtype}, {model.memory.weights / 1e6:,.0f} MB, {model.threads} threads"
        )
        self._tell(Opened(job.number, source, Path(source).name, facts))

    def _prompt(self, model: Model, text: str, room: int) -> Prompt:
        tokenizer = model.tokenizer
        prompt = prompt_of(text, tokenizer.encode, model.config.n_ctx, room)
        if prompt.tokens:
            return prompt
        if tokenizer.eot is None:
            raise ValueError("this model cannot begin a text: write some words first")
        return Prompt([tokenizer.eot], after_space=prompt.after_space, n_dropped=0)

    def _first(self, prompt: Prompt) -> LogitsProcessor | None:
        """Return what rules out the tokens that may not come first."""
        if not prompt.after_space or self._space_first is None:
            return None
        return self._space_first.after(len(prompt.tokens))

    def _offer(self, job: _Job, text: str, settings: Settings) -> None:
        model = self._ready()
        room = settings.room(model.config.n_ctx)
        prompt = self._prompt(model, text, room)
        options = settings.options | {"cancel": job.cancel}
        n_tokens = 0
        for grown in offers(model, prompt, room, self._first(prompt), **options):
            n_before, n_tokens = n_tokens, sum(len(offer.tokens) for offer in grown)
            self._tell(Offered(job.number, grown, n_tokens - n_before))

    def _go_on(self, job: _Job, text: str, settings: Settings) -> None:
        model = self._ready()
        n_ctx = model.config.n_ctx
        prompt = self._prompt(model, text, max(1, n_ctx // 2))
        options: dict[str, Any] = settings.options | {"cancel": job.cancel}
        first = self._first(prompt)
        if first is not None:  # for one token: a processor slows all that it is asked for
            begun = model.generate(
                prompt.tokens, max_new_tokens=1, min_new_tokens=1, logits_processor=first, **options
            )
            options["forced_tokens"] = begun.tokens
        room = n_ctx - len(prompt.tokens)
        stream = model.stream(prompt.tokens, max_new_tokens=room, **options)
        piece, n_tokens, shown = "", 0, False
        for chunk in stream:
            piece, n_tokens = piece + chunk.text, n_tokens + (chunk.token is not None)
            if piece and (job.is_due() or chunk.finish_reason):
                new = piece if shown else joined(piece, prompt.after_space)
                self._tell(Wrote(job.number, new, n_tokens))
                piece, n_tokens, shown = "", 0, True

    def _score(self, job: _Job, text: str, start: int) -> None:
        model = self._ready()
        tokenizer = model.tokenizer
        prompt = prompt_of(text, tokenizer.encode, model.config.n_ctx, 0)
        if not prompt.tokens:
            return
        score = model.score(prompt.tokens, cancel=job.cancel)
        read = "".join(score.pieces)
        start += utf16_length(text[: len(text) - prompt.after_space - len(read)])
        found = spans(zip(score.pieces, score.logprobs.tolist(), strict=True))
        self._tell(Scored(job.number, start, found))


class _Progress:
    """Tells how far loading is, and ends it when its job was stopped."""

    def __init__(self, job: _Job, tell: Callable[[Any], None]) -> None:
        self._job, self._tell, self._stage = job, tell, "loading"

    def stage(self, what: str) -> None:
        """Begin another stage."""
        self._stage = what
        self(0, 0)

    def __call__(self, done: int, total: int) -> None:
        if self._job.cancel.is_set():
            raise _StopLoadingError
        if self._job.is_due() or done == total:
            self._tell(Loading(self._job.number, self._stage, done, total))


def _reason(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
