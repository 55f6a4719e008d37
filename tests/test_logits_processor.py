"""Python's logits processors: what they get, what they may do, and what their errors leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpt2fast

PROMPT = [5, 6, 7]
Logits = NDArray[np.float32]
Tokens = NDArray[np.int32]


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=2) as loaded:
        yield loaded


def only(token: int) -> Callable[[Tokens, Logits], None]:
    def processor(_: Tokens, logits: Logits) -> None:
        kept = logits[token]
        logits[:] = -np.inf
        logits[token] = kept

    return processor


def test_they_get_the_text_and_its_logits(model: gpt2fast.Model) -> None:
    """Catches stale logits, other tokens, and arrays that change after the call."""
    seen: list[tuple[Tokens, Logits]] = []

    def look(tokens: Tokens, logits: Logits) -> None:
        seen.append((tokens, logits))

    done = model.generate(PROMPT, logits_processor=look, seed=1, max_new_tokens=9)
    assert done == model.generate(PROMPT, seed=1, max_new_tokens=9)
    for i, (tokens, logits) in enumerate(seen):
        assert str(tokens.dtype) == "int32" and str(logits.dtype) == "float32"
        assert tokens.tolist() == PROMPT + done.tokens[:i]
        assert np.array_equal(logits, model.logits(tokens, last_only=True))
    assert len(seen) == 9


def test_they_decide_in_place_or_by_what_they_return(model: gpt2fast.Model) -> None:
    """Catches a result that is dropped, an order that is not kept, and rules that come after."""
    options: dict[str, Any] = {"max_new_tokens": 4, "ignore_eot": True}
    rest = np.arange(4096) != 9
    minus_infinity = np.float32(-np.inf)
    for processor in (only(9), lambda _, logits: np.where(rest, minus_infinity, logits)):
        assert model.generate(PROMPT, logits_processor=processor, **options).tokens == [9] * 4
    several = [lambda _, logits: logits * 0, only(8)]
    assert model.generate(PROMPT, logits_processor=several, **options).tokens == [8] * 4
    got: list[float] = []
    model.generate(
        PROMPT,
        logits_processor=lambda _, logits: got.append(float(logits[33])),
        bad_tokens=[33],
        max_new_tokens=1,
    )
    assert got == [-np.inf]


def test_each_text_of_a_batch_is_its_own(model: gpt2fast.Model) -> None:
    """Catches tokens or logits of a neighbour; streams and sessions must agree too."""

    def shift(tokens: Tokens, logits: Logits) -> Logits:
        return np.roll(logits, int(tokens.sum()) % 50)

    options: dict[str, Any] = {"logits_processor": shift, "seed": 3, "max_new_tokens": 12}
    prompts = [[5], [6, 7], [8, 9, 10]]
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert model.generate(prompts, **options) == alone
    assert [chunk.token for chunk in model.stream([5], **options)] == alone[0].tokens
    session = model.session()
    session.append([6, 7])
    assert session.generate(**options) == alone[1]


def set_to(value: float) -> Callable[[Tokens, Logits], None]:
    def processor(_: Tokens, logits: Logits) -> None:
        logits[17] = value

    return processor


BAD: dict[str, tuple[Callable[[Tokens, Logits], object], str]] = {
    "nan": (set_to(np.nan), "made the logit of token 17 nan; allowed: finite"),
    "infinity": (set_to(np.inf), "made the logit of token 17 inf; allowed: finite"),
    "float64": (lambda _, x: x.astype(np.float64), r"returned float64 of shape \(4096,\); allowed"),
    "shape": (lambda _, x: x[:-1], r"returned float32 of shape \(4095,\); allowed"),
    "two dimensions": (lambda _, x: x[None], r"returned float32 of shape \(1, 4096\)"),
    "list": (lambda _, x: x.tolist(), "returned list; allowed: None, or a float32 array"),
    "number": (lambda _, __: 5, "returned int; allowed"),
    "nothing left": (lambda _, x: np.full_like(x, -np.inf), "rule out every token"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_logits_are_refused(model: gpt2fast.Model, name: str) -> None:
    """Catches a text drawn from what is no distribution."""
    processor: Any = BAD[name][0]
    for call in (model.generate, lambda ids, **o: next(model.stream(ids, **o))):
        with pytest.raises(ValueError, match=BAD[name][1]):
            call(PROMPT, logits_processor=processor)
    assert model.generate(PROMPT, max_new_tokens=2).tokens


class Broken(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("error", [KeyError("mine"), Broken()], ids=repr)
def test_what_they_raise_comes_out(model: gpt2fast.Model, error: BaseException) -> None:
    """Catches an error that is lost or replaced, and a model, stream or session spoilt by it."""

    def fail(tokens: Tokens, _: Logits) -> None:
        if tokens.size == len(PROMPT) + 3:
            raise error

    options: dict[str, Any] = {"logits_processor": fail, "seed": 2, "max_new_tokens": 10}
    expected = model.generate(PROMPT, seed=2, max_new_tokens=10)
    with pytest.raises(type(error)) as caught:
        model.generate([[5], PROMPT], **options)
    assert caught.value is error
    session = model.session()
    session.append(PROMPT)
    with pytest.raises(type(error)):
        session.generate(**options)
    assert session.tokens == PROMPT + expected.tokens[:3]
    assert np.array_equal(session.logits, model.logits(session.tokens, last_only=True))
    stream = model.stream(PROMPT, **options)
    got: list[int | None] = []
    with pytest.raises(type(error)) as caught:
        got.extend(chunk.token for chunk in stream)
    assert caught.value is error
    assert next(stream, None) is None
    assert stream.completion.tokens == got == expected.tokens[: len(got)]
    assert len(got) == 3 or not isinstance(error, Exception)
    assert model.generate(PROMPT, seed=2, max_new_tokens=10) == expected


def test_they_may_use_the_model(model: gpt2fast.Model) -> None:
    """Catches a lock or buffer that the callback meets in use; its own session refuses instead."""
    inner = model.generate(PROMPT, seed=1, max_new_tokens=3)

    def nested(_: Tokens, __: Logits) -> None:
        assert model.generate(PROMPT, seed=1, max_new_tokens=3) == inner

    outer = model.generate(PROMPT, seed=9, max_new_tokens=5, logits_processor=nested)
    assert outer == model.generate(PROMPT, seed=9, max_new_tokens=5)
    session = model.session()
    session.append(PROMPT)
    with pytest.raises(RuntimeError, match="session is in use"):
        session.generate(logits_processor=lambda _, __: session.truncate(1))
    assert session.tokens == PROMPT


def test_a_flag_set_by_one_ends_the_text(model: gpt2fast.Model) -> None:
    """Catches a cancel that is not seen within one token of a slow callback."""
    flag = gpt2fast.CancelFlag()

    def cancel(tokens: Tokens, _: Logits) -> None:
        if tokens.size == len(PROMPT) + 4:
            flag.set()

    done = model.generate(PROMPT, logits_processor=cancel, cancel=flag, max_new_tokens=50)
    assert done.finish_reason == "cancelled"
    assert len(done.tokens) == 5


def test_stop_iteration(model: gpt2fast.Model) -> None:
    """Catches a stream that ends as if it were over, and a task that waits for ever."""

    def fails(*_: object) -> None:
        raise StopIteration

    options: dict[str, Any] = {"logits_processor": fails, "max_new_tokens": 3}
    with pytest.raises(RuntimeError, match="logits_processor raised StopIteration"):
        next(model.stream(PROMPT, **options))

    async def wait() -> None:
        await asyncio.wait_for(model.agenerate(PROMPT, **options), 20)

    with pytest.raises(RuntimeError, match="logits_processor raised StopIteration"):
        asyncio.run(wait())
