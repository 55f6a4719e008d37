"""The thread that loads and writes for the window, without a window."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

import gpt2fast
from gpt2fast import CancelFlag
from gpt2fast.desktop import events
from gpt2fast.desktop.events import Ended, Event, Failed, Loading, Offered, Opened, Scored, Wrote
from gpt2fast.desktop.offers import offers
from gpt2fast.desktop.prompt import Prompt, whole_words
from gpt2fast.desktop.settings import Settings
from gpt2fast.desktop.writer import Writer

GREEDY = Settings("balanced", 0.0, 20)
BEGINNING = "There was once a king who had"

E_ = TypeVar("E_", bound=Event)


class Told:
    """What a writer reports."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.react: Callable[[Event], object] = lambda _: None

    def __call__(self, event: Event) -> None:
        self.queue.put(event)
        self.react(event)

    def until_over(self, job: int) -> list[Event]:
        """The events up to the end of a job."""
        found = []
        while True:
            found.append(self.queue.get(timeout=60))
            if found[-1].job == job and isinstance(found[-1], (Ended, Failed)):
                return found


def of(kind: type[E_], found: list[Event]) -> list[E_]:
    return [event for event in found if isinstance(event, kind)]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def empty(told: Told) -> Iterator[Writer]:
    """A writer without a model."""
    writer = Writer(told, threads=1)
    yield writer
    writer.close()


@pytest.fixture
def writer(empty: Writer, told: Told) -> Writer:
    """A writer with the bundled model."""
    told.until_over(empty.open("tales"))
    return empty


def test_alternatives_are_those_of_the_model(writer: Writer, told: Told) -> None:
    """Catches alternatives that change because they are written a few tokens at a time."""
    found = told.until_over(writer.offer(BEGINNING, GREEDY))
    steps = of(Offered, found)
    assert isinstance(found[-1], Ended) and len(steps) > 2
    assert sum(step.n_tokens for step in steps) == 3 * GREEDY.length
    model = gpt2fast.load(threads=1)
    at_once = model.alternatives(
        BEGINNING, 3, max_new_tokens=GREEDY.length, min_new_tokens=1, **GREEDY.options
    )
    likeliest = sorted(at_once, key=lambda each: -each.probability)
    for offer, whole in zip(steps[-1].offers, likeliest, strict=True):
        assert offer.tokens == whole.tokens
        assert offer.text == whole_words(whole.text)
        assert offer.probability == whole.probability
    lengths = [len(step.offers[0].tokens) for step in steps]
    assert lengths == sorted(set(lengths))


def test_alternatives_differ_when_asked_again(writer: Writer, told: Told) -> None:
    """Catches a fixed seed: Tab once more would show the same."""
    settings = Settings("story", 1.2, 30)
    both = [told.until_over(writer.offer(BEGINNING, settings)) for _ in range(2)]
    first, second = (of(Offered, found)[-1].offers for found in both)
    assert [offer.text for offer in first] != [offer.text for offer in second]


def test_alternatives_that_end() -> None:
    """Catches an alternative of no words, and one that shows the token that ends it."""

    class Ending(Tokens):
        def alternatives(self, *_: object, **options: Any) -> list[SimpleNamespace]:
            assert options["min_new_tokens"] == 1
            return [done([1], "length", p) for p in (0.1, 0.2)]

        def generate(self, prompts: list[list[int]], **_: object) -> list[SimpleNamespace]:
            assert prompts == [[7, 1], [7, 1]][: len(prompts)]
            return [done([2, 0], "stop"), *[done([2] * 6, "length")] * (len(prompts) - 1)]

    def done(tokens: list[int], why: str, probability: float = 0.0) -> SimpleNamespace:
        text = Tokens.tokenizer.decode(tokens)
        return SimpleNamespace(tokens=tokens, text=text, finish_reason=why, probability=probability)

    steps = list(offers(Ending(), Prompt([7], False, 0), 7, None, cancel=CancelFlag()))  # type: ignore[arg-type]
    assert [offer.text for offer in steps[-1]] == [" a b", " a b b b b b"]
    assert [offer.ended for offer in steps[-1]] == [True, False]
    assert [offer.probability for offer in steps[-1]] == [0.2, 0.1]


