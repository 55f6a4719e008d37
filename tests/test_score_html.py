"""Scores as HTML, and `gpt2fast score`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint

import gpt2fast
from gpt2fast import cli
from gpt2fast.config import Config
from gpt2fast.model import Model
from gpt2fast.scoring.html import colour, fragment, page

HOSTILE = '<script>alert("x")</script> & \' "quoted"\n\n  two  spaces é🐈 </span>'
SHADES = ("#b8e0b0", "#f5e79e", "#f2b8ae", "#d3b8e8", "#e4e4e4")


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with gpt2fast.load("tales", threads=2) as loaded:
        yield loaded


class Reader(HTMLParser):
    """The elements of a document that close properly, and the coloured ones' texts and titles."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.shades: list[str] = []
        self._open: list[str] = []
        self.feed(document)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag == "meta":
            return
        self._open.append(tag)
        found = dict(attrs)
        if "title" in found:
            self.titles.append(str(found["title"]))
            self.shades.append(str(found["style"]).rpartition("background:")[2])
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.titles and self._open[-1:] == ["span"]:
            self.texts[-1] += data


def test_text_is_shown_and_nothing_else(model: Model) -> None:
    """Catches text that becomes markup, is lost, or changed beyond the mark of a newline."""
    score = model.score(HOSTILE, bos=True)
    shown = Reader(fragment(score))
    assert "".join(shown.texts).replace("↵", "") == HOSTILE
    assert set(shown.names) == {"div", "span"}
    assert shown.names.count("span") == len(shown.texts) + 4  # and the legend


def test_numbers_are_escaped(model: Model) -> None:
    """Catches a likeliest token that closes the attribute it stands in."""
    found = model.score("A zygote")
    score = dataclasses.replace(found, likeliest_pieces=['"><b>\n'] * len(found.tokens))
    shown = Reader(fragment(score))
    assert set(shown.names) == {"div", "span"}
    assert shown.titles[-1].endswith(f"likeliest {score.likeliest[-1]} '\"><b>\\n'")


def test_title_is_escaped(model: Model) -> None:
    """Catches a model's name that becomes markup."""
    document = page(model.score("A king"), "<b>&\"'")
    assert "<b>" not in document
    assert Reader(document).names[:4] == ["html", "head", "meta", "title"]


def test_characters_of_several_tokens_are_one(model: Model) -> None:
    """Catches half characters, and numbers of a token that are not shown anywhere."""
    score = model.score("é🐈", bos=True)
    assert len(score.tokens) > 2 and "" in score.pieces
    shown = Reader(fragment(score))
    assert shown.texts == ["é", "🐈"]
    assert sum(title.count("rank") for title in shown.titles) == len(score.tokens)
    cut = Reader(fragment(model.score(score.tokens[:-1], bos=True)))  # ends within a character
    assert "".join(cut.texts) == "é\ufffd"


def test_colours_are_those_of_ranks(model: Model) -> None:
    """Catches a limit that is off by one, and a first token coloured as if it had a rank."""
    limits = (0, 9, 10, 99, 100, 999, 1000, 50256, -1)
    expected = [SHADES[i] for i in (0, 0, 1, 1, 2, 2, 3, 3, 4)]
    assert [colour(rank) for rank in limits] == expected
    score = model.score("Once upon a time there was a zygote.")
    shown = Reader(fragment(score))
    assert shown.shades == [colour(int(rank)) for rank in score.ranks]
    assert shown.titles[0] == f"token {score.tokens[0]}: nothing before it"
    assert f"rank {score.ranks[3]}, probability {np.exp(score.logprobs[3]):.3g}" in shown.titles[3]
    assert score._repr_html_() == fragment(score)


def test_model_without_tokenizer(tmp_path: Path) -> None:
    """Catches scores of ids that need a tokenizer to be made, shown or printed."""
    config = hf_config(n_layer=1)
    shapes = Config.from_huggingface(config).tensor_shapes()
    write_checkpoint(tmp_path, config, random_tensors(shapes))
    with gpt2fast.load(tmp_path) as bare:
        score = bare.score([5, 6, 7], context="")
        assert score.pieces == score.likeliest_pieces == []
        assert Reader(fragment(score)).texts == ["5 ", "6 ", "7 "]
        with pytest.raises(ValueError, match="no tokenizer"):
            bare.score("text")


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `gpt2fast score` prints."""
    assert cli.main(["score", "--threads", "1", *arguments]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out


def test_json(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches numbers that are not the library's, and NaN, which JSON has not."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    out = command(capfd, "--json", HOSTILE, "--context", "A cat")
    found: dict[str, Any] = json.loads(out, parse_constant=refuse)
    want = model.score(HOSTILE, context="A cat")
    assert found["tokens"] == want.tokens and found["pieces"] == want.pieces
    assert found["logprobs"] == want.logprobs.tolist() and found["ranks"] == want.ranks.tolist()
    assert found["entropies"] == want.entropies.tolist()
    assert found["likeliest"] == want.likeliest.tolist()
    assert found["likeliest_pieces"] == want.likeliest_pieces
    assert (found["logprob"], found["perplexity"]) == (want.logprob, want.perplexity)
    first = json.loads(command(capfd, "--json", "A"), parse_constant=refuse)
    nothing = [first[name] for name in ("logprobs", "ranks", "entropies", "likeliest")]
    assert nothing == [[None]] * 4 and first["perplexity"] is None
    with_bos = json.loads(command(capfd, "--json", "--bos", "A"))
    assert with_bos["logprobs"] == model.score("A", bos=True).logprobs.tolist()


def test_html_and_table(model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a page that is not one, a table that lacks a token, and a file's last newline."""
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time\n")
    document = command(capfd, "--html", "--file", str(path))
    assert document == page(model.score("Once upon a time"), "tales")
    lines = command(capfd, "Once upon a time").splitlines()
    score = model.score("Once upon a time")
    assert len(lines) == 1 + 4 + 1
    assert lines[1].split() == ["-", "-", "-", str(score.tokens[0]), '"Once"']
    assert lines[2].split()[1:] == [
        str(score.ranks[1]),
        f"{score.entropies[1]:.4f}",
        str(score.tokens[1]),
        '"',
        'upon"',
    ]
    assert lines[-1] == f"perplexity {score.perplexity:.6g}"


def test_perplexity_of_a_file(
    model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a corpus that loses its last newline, or a stride that is not passed on."""
    path = tmp_path / "text.txt"
    text = "The old king had a daughter.\n" * 100
    path.write_text(text, newline="")
    out = command(capfd, "--perplexity", "--stride", "200", "--file", str(path))
    assert float(out) == model.perplexity(text, stride=200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--stride", "5"], "--stride goes with --perplexity"),
        (["x", "--perplexity", "--bos"], "--perplexity takes neither --context nor --bos"),
        (["x", "--perplexity", "--context", "y"], "neither"),
        (["x y", "--perplexity", "--stride", "1"], "stride is 1; allowed"),
        (["x", "--perplexity"], "two tokens at least"),
        ([""], 'the text to score is ""'),
        (["a " * 600], "but at most 513 together can be scored at once"),
        (["x", "--file", "y"], "give a text or --file, not both"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a bad option that is ignored, or reported otherwise than in one line."""
    assert cli.main(["score", "--threads", "1", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_one_way_to_show(capfd: pytest.CaptureFixture[str]) -> None:
    """Catches two outputs at once."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", "x", "--json", "--html"])
    assert ended.value.code == 2 and "--html" in capfd.readouterr().err
