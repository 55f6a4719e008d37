"""Texts that outgrow the context: every token as if what is kept were the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint

import gpt2fast
from gpt2fast._generate import window_start

N_CTX, N_VOCAB = 24, 300
MODES: list[dict[str, Any]] = [
    {"overflow": "truncate"},
    {"overflow": "stride"},
    {"overflow": "stride", "stride": 1},
    {"overflow": "stride", "stride": 7},
    {"overflow": "stride", "stride": N_CTX - 1},
]
NAMES = ["truncate", "half", "stride 1", "stride 7", "stride 23"]
modes = pytest.mark.parametrize("mode", MODES, ids=NAMES)


@pytest.fixture(scope="module", params=["float32", "int8"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[gpt2fast.Model]:
    config = hf_config(n_positions=N_CTX)
    tensors = random_tensors(gpt2fast.Config.from_huggingface(config).tensor_shapes())
    tensors = {name: values * 5 for name, values in tensors.items()}  # so that texts vary
    path = write_checkpoint(tmp_path_factory.mktemp("model"), config, tensors)
    with gpt2fast.load(path, dtype=request.param, threads=1) as loaded:
        yield loaded


def prompt_of(n: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(n).integers(0, N_VOCAB, n).tolist()
    return tokens


def kept(tokens: list[int], mode: dict[str, Any]) -> list[int]:
    """What the definitions keep of a text, step by step."""
    if mode["overflow"] == "truncate":
        return tokens[-(N_CTX - 1) :]
    stride, first = mode.get("stride", N_CTX // 2), 0
    for n in range(len(tokens) + 1):
        if n - first == N_CTX:
            first += stride
    return tokens[first:]


def from_scratch(
    model: gpt2fast.Model, prompt: list[int], n: int, mode: dict[str, Any]
) -> list[Any]:
    """The likeliest tokens and log-probabilities when all that is kept is read for each token."""
    text, found = list(prompt), []
    for _ in range(n):
        window = kept(text, mode)
        one = model.generate(window, max_new_tokens=1, temperature=0, logprobs=3, ignore_eot=True)
        assert one.logprobs is not None
        found += one.logprobs
        text += one.tokens
    return found


@modes
@pytest.mark.parametrize("n_prompt", [1, N_CTX - 1, N_CTX, N_CTX + 1, 3 * N_CTX])
def test_equals_reading_what_is_kept(
    model: gpt2fast.Model, mode: dict[str, Any], n_prompt: int
) -> None:
    """Catches positions that no longer match, a token too many or too few, and a cache shifted."""
    options: dict[str, Any] = {"temperature": 0, "logprobs": 3, "ignore_eot": True, **mode}
    prompt = prompt_of(n_prompt)
    expected = from_scratch(model, prompt, 60, mode)
    whole = model.generate(prompt, max_new_tokens=60, **options)
    assert whole.logprobs == expected
    assert (whole.finish_reason, whole.prompt_tokens) == ("length", prompt)
    stream = model.stream(prompt, max_new_tokens=60, **options)
    assert [(chunk.token, chunk.logprob, chunk.top) for chunk in stream] == expected
    session = model.session(**mode)
    session.append(prompt)
    parts = [session.generate(max_new_tokens=n, **{**options, **mode}) for n in (1, 19, 40)]
    assert [one for part in parts for one in part.logprobs or []] == expected
    assert session.tokens == prompt + whole.tokens
    window = kept(session.tokens, mode)
    assert np.array_equal(session.logits, model.logits(window, last_only=True))


@modes
def test_batches_equal_each_alone(model: gpt2fast.Model, mode: dict[str, Any]) -> None:
    """Catches a window, or a draw, that depends on the texts beside it."""
    options: dict[str, Any] = {"seed": 9, "max_new_tokens": 40, "logprobs": 0, **mode}
    prompts = [prompt_of(n) for n in (1, 5, N_CTX - 2, N_CTX, 50, 23, 2, 31, 12)]
    together = model.generate(prompts, **options)
    assert together == [model.generate(prompt, **options) for prompt in prompts]
    samples = model.generate(prompts[4], n=3, **options)
    assert samples[0] == together[4]
    assert len({tuple(sample.tokens) for sample in samples}) == 3


@modes
def test_what_was_dropped_still_counts(model: gpt2fast.Model, mode: dict[str, Any]) -> None:
    """Catches rules, stop strings or draws that begin anew when the window moves."""
    short = model.generate([5], seed=3, no_repeat_ngram=1, max_new_tokens=100, **mode)
    assert len({5, *short.tokens}) == 1 + len(short.tokens)
    whole = model.generate([5], seed=3, max_new_tokens=60, ignore_eot=True, **mode)
    session = model.session(**mode)
    session.append([5])
    parts = [session.generate(seed=3, max_new_tokens=20, ignore_eot=True) for _ in range(3)]
    assert [token for part in parts for token in part.tokens] == whole.tokens


def test_sessions_move_between_windows(model: gpt2fast.Model) -> None:
    """Catches a cache of one window taken for another's, after truncate, fork or other modes."""
    session = model.session(overflow="stride", stride=7)
    session.append(prompt_of(60))

    def check(stride: int) -> None:
        window = session.tokens[window_start(len(session.tokens), N_CTX, stride) :]
        assert np.array_equal(session.logits, model.logits(window, last_only=True))

    check(7)
    other = session.fork()
    session.generate(max_new_tokens=3, seed=1, overflow="truncate")
    check(7)
    for n in (62, 61, 60, 59, 30, 24, 23, 5):
        session.truncate(n)
        check(7)
    session.generate(max_new_tokens=4, seed=1, overflow="error")
    check(7)
    session.append(prompt_of(40))
    stream = session.stream(max_new_tokens=30, seed=1, ignore_eot=True)
    for _ in range(9):
        next(stream)
    stream.close()
    assert len(session.tokens) == 58
    check(7)
    assert len(other.tokens) == 60
    assert np.array_equal(other.logits, model.logits(other.tokens[42:], last_only=True))
    with pytest.raises(ValueError, match="58 tokens and max_new_tokens is 1: together 59, but"):
        session.generate(overflow="error", max_new_tokens=1)
    check(7)


