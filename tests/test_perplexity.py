"""`Model.perplexity`: the recipe of Hugging Face's page, and bad input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2fast
from gpt2fast.model import Model
from gpt2fast.scoring import Request, windows

N_TOKENS = 1100  # of WikiText-2: some windows of 512, the last one short


@pytest.fixture(scope="module")
def model(test_data: Path) -> Iterator[Model]:
    source = test_data / "models" / "tales"
    with gpt2fast.load(source, dtype="float32", threads=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tokens(test_data: Path, model: Model) -> list[int]:
    text = (test_data / "data" / "eval" / "wiki.test.raw").read_text(encoding="utf-8")[:20_000]
    return model.tokenizer.encode(text)[:N_TOKENS]


@pytest.fixture(scope="module")
def oracle(test_data: Path) -> Any:
    """transformers' model of the same checkpoint."""
    pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    source = str(test_data / "models" / "tales")
    return transformers.GPT2LMHeadModel.from_pretrained(source).eval()


def huggingface_perplexity(oracle: Any, tokens: list[int], stride: int) -> float:
    """The perplexity of "Perplexity of fixed-length models" (transformers 4.56 documentation).

    Windows of n_positions tokens, `stride` apart; labels are set to -100 where an earlier window
    had them; the model's loss, a mean, counts once for each label but one.
    """
    import torch

    ids = torch.tensor([tokens])
    total, count, last_end = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + oracle.config.n_positions, len(tokens))
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, : -(end - last_end)] = -100
        with torch.inference_mode():
            loss = oracle(window, labels=labels).loss
        counted = int((labels != -100).sum()) - 1
        total += float(loss) * counted
        count += counted
        last_end = end
        if end == len(tokens):
            break
    return math.exp(total / count)


@pytest.mark.parametrize("stride", [128, 256, 512])
def test_recipe_of_huggingface(model: Model, oracle: Any, tokens: list[int], stride: int) -> None:
    """Catches windows, weights or first tokens that are not those of the page."""
    want = huggingface_perplexity(oracle, tokens, stride)
    assert model.perplexity(tokens, stride=stride) == pytest.approx(want, rel=1e-4)


def test_windows() -> None:
    """Catches a window that begins or ends elsewhere, and a token that is scored twice or never."""
    tokens = [*range(10, 21)]
    assert list(windows(tokens, 6, 4)) == [
        Request([], tokens[:6]),
        Request(tokens[4:6], tokens[6:10]),
        Request(tokens[8:10], tokens[10:]),
    ]
    assert list(windows(tokens, 6, 6)) == [Request([], tokens[:6]), Request([], tokens[6:])]
    assert list(windows(tokens, 11, 2)) == [Request([], tokens)]


def test_short_text_has_the_perplexity_of_its_score(model: Model, tokens: list[int]) -> None:
    """Catches a single window that is counted in another way than a score."""
    text = model.tokenizer.decode(tokens[:300])
    want = model.score(text).perplexity
    assert model.perplexity(text) == pytest.approx(want, rel=1e-6)


def test_default_stride_and_progress(model: Model, tokens: list[int]) -> None:
    """Catches another default than 512, and progress that does not end."""
    told: list[tuple[int, int]] = []
    got = model.perplexity(tokens, progress=lambda *now: told.append(now))
    assert got == model.perplexity(tokens, stride=512)
    assert told == [(512, N_TOKENS), (1024, N_TOKENS), (1100, N_TOKENS)]


def test_last_window_of_one_token(model: Model, tokens: list[int]) -> None:
    """Catches a division by the number of tokens that a window does not predict."""
    alone = model.perplexity(tokens[:1024], stride=512)
    assert model.perplexity(tokens[:1025], stride=512) == alone
    assert not np.isnan(model.perplexity(tokens[:513], stride=256))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "two tokens at least; the text has 0"),
        ([5], {}, "two tokens at least; the text has 1"),
        ([], {}, "the list of token ids is empty"),
        ([5, 4096], {}, "token 1 is 4096"),
        (["a", "b"], {}, "flat sequence of integers"),
        ("a b", {"stride": 0}, "stride is 0; allowed: an integer from 2 to 512"),
        ("a b", {"stride": 1}, "stride is 1"),
        ("a b", {"stride": 513}, "stride is 513"),
        ("a b", {"stride": 2.0}, "stride is 2.0"),
        ("a b", {"stride": True}, "stride is True"),
    ],
)
def test_bad_input(model: Model, text: Any, options: dict[str, Any], message: str) -> None:
    """Catches input that is taken though it has no perplexity, or an error that names nothing."""
    with pytest.raises(ValueError, match=message):
        model.perplexity(text, **options)
