"""Generation on the trained model: what is drawn, where it stops, sessions and streams."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2fast
from gpt2fast import _generate
from gpt2fast._generate import StopStrings, scan

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=2) as loaded:
        yield loaded


def by_hand(model: gpt2fast.Model, ids: list[int], n: int, seed: int, **filters: Any) -> list[int]:
    """Draw n tokens from logits computed anew for each, by the documented rule."""
    tokens = list(ids)
    for _ in range(n):
        kept = _generate.filtered(model.logits(tokens, last_only=True), **filters)
        goal = _generate.random(seed, 0, len(tokens)) * sum(kept.values()) >> 64
        for token in sorted(kept):
            goal -= kept[token]
            if goal < 0:
                break
        tokens.append(token)
    return tokens[len(ids) :]


@pytest.mark.parametrize(
    "filters",
    [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9}, {"top_k": 20, "min_p": 0.02}],
)
def test_tokens_are_those_drawn_by_hand(model: gpt2fast.Model, filters: dict[str, Any]) -> None:
    """Catches a wrong position in the draw, stale logits, or a cache that differs from none."""
    filters = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | filters
    filters["top_k"] = int(filters["top_k"])
    got = model.generate(PROMPT, seed=9, max_new_tokens=30, **filters)
    assert got.tokens == by_hand(model, model.tokenizer.encode(PROMPT), 30, 9, **filters)
    assert got.text == model.tokenizer.decode(got.tokens)
    assert got.finish_reason == "length"


def test_seeds_decide(model: gpt2fast.Model) -> None:
    """Catches draws that differ between equal seeds, agree between others, or are not told."""
    first = model.generate(PROMPT, max_new_tokens=40)
    assert model.generate(PROMPT, max_new_tokens=40, seed=first.seed) == first
    other = model.generate(PROMPT, max_new_tokens=40)
    assert other.seed != first.seed
    assert other.tokens != first.tokens


def test_a_batch_equals_each_alone(model: gpt2fast.Model) -> None:
    """Catches a result that depends on its neighbours, its place, or on waiting for one."""
    prompts = [PROMPT, "The king", "", "a", *(f"Chapter {n}. There was" for n in range(20))]
    together = model.generate(prompts, seed=3, max_new_tokens=25, stop=["."])
    assert together == [model.generate(p, seed=3, max_new_tokens=25, stop=["."]) for p in prompts]
    assert len({len(completion.tokens) for completion in together}) > 1


def test_threads_do_not_matter(model: gpt2fast.Model) -> None:
    """Catches sums that depend on how work is split."""
    expected = model.generate(PROMPT, seed=1, max_new_tokens=60)
    for threads in (1, 3):
        with gpt2fast.load("tales", threads=threads) as other:
            assert other.generate(PROMPT, seed=1, max_new_tokens=60) == expected


def test_prompts_of_ids_and_of_nothing(model: gpt2fast.Model) -> None:
    """Catches ids and text that disagree, and "" that does not start from <|endoftext|>."""
    ids = model.tokenizer.encode(PROMPT)
    text = model.generate(PROMPT, temperature=0, max_new_tokens=8)
    for given in (ids, tuple(ids), np.array(ids), np.array(ids, np.uint16)):
        assert model.generate(given, temperature=0, max_new_tokens=8).tokens == text.tokens
    empty = model.generate("", temperature=0, max_new_tokens=8)
    assert empty.prompt_tokens == [model.tokenizer.eot]
    several = model.generate([ids, [5]], temperature=0, max_new_tokens=8)
    assert [len(completion.tokens) for completion in several] == [8, 8]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        (np.array([], np.int32), "empty"),
        ([0, 4096], r"token 1 is 4096; allowed: 0 to 4095"),
        ([-1], r"token 0 is -1; allowed: 0 to 4095"),
        ([2**70], "integers"),
        ([1.0], "integers"),
        (np.zeros((2, 2), np.int32), "2 dimensions"),
        (None, "integers"),
        (7, "0 dimensions"),
        (["a", 5], "list of prompts holds 5"),
        (["a", []], "empty"),
    ],
)
def test_bad_prompts_are_refused(model: gpt2fast.Model, prompt: object, message: str) -> None:
    """Catches ids read outside the tables, and prompts guessed at."""
    with pytest.raises(ValueError, match=message):
        model.generate(prompt)  # type: ignore[call-overload]


def test_context_is_full_but_never_outgrown(model: gpt2fast.Model) -> None:
    """Catches an overflow found late, and the last position left unused."""
    n_ctx = model.config.n_ctx
    prompt = [5] * (n_ctx - 3)
    assert len(model.generate(prompt, max_new_tokens=3).tokens) == 3
    assert len(model.generate(prompt, ignore_eot=True).tokens) == 3
    with pytest.raises(ValueError, match=f"509 tokens and max_new_tokens is 4.*{n_ctx}"):
        model.generate(prompt, max_new_tokens=4)
    with pytest.raises(ValueError, match=f"{n_ctx} tokens"):
        model.generate([5] * n_ctx)
    assert len(model.generate([5], ignore_eot=True).tokens) == 128


def test_stop_strings_end_the_text_before_them(model: gpt2fast.Model) -> None:
    """Catches a stop string missed across tokens, or left in the text or in a stream."""
    whole = model.generate(PROMPT, seed=5, max_new_tokens=60)
    for at in range(0, len(whole.text) - 5, 7):
        stop = whole.text[at : at + 5]
        got = model.generate(PROMPT, seed=5, max_new_tokens=60, stop=[stop, "\0never"])
        assert got.text == whole.text[: whole.text.index(stop)]
        assert got.finish_reason == "stop"
        assert got.tokens == whole.tokens[: len(got.tokens)]
        stream = model.stream(PROMPT, seed=5, max_new_tokens=60, stop=[stop, "\0never"])
        assert "".join(chunk.text for chunk in stream) == got.text
        assert stream.completion == got


def test_stop_strings_of_half_a_character(model: gpt2fast.Model) -> None:
    """Catches half a surrogate pair that stops at "?", and a pair that stops at nothing."""
    for stop, text in (("\udc80", "\ufffd"), ("a\ud83d\ude00", "a\U0001f600")):
        stops = model._engine.stop_strings((stop,))
        assert stops is not None
        assert not scan(stops, model.tokenizer.encode("What? no"))[0]
        assert scan(stops, model.tokenizer.encode(text))[0]


def test_stop_strings_against_find() -> None:
    """Catches a stop string missed, or text shown too early, for any cut of bytes into tokens.

    Strings and text are of few letters, one of them of two bytes that tokens may separate.
    """
    rng = np.random.default_rng(0)
    letters = [letter.encode() for letter in "abé"]
    pieces = [b"a", b"b", b"\xc3", b"\xa9", b"ab", b"ba", b"\xa9a", b"b\xc3", b"", b"aabab"]
    table = b"".join(pieces)
    offsets = np.cumsum([0, *map(len, pieces)], dtype=np.uint32).tobytes()
    for _ in range(3000):
        stops = [
            b"".join(rng.choice(letters, rng.integers(1, 5))) for _ in range(rng.integers(1, 4))
        ]
        tokens = rng.integers(0, len(pieces) + 1, 12).tolist()  # one id is unknown to the table
        found, shown = scan(StopStrings(stops, table, offsets), tokens)
        text = b""
        for i, token in enumerate(tokens):
            text += pieces[token] if token < len(pieces) else b""
            ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
            if ends:
                end = min(ends)
                longest = max(len(stop) for stop in stops if text[:end].endswith(stop))
                assert found
                assert i == len(shown) - 1
                assert shown[i] == end - longest
                break
            held = [n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])]
            assert shown[i] == len(text) - max(held)
        else:
            assert not found


def test_stop_tokens_and_end_of_text(model: gpt2fast.Model) -> None:
    """Catches a stop token that goes on or is shown, and ignore_eot that does not ignore."""
    whole = model.generate(PROMPT, seed=5, max_new_tokens=40)
    stop = whole.tokens[20]
    got = model.generate(PROMPT, seed=5, max_new_tokens=40, stop_tokens=[stop])
    at = whole.tokens.index(stop)
    assert got.tokens == whole.tokens[: at + 1]
    assert got.text == model.tokenizer.decode(whole.tokens[:at])
    assert got.finish_reason == "stop"
    with pytest.raises(ValueError, match="stop_tokens is 4096; allowed"):
        model.generate(PROMPT, stop_tokens=[4096])
    eot = model.tokenizer.eot
    assert eot is not None
    noise: dict[str, Any] = {"temperature": 1e6, "top_p": 1.0, "max_new_tokens": 500}
    seed, endless = next(
        (seed, completion)
        for seed in range(100)
        if eot in (completion := model.generate([5], seed=seed, ignore_eot=True, **noise)).tokens
    )
    ended = model.generate([5], seed=seed, **noise)
    assert ended.finish_reason == "stop"
    assert ended.tokens == endless.tokens[: endless.tokens.index(eot) + 1]


def test_cancel_from_another_thread(model: gpt2fast.Model) -> None:
    """Catches a flag that is not seen within the call, and a model spoilt by it."""
    flag = gpt2fast.CancelFlag()
    timer = threading.Timer(0.05, flag.set)
    timer.start()
    got = model.generate([[5] * 10] * 64, cancel=flag, max_new_tokens=500, ignore_eot=True)
    timer.join()
    assert {completion.finish_reason for completion in got} == {"cancelled"}
    assert any(completion.tokens for completion in got)
    assert flag.is_set()
    stream = model.stream(PROMPT, cancel=flag)
    assert [(c.text, c.token, c.finish_reason) for c in stream] == [("", None, "cancelled")]
    flag.clear()
    assert model.generate(PROMPT, cancel=flag, max_new_tokens=3).finish_reason == "length"


def test_deadline(model: gpt2fast.Model) -> None:
    """Catches a deadline that is late or that loses what was written."""
    started = time.monotonic()
    got = model.generate([PROMPT] * 64, deadline=0.1, max_new_tokens=500, ignore_eot=True, seed=1)
    assert time.monotonic() - started < 2
    assert {completion.finish_reason for completion in got} == {"deadline"}
    assert got[0].text == model.tokenizer.decode(got[0].tokens)
    stream = model.stream(PROMPT, deadline=0.05, max_new_tokens=500, ignore_eot=True, seed=1)
    text = "".join(chunk.text for chunk in stream)
    assert stream.completion.text == text


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals")
def test_interrupt_leaves_the_model_usable(model: gpt2fast.Model) -> None:
    """Catches Ctrl-C that waits for the end of the text, or that spoils model or session."""
    session = model.session()
    session.append(PROMPT)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        model.generate([[5] * 10] * 256, max_new_tokens=500, ignore_eot=True)
    assert time.monotonic() - started < 1
    expected = model.generate(PROMPT, seed=2, max_new_tokens=20)
    assert session.generate(seed=2, max_new_tokens=20) == expected


def test_stream_is_the_completion_token_by_token(model: gpt2fast.Model) -> None:
    """Catches text that a stream loses, repeats, or shows as half a character."""
    expected = model.generate(PROMPT, seed=4, temperature=3.0, top_p=1.0, max_new_tokens=200)
    stream = model.stream(PROMPT, seed=4, temperature=3.0, top_p=1.0, max_new_tokens=200)
    with pytest.raises(ValueError, match="not ended"):
        _ = stream.completion
    chunks = list(stream)
    assert [chunk.token for chunk in chunks] == expected.tokens
    assert "".join(map(str, chunks)) == str(expected)
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == expected.finish_reason
    assert stream.completion == expected
    assert next(stream, None) is None


def test_many_threads_use_one_model(model: gpt2fast.Model) -> None:
    """Catches buffers that concurrent calls share."""
    prompts = [f"Chapter {n}. There was" for n in range(6)]
    expected = [model.generate(prompt, seed=1, max_new_tokens=30) for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        got = pool.map(lambda prompt: model.generate(prompt, seed=1, max_new_tokens=30), prompts)
    assert list(got) == expected


def test_damaged_weights_raise(test_data: Path, tmp_path: Path) -> None:
    """Catches text drawn from NaN."""
    path = tmp_path / "damaged.safetensors"
    gpt2fast.convert(test_data / "models" / "tales", path)
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    start = json.loads(content[8 : 8 + size])["ln_f.weight"]["data_offsets"][0] + 8 + size
    content[start : start + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with gpt2fast.load(path) as damaged:
        for call in (damaged.generate, damaged.logits, lambda ids: next(damaged.stream(ids))):
            with pytest.raises(FloatingPointError):
                call([5, 6])


def test_session_equals_one_prompt(model: gpt2fast.Model) -> None:
    """Catches a cache that is stale after append, generate, truncate, logits or fork."""
    session = model.session()
    with pytest.raises(ValueError, match="no token"):
        session.generate()
    session.append(PROMPT)
    session.append(model.tokenizer.encode(" there was"))
    first = session.generate(seed=1, max_new_tokens=10)
    assert first == model.generate(first.prompt_tokens, seed=1, max_new_tokens=10)
    assert session.tokens == first.prompt_tokens + first.tokens
    assert np.array_equal(session.logits, model.logits(session.tokens, last_only=True))
    other = session.fork()
    second = session.generate(seed=2, max_new_tokens=10)
    assert second == model.generate(second.prompt_tokens, seed=2, max_new_tokens=10)
    other.truncate(5)
    other.append(" a king")
    third = other.generate(seed=3, max_new_tokens=10)
    assert third == model.generate(third.prompt_tokens, seed=3, max_new_tokens=10)
    assert session.tokens == second.prompt_tokens + second.tokens
    session.truncate(0)
    with pytest.raises(ValueError, match="no token"):
        _ = session.logits
    session.append(PROMPT)
    assert np.array_equal(
        session.logits, model.logits(model.tokenizer.encode(PROMPT), last_only=True)
    )


def test_abandoned_stream_keeps_what_was_seen(model: gpt2fast.Model) -> None:
    """Catches a session that holds tokens its reader never saw, or that stays locked."""
    session = model.session()
    session.append(PROMPT)
    n_prompt = len(session.tokens)
    stream = session.stream(seed=1, max_new_tokens=200)
    seen = [next(stream).token for _ in range(7)]
    for call in (session.fork, session.generate, lambda: session.append("x")):
        with pytest.raises(RuntimeError, match="stream"):
            call()
    stream.close()
    assert stream.completion.finish_reason == "cancelled"
    assert session.tokens[n_prompt:] == seen == stream.completion.tokens
    again = session.generate(seed=1, max_new_tokens=20)
    assert again == model.generate(again.prompt_tokens, seed=1, max_new_tokens=20)
    for _ in session.stream(seed=1):
        break
    assert len(session.tokens) == n_prompt + 7 + 20 + 1


def test_session_has_the_room_of_the_context(model: gpt2fast.Model) -> None:
    """Catches a session that outgrows the context."""
    session = model.session()
    session.append([5] * 500)
    with pytest.raises(ValueError, match="500 tokens and 13 are to be added"):
        session.append([5] * 13)
    with pytest.raises(ValueError, match="n_tokens is 501; allowed: an integer from 0 to 500"):
        session.truncate(501)
    session.append([5] * 12)
    with pytest.raises(ValueError, match="512"):
        session.generate(max_new_tokens=1)
    assert session.logits.shape == (model.config.n_vocab,)
