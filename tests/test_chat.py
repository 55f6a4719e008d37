"""A text written in turns, without a terminal: what the model reads, and the files of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import gpt2fast
from gpt2fast.cli.chat.loop import COMMANDS
from gpt2fast.cli.chat.state import Chat, Turn
from gpt2fast.cli.chat.terminal import escaped, unescaped

OPTIONS: Any = {"seed": 3, "max_new_tokens": 20}
RunChat = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def reply(chat: Chat) -> str:
    return "".join(chat.reply())


def test_a_story(model: gpt2fast.Model) -> None:
    """Catches words that the model does not read, or reads twice, and a seed that stands still."""
    chat = Chat(model, OPTIONS)
    chat.say("Once upon a time")
    first = reply(chat)
    assert first == model.generate("Once upon a time", **OPTIONS).text
    chat.say("The king")
    before = chat.text
    assert before == f"Once upon a time{first} The king"
    second = reply(chat)
    assert second == model.generate(before, seed=4, max_new_tokens=20).text
    chat.drop_reply()
    assert reply(chat) == model.generate(before, seed=5, max_new_tokens=20).text
    assert chat.text != before + second
    chat.undo()
    assert chat.text == f"Once upon a time{first}"
    chat.edit(" lived an owl.")
    assert chat.text == "Once upon a time lived an owl."
    chat.undo()
    assert chat.turns == []
    assert reply(chat) == model.generate("", seed=6, max_new_tokens=20).text


def test_little_is_read_again(model: gpt2fast.Model) -> None:
    """Catches a text that is processed anew from its beginning in each turn."""
    chat = Chat(model, OPTIONS)
    chat.begin("The old king of the hills. " * 30)
    reply(chat)
    n = len(chat._session.tokens)
    with patch.object(chat._session, "truncate", wraps=chat._session.truncate) as truncate:
        chat.drop_reply()
        reply(chat)
        chat.say("He said no.")
        reply(chat)
    kept = [call.args[0] for call in truncate.call_args_list]
    assert kept[0] >= n - 21 and kept[1] >= n - 10


@pytest.mark.parametrize(
    ("before", "said", "text"),
    [
        ("A king", "went", "A king went"),
        ("A king ", "went", "A king went"),
        ("A king", ", who", "A king, who"),
        ("A king", " went ", "A king went"),
        ("A king\n", "Went", "A king\nWent"),
        ("", "Went", "Went"),
    ],
)
def test_spaces(model: gpt2fast.Model, before: str, said: str, text: str) -> None:
    """Catches words that run together, and a space at the end, after which GPT-2 is lost."""
    chat = Chat(model, {})
    if before:
        chat.begin(before)
    chat.say(said)
    assert chat.text == text


def test_a_dialogue(model: gpt2fast.Model) -> None:
    """Catches a model that speaks for the person too, or does not see who said what."""
    chat = Chat(model, OPTIONS | {"stop": ["zzz"]}, ("King", "Owl"))
    chat.begin("A king talks to an owl.")
    chat.say("Where is the sea?")
    assert chat.text == "A king talks to an owl.\nKing: Where is the sea?\n"
    with patch.object(chat._session, "stream", wraps=chat._session.stream) as stream:
        said = reply(chat)
    assert stream.call_args.kwargs["stop"] == ("zzz", "\nKing:", "\nOwl:")
    expected = model.generate(
        "A king talks to an owl.\nKing: Where is the sea?\nOwl:",
        stop=["zzz", "\nKing:", "\nOwl:"],
        **OPTIONS,
    )
    assert said == expected.text
    assert chat.turns[-1] == Turn("model", said.strip())
    assert chat.text.endswith(f"\nOwl: {said.strip()}\n")


def test_past_the_context(model: gpt2fast.Model) -> None:
    """Catches a chat that ends when the context is full, or a budget that is not what is read."""
    chat = Chat(model, {"max_new_tokens": 30, "temperature": 0, "ignore_eot": True})
    chat.begin("The old king of the hills went to the sea. " * 45)
    ids = model.tokenizer.encode(chat.text)
    assert len(ids) < 512 and chat.budget() == (len(ids), 512, 0)
    while chat.budget()[2] == 0:
        before = model.tokenizer.encode(chat.text)
        said = reply(chat)
        done = model.generate(before, overflow="stride", **chat.options)
        assert said == done.text
    n, n_ctx, dropped = chat.budget()
    assert (dropped, n_ctx) == (256, 512)
    assert n + dropped == len(model.tokenizer.encode(chat.text)) > 512


def test_closed_early(model: gpt2fast.Model) -> None:
    """Catches words that were shown and are lost, or a session that stays in use."""
    chat = Chat(model, OPTIONS)
    chat.say("Once upon a time")
    texts: Any = chat.reply()
    shown = next(texts) + next(texts)
    texts.close()
    assert chat.turns[-1] == Turn("model", shown)
    assert reply(chat)


def test_a_reply_that_fails(model: gpt2fast.Model) -> None:
    """Catches a turn of nothing after an option that the model refuses."""
    chat = Chat(model, {"stop_tokens": [10**6]})
    chat.say("Once")
    with pytest.raises(ValueError, match="stop_tokens"):
        reply(chat)
    assert chat.turns == [Turn("you", "Once")]


@pytest.mark.parametrize("names", [None, ("You", "Bot")])
def test_files(model: gpt2fast.Model, names: Any, tmp_path: Path) -> None:
    """Catches a transcript that comes back as another text, or writes another reply."""
    options = OPTIONS | {"logit_bias": {5: -1.5, 7: float("-inf")}, "stop": ["x", "\n"]}
    chat = Chat(model, options, names)
    chat.begin("Über \\n alles\n")
    chat.say("日本 \ud800")
    reply(chat)
    chat.save(tmp_path / "a.json")
    chat.save(tmp_path / "a.txt")
    other = Chat(model, {}, ("A", "B"))
    other.load(tmp_path / "a.json")
    text = chat.text.replace("\ud800", "?")
    assert (other.text, other.names, other.options) == (text, names, options)
    other.load(tmp_path / "a.txt")
    assert other.turns == [Turn("text", text)]
    (tmp_path / "empty.txt").write_bytes(b"")
    other.load(tmp_path / "empty.txt")
    assert other.turns == []


GOOD: dict[str, Any] = {"gpt2fast_chat": 1, "names": None, "options": {}, "turns": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "not UTF-8: byte 0"),
        (b"", "not JSON"),
        (b"[" * 100_000, "no transcript"),
        (b'{"gpt2fast_chat": 2}', "gpt2fast_chat must be 1"),
        (b"[]", "gpt2fast_chat must be 1"),
        (b"1" * 10_000, "no transcript"),
        (GOOD | {"turns": {}}, "turns must be a list of objects"),
        (GOOD | {"turns": [1]}, "turns must be a list of objects"),
        (GOOD | {"turns": [{"author": "you"}]} | {"names": 3}, "names are 3"),
        (GOOD | {"turns": [{"author": "me", "text": ""}]}, "a turn has an author"),
        (GOOD | {"turns": [{"author": [], "text": ""}]}, "a turn has an author"),
        (GOOD | {"turns": [{"author": "you", "text": 1}]}, "a turn has an author"),
        (GOOD | {"names": ["A", "A"]}, "two different ones"),
        (GOOD | {"names": ["A", "B\n"]}, "no newline"),
        (GOOD | {"names": ["A", " "]}, "1 to 100 characters"),
        (GOOD | {"options": []}, "options must be an object"),
        (GOOD | {"options": {"n": 2}}, "n is no option of a chat"),
        (GOOD | {"options": {"cancel": None}}, "cancel is no option"),
        (GOOD | {"options": {"top_k": -1}}, "top_k is -1"),
        (GOOD | {"options": {"logit_bias": {"x": 1}}}, "no transcript"),
        (b" " * ((1 << 24) + 1), "more than 16,777,216 bytes"),
    ],
)
def test_bad_files(model: gpt2fast.Model, content: Any, message: str, tmp_path: Path) -> None:
    """Catches a file of somebody else's that ends the program, or changes half of the chat."""
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    chat = Chat(model, OPTIONS)
    chat.begin("Once")
    before = chat.turns, chat.names, chat.options
    with pytest.raises(ValueError, match=message):
        chat.load(path)
    assert (chat.turns, chat.names, chat.options) == before