@pytest.mark.parametrize("n", [0, 4, 54, 55])  # the cache of 60 tokens begins at 54
def test_back_to_before_the_window(model: gpt2fast.Model, n: int, tmp_path: Path) -> None:
    """Catches a text cut back to what its cache began after: it could neither go on nor be read."""
    session = model.session(overflow="stride", stride=18)
    session.append(prompt_of(60))
    assert session.logits.size
    assert session._start == 54
    session.truncate(n)
    session.fork().save(tmp_path / "session")
    if not n:
        session.append([7])
    options: dict[str, Any] = {"seed": 1, "max_new_tokens": 3, "ignore_eot": True}
    prompt = session.tokens
    expected = model.generate(prompt, overflow="stride", stride=18, **options)
    stream = session.fork().stream(**options)
    assert [chunk.token for chunk in stream] == expected.tokens
    assert session.generate(**options) == expected
    restored = model.restore(tmp_path / "session")
    if not n:
        restored.append([7])
    assert restored.generate(**options) == expected


def test_a_stream_closed_before_the_window(
    model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a session that begins after its tokens, when a stream drew more than it gave."""
    monkeypatch.setattr("gpt2fast.stream.SECONDS", 60.0)
    session = model.session(overflow="stride")
    session.append([5])
    stream = session.stream(max_new_tokens=60, seed=1, ignore_eot=True)
    next(stream)
    next(stream)  # the second one takes all the others with it
    assert stream._sequence.start == 48
    stream.close()
    expected = model.generate(session.tokens, seed=2, max_new_tokens=2)
    assert session.generate(seed=2, max_new_tokens=2) == expected


def test_the_stride_of_the_session(model: gpt2fast.Model) -> None:
    """Catches another stride than the session's, because its overflow was given once more."""
    session = model.session(overflow="stride", stride=7)
    session.append(prompt_of(20))
    options: dict[str, Any] = {"max_new_tokens": 20, "seed": 1, "logprobs": 0, "ignore_eot": True}
    again = session.fork().generate(overflow="stride", **options)
    half = session.fork().generate(overflow="stride", stride=None, **options)
    assert half.logprobs != again.logprobs
    assert session.generate(**options) == again


def test_a_session_without_overflow_says_when_it_is_full(model: gpt2fast.Model) -> None:
    """Catches logits of a part of the text, given out as those of all of it."""
    session = model.session()
    session.append(prompt_of(20))
    session.generate(max_new_tokens=20, overflow="truncate", seed=1, ignore_eot=True)
    with pytest.raises(ValueError, match="has 40 tokens, but the context has 24; allowed"):
        _ = session.logits
    with pytest.raises(ValueError, match="the session has 40 tokens and 1 are to be added"):
        session.append([1])
    session.truncate(24)
    assert np.array_equal(session.logits, model.logits(session.tokens, last_only=True))


def test_an_interrupted_text_leaves_no_wrong_cache(
    model: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cache whose window moved before the session could learn of it."""
    session = model.session(overflow="stride", stride=7)
    session.append(prompt_of(30))
    session.generate(max_new_tokens=1, seed=1)

    def lost(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gpt2fast.generation.Writing, "drawn", property(lost))
        with pytest.raises(KeyboardInterrupt):
            session.generate(max_new_tokens=20, seed=1)
    tokens = session.tokens
    window = tokens[window_start(len(tokens), N_CTX, 7) :]
    assert np.array_equal(session.logits, model.logits(window, last_only=True))


def test_cancel_between_windows(model: gpt2fast.Model) -> None:
    """Catches a text that cannot be ended, or gone on with, after the window moved."""
    flag = gpt2fast.CancelFlag()

    def ending(tokens: Any, _: Any) -> None:
        if len(tokens) == 29:
            flag.set()

    session = model.session(overflow="stride")
    session.append(prompt_of(20))
    options: dict[str, Any] = {"seed": 2, "ignore_eot": True}
    cut = session.generate(max_new_tokens=99, cancel=flag, logits_processor=ending, **options)
    assert (cut.finish_reason, len(session.tokens)) == ("cancelled", 30)
    rest = session.generate(max_new_tokens=20, **options)
    whole = model.generate(prompt_of(20), max_new_tokens=30, overflow="stride", **options)
    assert cut.tokens + rest.tokens == whole.tokens


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"overflow": "stride", "stride": N_CTX}, "stride is 24; allowed: an integer from 1 to 23"),
        ({"overflow": "truncate", "max_new_tokens": 2**20 + 1}, "max_new_tokens is 1048577; allow"),
        ({"overflow": "stride", "min_new_tokens": 2**20 + 1}, "min_new_tokens is 1048577; allowed"),
        ({"overflow": "error", "max_new_tokens": 24}, "together 25, but the context has 24"),
    ],
)
def test_what_does_not_fit_the_model(
    model: gpt2fast.Model, options: dict[str, Any], expected: str
) -> None:
    """Catches a stride as long as the context, and room for texts without end."""
    for call in (model.generate, model.stream):
        with pytest.raises(ValueError, match=expected):
            call([1], **options)
    if options["overflow"] != "error":
        session = model.session()
        session.append([1])
        with pytest.raises(ValueError, match=expected):
            session.generate(**options)


def test_windows_by_hand(tmp_path: Path) -> None:
    """Catches a window that keeps no token, or as many as the context has."""
    for n, n_ctx, stride, expected in [
        (1, 2, 1, 0),
        (2, 2, 1, 1),
        (23, 24, 12, 0),
        (24, 24, 12, 12),
        (35, 24, 12, 12),
        (36, 24, 12, 24),
        (1000, 24, 0, 0),
        (24, 24, 23, 23),
        (46, 24, 23, 23),
        (47, 24, 23, 46),
    ]:
        assert window_start(n, n_ctx, stride) == expected
    config = hf_config(n_positions=1)
    tensors = random_tensors(gpt2fast.Config.from_huggingface(config).tensor_shapes())
    with gpt2fast.load(write_checkpoint(tmp_path, config, tensors), threads=1) as narrow:
        with pytest.raises(ValueError, match="overflow is 'truncate'; allowed: 'error', as the"):
            narrow.generate([1], overflow="truncate")
        with pytest.raises(ValueError, match="overflow is 'stride'; allowed: 'error', as the"):
            narrow.session(overflow="stride")
