"""`agenerate` and `astream`: the same texts, and what cancelling a task leaves behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest

import gpt2fast

LONG: Any = {"max_new_tokens": 500, "ignore_eot": True, "seed": 1}
SHORT: Any = {"max_new_tokens": 12, "seed": 1}
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


async def cancelled_after(seconds: float, call: Coroutine[Any, Any, object]) -> float:
    """Cancel a call after so many seconds and return how many more it took."""
    task = asyncio.create_task(call)
    await asyncio.sleep(seconds)
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - started


def test_the_same_texts(model: gpt2fast.Model) -> None:
    """Catches an option, a prompt or a result that gets lost on the way to the thread."""

    async def texts() -> list[object]:
        stream = model.astream(PROMPT, **SHORT)
        chunks = [chunk async for chunk in stream]
        assert "".join(map(str, chunks)) == stream.completion.text
        assert [chunk async for chunk in stream] == []
        session = model.session()
        session.append(PROMPT)
        more = await session.agenerate(**SHORT)
        async for chunk in session.astream(**SHORT):
            assert chunk.token == session.tokens[-1]
        return [
            await model.agenerate(PROMPT, **SHORT),
            await model.agenerate([PROMPT, "The"], **SHORT),
            await model.agenerate(PROMPT, n=2, **SHORT),
            stream.completion,
            more,
            session.tokens[-12:],
        ]

    session = model.session()
    session.append(PROMPT)
    one = session.generate(**SHORT)
    assert asyncio.run(texts()) == [
        model.generate(PROMPT, **SHORT),
        model.generate([PROMPT, "The"], **SHORT),
        model.generate(PROMPT, n=2, **SHORT),
        one,
        one,
        session.generate(**SHORT).tokens,
    ]


def test_many_at_once_in_several_loops(model: gpt2fast.Model) -> None:
    """Catches state that belongs to one loop, and a loop that stands still meanwhile."""
    prompts = [[5 + i] for i in range(20)]
    expected = [model.generate(prompt, **SHORT) for prompt in prompts]

    async def read(prompt: list[int]) -> gpt2fast.Completion:
        stream = model.astream(prompt, **SHORT)
        async for _ in stream:
            await asyncio.sleep(0)
        return stream.completion

    async def gather() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        assert expected == await asyncio.gather(*(model.agenerate(p, **SHORT) for p in prompts))
        assert expected == await asyncio.gather(*map(read, prompts))
        assert ticks > 5
        ticking.cancel()

    asyncio.run(gather())
    threads = [threading.Thread(target=asyncio.run, args=(gather(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_cancelled_while_writing(model: gpt2fast.Model) -> None:
    """Catches a text that goes on after its task was cancelled, and a session left unusable."""

    async def cancel() -> None:
        session = model.session()
        session.append(PROMPT)
        n = len(session.tokens)
        assert await cancelled_after(0.01, session.agenerate(**LONG)) < 0.5
        assert n < len(session.tokens) < n + 500
        written = model.generate(PROMPT, **LONG).tokens
        assert session.tokens[n:] == written[: len(session.tokens) - n]
        fresh = model.session()
        fresh.append(session.tokens)
        assert await session.agenerate(**SHORT) == await fresh.agenerate(**SHORT)

    asyncio.run(cancel())


def test_cancelled_while_streaming(model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a stream that keeps its session after the task that reads it was cancelled."""
    monkeypatch.setattr("gpt2fast.stream.SECONDS", 60.0)  # one call would write all of the text

    async def cancel() -> None:
        session = model.session()
        session.append(PROMPT)
        stream = session.astream(**LONG)
        await anext(stream)
        assert await cancelled_after(0.01, anext(stream)) < 0.5
        assert stream.completion.finish_reason == "cancelled"
        assert session.tokens[-len(stream.completion.tokens) :] == stream.completion.tokens
        assert [chunk async for chunk in stream] == []
        assert len((await session.agenerate(**SHORT)).tokens) == 12

    asyncio.run(cancel())


def test_cancelled_before_it_begins(model: gpt2fast.Model) -> None:
    """Catches a cancelled task that waits for a thread, and one that writes all the same."""

    async def cancel() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        busy = threading.Event()
        waiting = asyncio.create_task(asyncio.to_thread(busy.wait, 60))
        session = model.session()
        session.append(PROMPT)
        n = len(session.tokens)
        assert await cancelled_after(0.01, session.agenerate(**SHORT)) < 0.5
        busy.set()
        await waiting
        await asyncio.to_thread(lambda: None)
        assert len(session.tokens) == n

    asyncio.run(cancel())