class Tokens:
    """A model whose tokenizer knows three tokens, the first of which ends a text."""

    tokenizer = SimpleNamespace(
        decode=lambda tokens: "".join(["<end>", " a", " b"][token] for token in tokens)
    )


def test_alternatives_after_a_space(writer: Writer, told: Told) -> None:
    """Catches a word that is joined to the one before, and a space that stands twice."""
    for text in (BEGINNING + " ", "  "):
        for settings in (GREEDY, Settings("story", 2.0, 3)):
            offers = of(Offered, told.until_over(writer.offer(text, settings)))[-1].offers
            assert len(offers) == 3
            assert writer.model is not None
            for offer in offers:
                assert writer.model.tokenizer.token_bytes(offer.tokens[0]).startswith(b" ")
                assert offer.text and not offer.text.startswith(" ")


@pytest.mark.parametrize("text", ["", "\n", "\u00e9 \U0001f600", "a" * 20_000, "the king " * 3000])
def test_any_draft(writer: Writer, told: Told, text: str) -> None:
    """Catches a draft that fails: none, or longer than the context."""
    found = told.until_over(writer.offer(text, GREEDY))
    assert isinstance(found[-1], Ended), found[-1]
    assert len(of(Offered, found)[-1].offers) == 3


@pytest.mark.parametrize("space", ["", " "])
def test_writing_on_fills_the_context(writer: Writer, told: Told, space: str) -> None:
    """Catches text that is lost or doubled between the events, or written otherwise than alone."""
    found = told.until_over(writer.go_on(BEGINNING + space, GREEDY))
    assert isinstance(found[-1], Ended)
    pieces = of(Wrote, found)
    model = gpt2fast.load(threads=1)
    prompt = model.tokenizer.encode(BEGINNING)
    room = model.config.n_ctx - len(prompt)
    whole = model.generate(prompt, max_new_tokens=room, **GREEDY.options)
    text = "".join(piece.text for piece in pieces)
    assert whole.text.startswith(" ")
    assert text == whole.text.removeprefix(space)
    assert sum(piece.n_tokens for piece in pieces) == len(whole.tokens)


def test_stop_at_once(writer: Writer, told: Told) -> None:
    """Catches a stop that is heard late: 480 tokens would come."""
    told.react = lambda event: writer.stop() if isinstance(event, Wrote) else None
    found = told.until_over(writer.go_on(BEGINNING, Settings()))
    assert isinstance(found[-1], Ended)
    assert sum(piece.n_tokens for piece in of(Wrote, found)) < 200
    told.react = lambda event: writer.stop() if isinstance(event, Offered) else None
    found = told.until_over(writer.offer(BEGINNING, Settings(length=200)))
    assert len(of(Offered, found)[-1].offers[0].tokens) < 100


def test_a_new_job_ends_the_one_before(writer: Writer, told: Told) -> None:
    """Catches jobs that queue up while one types, and a job that is forgotten."""
    first = writer.go_on(BEGINNING, Settings())
    others = [writer.offer(BEGINNING, Settings(length=200)) for _ in range(5)]
    last = writer.offer(BEGINNING, GREEDY)
    found = told.until_over(last)
    assert isinstance(found[-1], Ended)
    done = [event.job for event in of(Offered, found) if event.job in others]
    assert len(done) < 10
    assert sum(piece.n_tokens for piece in of(Wrote, found) if piece.job == first) < 400
    assert [len(o.tokens) for o in of(Offered, found)[-1].offers] == [GREEDY.length] * 3


def test_scores(writer: Writer, told: Told) -> None:
    """Catches probabilities that belong to other words: the last ones' are the model's own."""
    text = BEGINNING + " three sons"
    (scored,) = of(Scored, told.until_over(writer.score(text, 7)))
    assert scored.start == 7
    words = [text[span.start : span.end] for span in scored.spans]
    assert "".join(text.split()) == text.split()[0] + "".join(words).replace(" ", "")
    assert writer.model is not None
    (tops,) = writer.model.generate(BEGINNING, max_new_tokens=1, logprobs=1000).logprobs or []
    three = dict(tops.top)[writer.model.tokenizer.encode(" three")[0]]
    at = words.index("three")
    assert scored.spans[at].probability == pytest.approx(math.exp(three), rel=1e-3)


