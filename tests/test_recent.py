"""Texts that ended and are kept: prompts that begin like one go on from there, to the same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2fast
from gpt2fast import _core
from gpt2fast._generate import Sequence
from gpt2fast.generation import Writing
from gpt2fast.memory import Limit
from gpt2fast.recent import RecentTexts

PAGE = 64
OPTIONS: dict[str, Any] = {"seed": 3, "max_new_tokens": 8, "ignore_eot": True, "logprobs": 2}


def ids(n: int, seed: int = 0) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(0, 4000, n).tolist()
    return tokens


@pytest.fixture
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def forgetful() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1, prefix_cache=0) as loaded:
        yield loaded


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each text had to process when it began."""
    found: list[int] = []
    start = Writing.start

    def watched(writing: Writing, core: _core.Model) -> Sequence:
        text = start(writing, core)
        found.append(text.n_tokens - text.start - text.cache.length)
        return text

    monkeypatch.setattr(Writing, "start", watched)
    return found


def test_what_changed_alone_is_read(
    model: gpt2fast.Model, forgetful: gpt2fast.Model, read: list[int]
) -> None:
    """Catches a prompt read again, other bits after one that was not, and a text gone on from."""
    prompt = ids(200)
    prompts = [prompt, prompt, [*prompt, 5], [*prompt[:150], 9], prompt[:100], [7, *prompt]]
    expected = [forgetful.generate(one, **OPTIONS) for one in prompts]
    read.clear()
    assert [model.generate(one, **OPTIONS) for one in prompts] == expected
    assert read == [200, 1, 1, 1, 1, 201]
    assert [model.generate(one, **OPTIONS) for one in prompts[::-1]] == expected[::-1]
    went_on = model.generate(prompt, **OPTIONS).tokens
    read.clear()
    again = [*prompt, *went_on, 17, 18]
    assert model.generate(again, **OPTIONS) == forgetful.generate(again, **OPTIONS)
    assert read == [3, 210]  # the last token drawn was never processed


def test_every_way_to_write(
    model: gpt2fast.Model, forgetful: gpt2fast.Model, read: list[int]
) -> None:
    """Catches a way that does not go on from a kept text, or keeps none, or gives other bits."""
    ways: list[Callable[[gpt2fast.Model, list[int]], object]] = [
        lambda model, prompt: [chunk.token for chunk in model.stream(prompt, **OPTIONS)],
        lambda model, prompt: model.generate(prompt, n=3, **OPTIONS),
        lambda model, prompt: model.alternatives(prompt, 3, **OPTIONS),
        lambda model, prompt: model.generate([prompt[:90], prompt], **OPTIONS),
    ]
    for i, write in enumerate(ways):
        prompt = ids(120, seed=i)
        expected = write(forgetful, prompt)
        assert write(model, prompt) == expected
        read.clear()
        assert write(model, prompt) == expected
        assert max(read) == 1


def test_past_the_context(
    model: gpt2fast.Model, forgetful: gpt2fast.Model, read: list[int]
) -> None:
    """Catches the cache of a window taken for that of the text's beginning."""
    prompt = ids(700)
    options = {**OPTIONS, "overflow": "stride", "stride": 200, "max_new_tokens": 150}
    expected = forgetful.generate(prompt, **options)
    read.clear()
    assert model.generate(prompt, **options) == expected
    assert model.generate(prompt, **options) == expected  # the window moved: nothing to go on from
    window = [*prompt, *expected.tokens][400:]
    assert model.generate(window, **OPTIONS) == forgetful.generate(window, **OPTIONS)
    assert read[:3] == [500, 500, 1]


def test_how_much_is_kept(model: gpt2fast.Model, read: list[int]) -> None:
    """Catches memory that grows with every text, and a text forgotten too soon."""
    page = PAGE * model.memory.cache_per_token
    prompts = [ids(100, seed) for seed in range(6)]  # two pages each; the context has eight
    for i, prompt in enumerate(prompts):
        model.generate(prompt, **OPTIONS)
        assert model.memory.prefix_cache == min(2 * (i + 1), 8) * page
        assert model.memory.caches == 0
    read.clear()
    for i in (5, 4, 3, 0):  # which makes room for itself
        model.generate(prompts[i], max_new_tokens=1)
    assert read == [1, 1, 1, 100]
    model.generate(ids(15), max_new_tokens=1)
    stream = model.stream(ids(400, 9), max_new_tokens=100, ignore_eot=True)
    next(stream)
    assert (model.memory.prefix_cache, model.memory.caches) == (0, 7 * page)
    stream.close()
    assert (model.memory.prefix_cache, model.memory.caches) == (7 * page, 0)
    session = model.session()
    session.append(ids(300, 10))
    assert session.logits.size
    assert model.memory.prefix_cache == 0  # the session takes five of the eight pages
    model.generate(prompts[0], max_new_tokens=1)
    model.logits(ids(512))
    assert model.memory.prefix_cache == 0
    model.generate(prompts[0], max_new_tokens=1)
    model.close()
    assert model._engine.recent.caches == []


