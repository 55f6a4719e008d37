"""Options at random, many at once, often at their bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpt2fast

VALUES: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 1e-6, 0.7, 1.0, 1e6),
    "top_k": (1, 3, 50, 5000),
    "typical_p": (1e-300, 0.5, 0.95),
    "top_p": (1e-300, 0.5, 0.95, 1.0),
    "min_p": (1e-9, 0.1, 1.0),
    "mirostat_tau": (1e-9, 2.0, 100.0),
    "mirostat_eta": (0, 1),
    "repetition_penalty": (0.01, 0.9, 1.2, 100.0),
    "presence_penalty": (-100.0, 0.5, 100.0),
    "frequency_penalty": (-100.0, 0.5, 100.0),
    "penalty_window": (1, 5, 2**31 - 1),
    "no_repeat_ngram": (1, 2, 5, 2**31 - 1),
    "dry_multiplier": (0.8, 100.0),
    "dry_base": (1.0, 100.0),
    "dry_allowed_length": (1, 3, 2**31 - 1),
    "dry_breakers": ((), "e", (5, " the")),
    "logit_bias": ({11: -100.0, 12: 100.0}, {11: -np.inf, 4095: 1000.0, 0: -1000.0}),
    "bad_tokens": ([11], [[5, 6], [11, 12], [6]], list(range(2000, 4095))),
    "forced_tokens": ([4095], [11, 12, 11], list(range(8))),
    "logits_processor": (lambda _, logits: -logits, [lambda _, __: None] * 2),
    "preset": ("deterministic", "balanced", "story", "code"),
    "logprobs": (0, 3, 1000),
    "stop": ("e", [" ", "the"]),
    "stop_tokens": ([11], [11, 4000]),
    "min_new_tokens": (1, 6, 10),
    "ignore_eot": (True,),
}


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


def outcome(call: Any) -> Any:
    """What it returns, or what its ValueError says."""
    try:
        return call()
    except ValueError as error:
        return str(error)


def test_any_mixture_is_obeyed_or_refused(model: gpt2fast.Model) -> None:
    """Catches a mixture that crashes, hangs or has a memory, in 250 of up to eight options.

    A text, the same in a batch, as a stream, as the first of two samples and in a session are one.
    """
    rng = np.random.default_rng(8)
    texts = 0
    for case in range(250):
        names = rng.choice(list(VALUES), rng.integers(1, 9), replace=False)
        options: dict[str, Any] = {
            str(name): VALUES[name][int(rng.integers(len(VALUES[name])))] for name in names
        }
        options |= {"seed": case, "max_new_tokens": 10}
        prompt = rng.integers(0, 40, int(rng.integers(1, 30))).tolist()
        alone = outcome(lambda p=prompt, o=options: model.generate(p, **o))
        batch = outcome(lambda p=prompt, o=options: model.generate([[1], p, [2]], **o))
        session = model.session()
        session.append(prompt)
        assert outcome(lambda s=session, o=options: s.generate(**o)) == alone, options
        stream = outcome(lambda p=prompt, o=options: model.stream(p, **o))
        if isinstance(alone, str):
            ended = stream if isinstance(stream, str) else outcome(lambda s=stream: list(s))
            assert ended == alone, options
            continue
        texts += 1
        assert isinstance(batch, str) or batch[1] == alone, options
        first, _ = model.generate(prompt, n=2, **options)
        assert first == alone, options
        chunks = list(stream)
        assert [chunk.token for chunk in chunks] == alone.tokens, options
        assert "".join(map(str, chunks)) == alone.text
        assert len(alone.tokens) >= min(options.get("min_new_tokens", 1), 10) or (
            4095 in alone.tokens
        )
        if "logprobs" in options:
            assert [entry.token for entry in alone.logprobs] == alone.tokens
    assert texts > 120
