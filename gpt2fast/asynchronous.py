"""Generation for asyncio: the calls run in the event loop's default executor.

`loop.set_default_executor` decides how many texts are written at once; further ones wait for a
thread. A stream takes one only while it computes: one whose reader is slow costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from gpt2fast._generate import CancelFlag
from gpt2fast.completion import Chunk, Completion
from gpt2fast.sampling import GenerateOptions
from gpt2fast.stream import Stream

T = TypeVar("T")


async def in_thread(call: Callable[[], T], cancel: CancelFlag) -> T:
    """Return what the call returns; it ends early when the flag is set.

    If the task is cancelled, the flag is set, and CancelledError raised when the call has ended: at
    once if no thread was free to begin it.
    """
    import asyncio  # there already if a loop runs; others need not wait for it

    begun = threading.Lock()  # taken by the thread that makes the call, or by whom prevents it

    def once() -> T | None:
        return call() if begun.acquire(blocking=False) else None

    future = asyncio.get_running_loop().run_in_executor(None, copy_context().run, once)
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        cancel.set()
        if begun.acquire(blocking=False):
            future.cancel()
        while not future.done():
            with suppress(asyncio.CancelledError):  # the first one is raised when it has ended
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # or asyncio would complain that nobody asked
        raise
    return future.result()  # type: ignore[return-value]


def with_flag(options: GenerateOptions) -> tuple[GenerateOptions, CancelFlag]:
    """Return the options with a flag of their own, which is set with the one that they had."""
    given: object = options.get("cancel")
    flag = given._follower() if isinstance(given, CancelFlag) else CancelFlag()
    if given is None or isinstance(given, CancelFlag):  # anything else will be refused
        options = options | {"cancel": flag}
    return options, flag


class AsyncStream(AsyncIterator[Chunk]):
    """Iterate with `async for` over the chunks of a text as it is written.

    As `Stream`, but the computing is done in a thread. If the task that waits for a chunk is
    cancelled, the stream ends: `completion` is what was written. For one task at a time.
    """

    def __init__(self, stream: Stream, cancel: CancelFlag) -> None:
        """Use `Model.astream` or `Session.astream`."""
        self._stream, self._cancel = stream, cancel

    async def __anext__(self) -> Chunk:
        stream = self._stream
        if stream.ready:  # no need of a thread
            chunk = next(stream, None)
        else:
            from asyncio import CancelledError

            try:
                chunk = await in_thread(lambda: next(stream, None), self._cancel)
            except CancelledError:
                stream.close()
                raise
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    @property
    def completion(self) -> Completion:
        """What was handed out, as a whole; see `Stream.completion`."""
        return self._stream.completion

    async def aclose(self) -> None:
        """Stop here; a session keeps the tokens that were handed out.

        Raises RuntimeError while another task waits for a chunk: cancel that.
        """
        self._stream.close()


class AsyncModel:
    """What a `Model` has for asyncio."""

    @overload
    async def agenerate(
        self,
        prompt: str | Sequence[int] | NDArray[np.integer],
        *,
        n: None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...
    @overload
    async def agenerate(
        self,
        prompt: str | Sequence[int] | NDArray[np.integer],
        *,
        n: int,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompt: list[str] | list[list[int]],
        *,
        n: None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]: ...
    @overload
    async def agenerate(
        self,
        prompt: list[str] | list[list[int]],
        *,
        n: int,
        **options: Unpack[GenerateOptions],
    ) -> list[list[Completion]]: ...
    async def agenerate(
        self, prompt: Any, *, n: int | None = None, **options: Unpack[GenerateOptions]
    ) -> Any:
        """Continue a prompt without blocking the event loop: `generate`, in a thread.

        Cancelling the task ends the text within one token; CancelledError is raised when it has
        ended.
        """
        model: Any = self
        own, flag = with_flag(options)
        return await in_thread(lambda: model.generate(prompt, n=n, **own), flag)

    def astream(
        self,
        prompt: str | Sequence[int] | NDArray[np.integer],
        **options: Unpack[GenerateOptions],
    ) -> AsyncStream:
        """Continue a prompt and iterate with `async for` over its chunks as they are written.

        Options as in `generate`, checked at once. See `AsyncStream`.
        """
        model: Any = self
        own, flag = with_flag(options)
        return AsyncStream(model.stream(prompt, **own), flag)


class AsyncSession:
    """What a `Session` has for asyncio."""

    async def agenerate(self, **options: Unpack[GenerateOptions]) -> Completion:
        """Continue the text without blocking the event loop: `generate`, in a thread.

        Cancelling the task ends the text within one token; CancelledError is raised when it has
        ended, and the session holds what was written.
        """
        session: Any = self
        own, flag = with_flag(options)
        completion: Completion = await in_thread(lambda: session.generate(**own), flag)
        return completion

    def astream(self, **options: Unpack[GenerateOptions]) -> AsyncStream:
        """Continue the text and iterate with `async for` over what is added, chunk by chunk."""
        session: Any = self
        own, flag = with_flag(options)
        return AsyncStream(session.stream(**own), flag)