@pytest.mark.parametrize("text", ["a\nb", "a\\nb", "\\", "\\\\n", "\n\\\n", ""])
def test_escapes(text: str) -> None:
    """Catches an /edit that changes what nobody touched."""
    assert unescaped(escaped(text)) == text
    assert "\n" not in escaped(text)


def test_through_a_pipe(run_chat: RunChat, model: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a command that does nothing, or prompts and notes in what a script reads."""
    path = tmp_path / "t.json"
    lines = ["Once upon a time", "", "/retry", "/undo", "/show", "/edit A hen", "/add //b\\nc"]
    lines += ["/sh", "/preset story", "/set top-k = 5", "/set", "/unset top_k", "/set", "/preset"]
    lines += [f"/save {path}", "/clear", "/show", f"/load {path}", "/show", "/quit", "not read"]
    status, out, err = run_chat("\n".join(lines), "--temperature", "0", "--seed", "0")
    first = model.generate("Once upon a time", temperature=0, max_new_tokens=9).text
    second = model.generate(f"Once upon a time{first}", temperature=0, max_new_tokens=9).text
    story = "Once upon a time" + first
    common = "temperature = 0.0\nseed = 0\nmax_new_tokens = 9\npreset = 'story'\n"
    assert out.split("\n") == (
        f"{first}\n{second}\n{second}\n{story}\nOnce upon a timeA hen //b\nc\n{common}top_k = 5\n"
        f"{common}deterministic\nbalanced\nstory\ncode\n\nOnce upon a timeA hen //b\nc\n"
    ).split("\n")
    assert (status, err) == (0, "")


def test_a_dialogue_through_a_pipe(run_chat: RunChat, model: gpt2fast.Model) -> None:
    """Catches replies with the names, or with spaces around them."""
    _, out, _ = run_chat(
        "Hello\n//x\n", "--you", "King", "--prompt", "A king.", "--temperature", "0"
    )
    options: Any = {"temperature": 0, "max_new_tokens": 9, "stop": ["\nKing:", "\nBot:"]}
    first = model.generate("A king.\nKing: Hello\nBot:", **options).text
    text = f"A king.\nKing: Hello\nBot: {first.strip()}\nKing: /x\nBot:"
    assert out == f"{first.lstrip()}\n{model.generate(text, **options).text.lstrip()}\n"


@pytest.mark.parametrize(
    ("lines", "arguments", "status", "message"),
    [
        ("/nonsense", [], 2, "there is no command /nonsense; /help lists them"),
        ("/s", [], 2, "there is no command /s;"),
        ("/", [], 2, "there is no command /;"),
        ("/retry", [], 2, "does not end with the model's words"),
        ("/retry 3", [], 2, "/retry takes no argument, got '3'"),
        ("/undo", [], 2, "nothing to undo"),
        ("/edit x", [], 2, "nothing to edit"),
        ("/edit", ["--prompt", "x"], 2, "/edit needs the new TEXT here"),
        ("/save", [], 2, "name a file"),
        ("/save no/such/folder/x", [], 1, "does not exist"),
        ("/load no-such-file", [], 1, "No such file"),
        ("/set top-k", [], 2, "expected one argument"),
        ("/set top-k x", [], 2, "invalid int value: 'x'"),
        ("/set top_k -1", [], 2, "top_k is -1; allowed"),
        ("/set n 3", [], 2, "unrecognized arguments"),
        ("/set help", [], 2, "unrecognized arguments"),
        ("/set temperature 0\n/set mirostat-tau 3", [], 2, "temperature is 0; allowed"),
        ("/unset top_k", [], 2, "top_k was not set"),
        ("/unset", [], 2, "no option was not set"),
        ("/preset x", [], 2, "preset is 'x'; allowed: None, deterministic"),
        ("/set stop-tokens 999999\nx", [], 2, "stop_tokens is 999999"),
        ("", ["--you", "A", "--bot", "A"], 2, "two different ones"),
        ("", ["--prompt", "x", "--file", "y"], 2, "give --prompt or --file, not both"),
        ("", ["--file", "no-such-file"], 1, "No such file"),
        ("", ["--top-k", "-1"], 2, "top_k is -1"),
    ],
)
def test_bad_lines(
    run_chat: RunChat, lines: str, arguments: Any, status: int, message: str
) -> None:
    """Catches a mistake in a script that goes unnoticed, or is told as something else."""
    found, _, err = run_chat(lines, *arguments)
    assert (found, err.count("\n")) == (status, 1)
    assert err.startswith("gpt2fast: error: ") and message in err


def test_help(run_chat: RunChat) -> None:
    """Catches a command that nobody is told of."""
    _, out, _ = run_chat("/help")
    assert [f"/{name} " in out for name in COMMANDS] == [True] * len(COMMANDS)