def test_cancelled_twice(model: gpt2fast.Model) -> None:
    """Catches a second cancel that lets the task go while its thread still uses the session."""

    async def cancel() -> None:
        session, begun, go_on = model.session(), threading.Event(), threading.Event()
        session.append(PROMPT)

        def hold(*_: object) -> None:
            begun.set()
            go_on.wait(60)

        task = asyncio.create_task(session.agenerate(logits_processor=hold, **LONG))
        await asyncio.to_thread(begun.wait, 60)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len((await session.agenerate(**SHORT)).tokens) == 12

    asyncio.run(cancel())


def test_a_flag_of_ones_own(model: gpt2fast.Model) -> None:
    """Catches a cancel= that no longer ends the text, or that cancelling one task sets for all."""

    async def cancel() -> None:
        flag = gpt2fast.CancelFlag()
        options = LONG | {"cancel": flag}
        assert await cancelled_after(0.01, model.agenerate(PROMPT, **options)) < 0.5
        assert not flag.is_set()
        stream = model.astream(PROMPT, **options)
        await anext(stream)
        task = asyncio.create_task(model.agenerate(PROMPT, **options))
        await asyncio.sleep(0.01)
        flag.set()
        assert (await task).finish_reason == "cancelled"
        assert [chunk async for chunk in stream][-1].finish_reason == "cancelled"
        assert (await model.agenerate(PROMPT, **options)).tokens == []

    asyncio.run(cancel())


def test_flags_that_follow() -> None:
    """Catches a follower that is not told, that tells its leader, or is kept for ever."""
    leader = gpt2fast.CancelFlag()
    first, second = leader._follower(), leader._follower()
    second.set()
    assert not leader.is_set() and not first.is_set()
    leader.set()
    assert first.is_set() and leader._follower().is_set()
    del first
    [followers] = [kept for kept in gc.get_referents(leader) if isinstance(kept, list)]
    assert [reference() for reference in followers] == [second]


def test_stopped_reading(model: gpt2fast.Model) -> None:
    """Catches a stream that writes on, or keeps a thread, while nobody asks for a chunk."""

    async def read() -> None:
        async with aclosing(model.astream(PROMPT, **LONG)) as stream:
            await anext(stream)
            n = stream._stream._sequence.n_tokens
            await asyncio.sleep(0.05)
            assert stream._stream._sequence.n_tokens == n
        assert stream.completion.finish_reason == "cancelled"
        assert [chunk async for chunk in stream] == []

    asyncio.run(read())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": -1}, "top_k is -1"),
        ({"cancel": "now"}, "cancel is 'now'; allowed: a gpt2fast.CancelFlag"),
        ({"max_new_tokens": 513}, "the context has 512"),
    ],
)
def test_bad_options(model: gpt2fast.Model, options: Any, message: str) -> None:
    """Catches an option that is refused in another way than by `generate`."""
    with pytest.raises(ValueError, match=message):
        asyncio.run(model.agenerate(PROMPT, **options))
    with pytest.raises(ValueError, match=message):
        model.astream(PROMPT, **options)


def test_errors_and_context(model: gpt2fast.Model) -> None:
    """Catches an error of a processor that is lost, and context variables that do not reach it."""
    variable = contextvars.ContextVar("variable", default="unset")

    def processor(*_: object) -> None:
        raise KeyError(variable.get())

    async def fail() -> None:
        variable.set("set")
        with pytest.raises(KeyError, match="set"):
            await model.agenerate(PROMPT, logits_processor=processor)
        with pytest.raises(KeyError, match="set"):
            await anext(model.astream(PROMPT, logits_processor=processor))
        go_on = threading.Event()

        def hold(*_: object) -> None:
            go_on.wait(60)

        stream = model.astream(PROMPT, logits_processor=hold, **LONG)
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.05)
        with pytest.raises(RuntimeError, match="the stream is in use"):
            await anext(stream)
        go_on.set()
        assert (await waiting).token is not None
        await stream.aclose()
        closed = gpt2fast.load(threads=1)
        closed.close()
        with pytest.raises(ValueError, match="the model is closed"):
            await closed.agenerate(PROMPT)
        with pytest.raises(ValueError, match="the model is closed"):
            closed.astream(PROMPT)

    asyncio.run(fail())


INTERRUPTED = """
import asyncio, os, signal, threading, time, gpt2fast
model = gpt2fast.load(threads=1)
def interrupt():
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
async def main():
    threading.Thread(target=interrupt).start()
    while True:
        await model.agenerate("Once", max_new_tokens=500, ignore_eot=True)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", "asyncio" in gpt2fast.asynchronous.__dict__)
"""


def test_ctrl_c() -> None:
    """Catches Ctrl-C that asyncio.run does not get through, or that hangs at the end."""
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("interrupted False\n", "")