def test_a_long_session_takes_one_context() -> None:
    """Catches texts forgotten for tokens that a session's window left behind."""
    with gpt2fast.load("tales", threads=1, prefix_cache="4MB") as model:
        model.generate(ids(100), max_new_tokens=2)
        session = model.session(overflow="stride")
        session.append(ids(2000))
        assert session.logits.size
        assert len(model._engine.recent.caches) == 1


def test_what_is_not_worth_keeping(model: gpt2fast.Model) -> None:
    """Catches room taken by short texts, by each of several samples, or by one text twice."""
    model.generate(ids(14), max_new_tokens=2)
    assert model._engine.recent.caches == []
    model.generate(ids(20), n=3, max_new_tokens=3, seed=1)
    assert len(model._engine.recent.caches) == 1
    model.generate([*ids(20), *ids(50, 1)], max_new_tokens=1)
    longer = model.generate([*ids(20), *ids(50, 1), 7], max_new_tokens=1)
    assert [cache.length for cache in model._engine.recent.caches] == [71, 22]
    assert len(longer.tokens) == 1


def test_texts_that_ended_badly_are_no_trouble(
    model: gpt2fast.Model, forgetful: gpt2fast.Model
) -> None:
    """Catches a cancelled or failed text that is kept as if it were whole."""
    prompt, flag = ids(300), gpt2fast.CancelFlag()
    flag.set()
    assert model.generate(prompt, cancel=flag).tokens == []
    expected = forgetful.generate(prompt, **OPTIONS)
    assert model.generate(prompt, **OPTIONS) == expected

    def failing(tokens: Any, _: Any) -> None:
        if len(tokens) == 303:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        model.generate(prompt, logits_processor=failing, **OPTIONS)
    assert model.generate(prompt, **OPTIONS) == expected


def test_many_threads(model: gpt2fast.Model, forgetful: gpt2fast.Model) -> None:
    """Catches a cache that two texts write to, or an error while another thread takes one."""
    start = ids(100)
    prompts = [[*start, i] for i in range(20)]
    expected = [forgetful.generate(prompt, **OPTIONS) for prompt in prompts]
    wrong: list[int] = []

    def write(first: int) -> None:
        for i in range(first, first + 20):
            if model.generate(prompts[i % 20], **OPTIONS) != expected[i % 20]:
                wrong.append(i)

    threads = [threading.Thread(target=write, args=(5 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert model.memory.prefix_cache <= model.memory.cache


def test_two_at_the_same_cache(model: gpt2fast.Model) -> None:
    """Catches an error instead of a prompt read again, when another thread takes the same text."""
    core = model._engine.core
    recent = RecentTexts(1 << 30, lambda n: n)
    tokens = np.arange(40, dtype=np.int32)
    cache = _core.Cache(core, "float16")
    core.forward([cache], [tokens], [0])
    recent.keep(tokens, cache)

    def layers() -> Iterator[Any]:  # while it is read, an empty cache belongs to `write`
        assert recent.begin(tokens, 1) is None
        yield from ()

    empty = _core.Cache(core, "float16")
    recent._texts = tuple(text._replace(cache=empty) for text in recent._texts)
    with pytest.raises(ValueError, match="0 layers"):
        empty.write(1, layers())


def test_nothing_is_kept_after_close() -> None:
    """Catches a text that a stream gives back to a model that was closed."""
    loaded = gpt2fast.load("tales", threads=1)
    stream = loaded.stream(ids(100), max_new_tokens=5)
    next(stream)
    loaded.close()
    stream.close()
    assert loaded._engine.recent.caches == []


@pytest.mark.parametrize("value", [-1, "0", "many", 1.5, True, [1], "-1MB"])
def test_bad_sizes(value: Any) -> None:
    """Catches a size that is guessed at."""
    with pytest.raises(ValueError, match=r"prefix_cache is .*; allowed: a number of bytes >= 0"):
        gpt2fast.load(prefix_cache=value)


def test_within_max_memory() -> None:
    """Catches texts that are kept beyond what the model may take."""
    with gpt2fast.load("tales", threads=1, prefix_cache="1kB") as model:
        model.generate(ids(100), max_new_tokens=1)
        assert model.memory.prefix_cache == 0
        needed = model.memory.weights + model.memory.cache + model.memory.workspace
    Limit(needed, None, 1).check("tales", model.config, "int8", model.memory.weights)
    gpt2fast.load("tales", threads=1, max_memory=needed, prefix_cache=1000).close()
    with pytest.raises(MemoryError, match="keys and values of 512 tokens"):
        gpt2fast.load("tales", threads=1, max_memory=needed, prefix_cache="50MB")


def test_memory_is_flat() -> None:
    """Catches caches that outlive their model: 100 times load, generate, close."""
    prompt = ids(200)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for i in range(100):
        with gpt2fast.load("tales", threads=1) as model:
            model.generate(prompt, max_new_tokens=2)
            next(model.stream(prompt, max_new_tokens=2))
        if i == 20:
            before = resident()
    assert resident() - before < 4_000_000
