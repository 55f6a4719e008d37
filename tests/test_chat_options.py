"""Options of a chat: what sets them, what refuses them, and what a refusal leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import gpt2fast
from gpt2fast.cli.chat.loop import Loop
from gpt2fast.cli.chat.state import Chat, Turn
from gpt2fast.cli.terminal import UsageError

RunChat = Callable[..., tuple[int, str, str]]
STORY = [Turn("you", "Once"), Turn("model", " upon a time")]


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


@pytest.fixture
def loop(model: gpt2fast.Model) -> Loop:
    """A loop over a pipe, after one reply."""
    chat = Chat(model, {"max_new_tokens": 5})
    chat.turns = list(STORY)
    return Loop(chat)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("/set stop a=b", {"stop": ["a=b"]}),
        ("/set stop = a = b", {"stop": ["a = b"]}),
        ("/set stop=a=b", {"stop": ["a=b"]}),
        (r"/set stop \n\n", {"stop": ["\n\n"]}),
        ("/set logit-bias 5=-1.5", {"logit_bias": {5: -1.5}}),
        ("/set logit_bias = 5=-inf", {"logit_bias": {5: float("-inf")}}),
        ("/set stride 100", {"stride": 100}),
        ("/set ignore-eot", {"ignore_eot": True}),
    ],
)
def test_set(loop: Loop, line: str, options: dict[str, Any]) -> None:
    """Catches a value that loses its "=", a newline that cannot be named, a stride refused."""
    loop.take(line)
    assert loop.chat.options == {"max_new_tokens": 5} | options
    loop.take("")
    assert loop.chat.text.startswith("Once upon a time")


STRIDE = {"max_new_tokens": 5, "stride": 9}


@pytest.mark.parametrize(
    ("options", "line", "message"),
    [
        (STRIDE, "/set num-beams 4", "unrecognized arguments"),
        (STRIDE, "/set penalty-alpha 0.6", "unrecognized arguments"),
        (STRIDE, "/set stride 512", "stride is 512; allowed: an integer from 1 to 511"),
        (STRIDE, "/set overflow error", "stride is 9; allowed: None"),
        (STRIDE, "/add", "/add needs a TEXT"),
        (
            {"preset": "deterministic", "temperature": 1.0, "mirostat_tau": 3.0},
            "/unset temperature",
            "temperature is 0; allowed: above 0",
        ),
    ],
)
def test_refused(loop: Loop, options: dict[str, Any], line: str, message: str) -> None:
    """Catches what every reply to come would be refused for, and a turn of nothing."""
    loop.chat.set_options(options)
    with pytest.raises((UsageError, ValueError), match=message):
        loop.take(line)
    assert (loop.chat.options, loop.chat.turns) == (options, STORY)


def test_budget(model: gpt2fast.Model) -> None:
    """Catches a budget of another window than the one that is read."""
    chat = Chat(model, {"stride": 10})
    chat.begin("The old king of the hills went to the sea. " * 60)
    n = len(model.tokenizer.encode(chat.text))
    assert n > 512
    kept, _, dropped = chat.budget()
    assert kept + dropped == n and 502 <= kept < 512 and dropped % 10 == 0
    chat.set_options({"overflow": "error"})
    assert chat.budget() == (n, 512, 0)


@pytest.mark.parametrize("fails", [ValueError("no"), KeyboardInterrupt()])
def test_retry_keeps_the_words(loop: Loop, fails: BaseException) -> None:
    """Catches words that are lost because others could not be written in their place."""
    stream = patch.object(loop.chat._session, "stream", side_effect=fails)
    with stream, pytest.raises(type(fails)):
        loop.take("/retry")
    assert loop.chat.turns == STORY


def test_edit_ended(loop: Loop) -> None:
    """Catches Ctrl-D in a line that is edited, which would leave the chat and its text."""
    reader = loop.reader = type("Reader", (), {"can_edit": True, "interactive": False})()
    with patch.object(reader, "read", create=True, side_effect=EOFError):
        assert loop.take("/edit")
    assert loop.chat.turns == STORY


def test_interrupt_in_a_pipe(run_chat: RunChat) -> None:
    """Catches a script that Ctrl-C ends line by line only."""
    session = patch("gpt2fast.session.Session.stream", side_effect=KeyboardInterrupt)
    with session as stream:
        status, _, _ = run_chat("Once\nThen\nAt last\n")
    assert (status, stream.call_count) == (130, 1)


def test_transcript_and_options(run_chat: RunChat, tmp_path: Path) -> None:
    """Catches options and names of the command line that a transcript makes void."""
    path = str(tmp_path / "t.json")
    run_chat(f"Once\n/save {path}", "--temperature", "0.7", "--seed", "5")
    _, out, _ = run_chat("/set", "--file", path, "--temperature", "0")
    assert out == "temperature = 0.0\nseed = 5\nmax_new_tokens = 9\n"
    _, out, _ = run_chat("/add Hello\n/show", "--file", path, "--dialogue")
    assert out.startswith("You: Once\nBot: ") and out.endswith("\nYou: Hello\n")
    run_chat(f"/save {path}", "--file", path, "--you", "King")
    _, out, _ = run_chat("/show", "--file", path, "--bot", "Owl")
    assert out.startswith("King: Once\nOwl: ")
    status, _, err = run_chat("", "--file", path, "--you", "Bot")
    assert status == 2 and "two different ones" in err


@pytest.mark.parametrize("option", ["--num-beams=4", "--penalty-alpha=0.6"])
def test_searches(run_chat: RunChat, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an option that is taken, and then every reply refused for."""
    with pytest.raises(SystemExit):
        run_chat("Once", option)
    assert "unrecognized arguments" in capsys.readouterr().err
