"""The same text and the same bits of every log-probability, however it comes about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint

import gpt2fast
from gpt2fast import generation
from gpt2fast.completion import Completion

N_CTX = 150  # more than two pages, no multiple of one
LENGTHS = (1, 140, 2, 63, 64, 65, 17, 100)
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "seed": 10},
    "plain": {"seed": 11},
    "rules": {
        "seed": 12,
        "temperature": 1.3,
        "top_p": 0.8,
        "repetition_penalty": 1.3,
        "no_repeat_ngram": 2,
        "stop_tokens": list(range(0, 300, 17)),  # so that texts leave one after another
    },
    "mirostat": {"seed": 13, "mirostat_tau": 4.0},
}
Loader = Callable[..., gpt2fast.Model]


@pytest.fixture(scope="module", params=["int8", "float32"])
def load(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loader]:
    """What loads one and the same model, once for each combination of options."""
    config = hf_config(n_positions=N_CTX, n_head=3, n_embd=75)
    tensors = random_tensors(gpt2fast.Config.from_huggingface(config).tensor_shapes())
    tensors = {name: values * 3 for name, values in tensors.items()}
    path = write_checkpoint(tmp_path_factory.mktemp("model"), config, tensors)
    loaded: dict[str, gpt2fast.Model] = {}

    def model(**options: Any) -> gpt2fast.Model:
        key = repr(sorted(options.items()))
        if key not in loaded:
            loaded[key] = gpt2fast.load(path, dtype=request.param, **options)
        return loaded[key]

    yield model
    for one in loaded.values():
        one.close()


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 300, n).tolist() for n in LENGTHS]


def options_of(name: str) -> dict[str, Any]:
    return {"max_new_tokens": 10, "logprobs": 3, "ignore_eot": True, **OPTIONS[name]}


@pytest.fixture(params=OPTIONS)
def expected(request: pytest.FixtureRequest, load: Loader) -> tuple[dict[str, Any], list[Any]]:
    """Options, and what each prompt gives with them alone, on one thread, from an empty cache."""
    options = options_of(request.param)
    model = load(threads=1, prefix_cache=0)
    return options, [model.generate(prompt, **options) for prompt in prompts()]


Expected = tuple[dict[str, Any], list[Completion]]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_and_threads(
    load: Loader, expected: Expected, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches bits that depend on the texts beside one, on joining or leaving, or on threads."""
    options, alone = expected
    model = load(threads=threads, prompt_threads=4 - threads, prefix_cache=0)
    assert [model.generate(prompt, **options) for prompt in prompts()] == alone
    assert model.generate(prompts(), **options) == alone
    assert model.generate(prompts()[::-1], **options) == alone[::-1]
    monkeypatch.setattr(generation, "TOGETHER", 3)  # each that leaves lets the next one join
    many = model.generate(prompts() * 3, **options)
    assert many == alone * 3
    assert len({len(done.tokens) for done in alone}) > 1 or "stop_tokens" not in options


def test_every_cache(load: Loader, expected: Expected, tmp_path: Path) -> None:
    """Catches bits that depend on what was read before, where it lay, or in which pieces."""
    options, alone = expected
    model = load(threads=2)
    assert model.generate(prompts(), **options) == alone
    assert model.generate(prompts(), **options) == alone  # from the texts that are kept
    for prompt, done in list(zip(prompts(), alone, strict=True))[::2]:
        session = model.session()
        for i in range(0, len(prompt), 50):
            session.append(prompt[i : i + 50])
            assert session.logits.size
        session.save(tmp_path / "session")
        fork, restored = session.fork(), model.restore(tmp_path / "session")
        longer = session.fork()
        longer.append([9] * (N_CTX - len(prompt)))
        assert longer.logits.size
        longer.truncate(len(prompt))
        for one in (fork, restored, longer, restored.fork().fork(), session):
            tokens = one.tokens
            got = one.generate(**options)
            assert got == done
            assert one.tokens == tokens + done.tokens
        chunks = list(model.stream(prompt, **options))
        assert [chunk.token for chunk in chunks] == done.tokens
        assert done.logprobs is not None
        assert [chunk.logprob for chunk in chunks] == [one.logprob for one in done.logprobs]


@pytest.mark.parametrize(
    "overflow", [{"overflow": "truncate"}, {"overflow": "stride", "stride": 40}], ids=str
)
def test_overflow(load: Loader, expected: Expected, overflow: dict[str, Any]) -> None:
    """Catches a text that differs as it may outgrow the context; past it: threads, batch, cache."""
    options, alone = expected
    assert load(threads=1, prefix_cache=0).generate(prompts(), **options, **overflow) == alone
    options = {**options, **overflow, "max_new_tokens": 30}
    long = prompts()[1]
    first = load(threads=1, prefix_cache=0).generate(long, **options)
    batch = load(threads=3, prefix_cache=0).generate([long, *prompts(), long], **options)
    assert batch[0] == batch[2] == batch[-1] == first
    model = load(threads=2)
    assert [model.generate(long, **options) for _ in range(2)] == [first] * 2
    assert first.logprobs is not None
    text = [*long, *first.tokens]
    for i, found in enumerate(first.logprobs):
        n = len(long) + i
        if n < N_CTX:
            window = text[:n]
        elif overflow["overflow"] == "truncate":
            window = text[n - N_CTX + 1 : n]
        else:
            window = text[40:n]  # 150 to 170 tokens: once 40 were dropped
        scratch = model.generate(window, max_new_tokens=1, seed=1, logprobs=3, temperature=0)
        assert scratch.logprobs is not None
        assert found.top == scratch.logprobs[0].top