def test_scores_of_long_text(writer: Writer, told: Told) -> None:
    """Catches colours that slip aside where the beginning is out of the model's sight."""
    text = "\U0001f600 caf\u00e9 king " * 600
    for draft in (text, "", " "):
        found = told.until_over(writer.score(draft, 0))
        assert isinstance(found[-1], Ended), found[-1]
        for scored in of(Scored, found):
            units = text.encode("utf-16-le")
            start = scored.start
            cut = [units[2 * (start + s.start) : 2 * (start + s.end)] for s in scored.spans]
            assert {word.decode("utf-16-le") for word in cut[1:]} >= {"king"}


def test_scoring_is_stopped(writer: Writer, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches colours of a large model that keep everything else waiting."""

    def score(_: list[int], cancel: CancelFlag) -> None:
        writer.stop()
        raise CancelledError if cancel.is_set() else AssertionError

    monkeypatch.setattr(writer.model, "score", score)
    found = told.until_over(writer.score(BEGINNING, 0))
    assert [type(event) for event in found] == [Ended]


def test_loading_is_told_and_stopped(
    empty: Writer, told: Told, cached_source: Path, tmp_path: Path
) -> None:
    """Catches a bar that does not move, and a stopped load that leaves half a file or a model."""
    told.react = lambda event: empty.stop() if isinstance(event, Loading) else None
    found = told.until_over(empty.open(str(cached_source)))
    assert isinstance(found[-1], Ended) and not of(Opened, found)
    assert empty.model is None
    assert not list(tmp_path.glob("cache/*.safetensors")) + list(tmp_path.glob("cache/*.tmp"))
    told.react = lambda _: None
    found = told.until_over(empty.open(str(cached_source)))
    (opened,) = of(Opened, found)
    assert (opened.name, empty.model is not None) == ("little", True)
    steps = of(Loading, found)
    assert any("packing" in step.stage for step in steps)
    assert steps[-1].done == steps[-1].total > 0


def test_the_model_stays_when_another_fails(writer: Writer, told: Told, tmp_path: Path) -> None:
    """Catches a window without a model after a bad file, and a reason that is not given."""
    before = writer.model
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no model")
    for source in (str(bad), str(tmp_path / "missing.gguf"), ""):
        failed = told.until_over(writer.open(source))[-1]
        assert isinstance(failed, Failed) and failed.why
    assert writer.model is before
    assert of(Offered, told.until_over(writer.offer(BEGINNING, GREEDY)))


def test_a_model_without_tokenizer(empty: Writer, told: Told, cached_source: Path) -> None:
    """Catches a model that opens, and then fails at every key."""
    for path in cached_source.glob("*"):
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    failed = told.until_over(empty.open(str(cached_source)))[-1]
    assert isinstance(failed, Failed) and "tokenizer" in failed.why
    assert empty.model is None


def test_without_a_model(empty: Writer, told: Told) -> None:
    """Catches a thread that dies of the first error."""
    for _ in range(2):
        failed = told.until_over(empty.offer("text", GREEDY))[-1]
        assert isinstance(failed, Failed) and "no model" in failed.why


def test_an_error_of_any_kind(writer: Writer, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an error that nobody sees."""
    error = MemoryError()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(gpt2fast.Model, "alternatives", fail)
        failed = told.until_over(writer.offer(BEGINNING, GREEDY))[-1]
    assert isinstance(failed, Failed) and failed.why == "MemoryError"
    assert isinstance(told.until_over(writer.offer(BEGINNING, GREEDY))[-1], Ended)


def test_close_while_it_writes(told: Told) -> None:
    """Catches a window that hangs when it is closed, and events that come after."""
    writer = Writer(told, threads=1)
    told.until_over(writer.open("tales"))
    model = writer.model
    writer.go_on(BEGINNING, Settings())
    while not isinstance(told.queue.get(timeout=60), Wrote):
        pass
    begun = time.monotonic()
    writer.close()
    assert time.monotonic() - begun < 1
    while not told.queue.empty():
        assert isinstance(told.queue.get(), events.Wrote)
    assert model is not None
    with pytest.raises(ValueError, match="closed"):
        model.generate("a")
    writer.close()
