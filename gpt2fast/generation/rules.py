"""Options made ready for the native loop: rules as arrays, and Python's logits processors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast._generate import Rules
from gpt2fast.ranges import integer, out_of_range
from gpt2fast.sampling import LogitsProcessor, Options

if TYPE_CHECKING:
    from gpt2fast.engine import Engine

_NO_RULES = {
    "logit_bias": {},
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "dry_multiplier": 0,
    "no_repeat_ngram": 0,
    "bad_tokens": (),
    "forced_tokens": (),
    "min_new_tokens": 0,
    "logits_processor": (),
}
_AS_THEY_ARE = (
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "penalty_window",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "no_repeat_ngram",
    "min_new_tokens",
)


def native_rules(engine: Engine, options: Options) -> Rules | None:
    """Return what changes the logits; None if nothing does.

    Raises ValueError for token ids outside the vocabulary and rules that leave no token.
    """
    if all(getattr(options, name) == none for name, none in _NO_RULES.items()):
        return None
    n_vocab = engine.config.n_vocab
    bad = [list(tokens) for tokens in _bad_tokens(options)]
    named = {
        "logit_bias": list(options.logit_bias),
        "bad_tokens": [token for tokens in bad for token in tokens],
        "forced_tokens": list(options.forced_tokens),
    }
    for name, tokens in named.items():
        for token in tokens:
            integer(name, token, 0, n_vocab - 1)
    never = {tokens[0] for tokens in bad if len(tokens) == 1}
    never |= {token for token, bias in options.logit_bias.items() if bias == -math.inf}
    if len(never) == n_vocab:
        raise ValueError(f"bad_tokens and logit_bias rule out all {n_vocab} tokens; allowed: fewer")
    breakers = _breakers(engine, options.dry_breakers if options.dry_multiplier else ())
    return Rules(
        n_vocab,
        bias_tokens=np.array(named["logit_bias"], np.int32),
        biases=np.array(list(options.logit_bias.values()), np.float32),
        dry_breakers=breakers.view(np.uint8),
        bad_tokens=np.array(named["bad_tokens"], np.int32),
        bad_starts=np.array(list(accumulate(map(len, bad), initial=0)), np.int32),
        forced_tokens=np.array(named["forced_tokens"], np.int32),
        **{name: getattr(options, name) for name in _AS_THEY_ARE},
    )


def _bad_tokens(options: Options) -> Sequence[Sequence[int]]:
    checked: Any = options.bad_tokens  # as Options leaves them
    found: Sequence[Sequence[int]] = checked
    return found


def _breakers(engine: Engine, breakers: Sequence[str | int]) -> NDArray[np.bool_]:
    """Return which tokens are breakers: ids that are given, and tokens that contain a text."""
    mask = np.zeros(engine.config.n_vocab, np.bool_)
    for breaker in breakers:
        if isinstance(breaker, int):
            mask[integer("dry_breakers", breaker, 0, mask.size - 1)] = True
            continue
        tokens = _containing(breaker, *engine.token_table())
        if not tokens:
            raise out_of_range("dry_breakers", breaker, "texts that a token contains, or token ids")
        mask[tokens] = True
    return mask


def _containing(text: str, table: bytes, offsets: bytes) -> list[int]:
    """Return the tokens that contain the text."""
    from gpt2fast.tokenizer import well_formed

    sought, starts = well_formed(text).encode(), np.frombuffer(offsets, np.uint32)
    found, at = [], table.find(sought)
    while at >= 0:
        token = int(np.searchsorted(starts, at, "right")) - 1
        if at + len(sought) <= starts[token + 1]:
            found.append(token)
        at = table.find(sought, at + 1)
    return found


class Processing:
    """Calls the logits processors of a text; the native loop calls this."""

    def __init__(self, processors: Sequence[LogitsProcessor], tokens: NDArray[np.int32]) -> None:
        """Take the functions, and the array that the text is written to."""
        self._processors, self._tokens = processors, tokens

    def __call__(self, n_tokens: int, row: memoryview) -> None:
        """Let them change the row of logits after the first n_tokens.

        They get arrays of their own, which they may keep. Raises what they raise (RuntimeError for
        StopIteration, which would end a stream without a word, and no asyncio task ever), and
        ValueError for logits that cannot be drawn from.
        """
        logits = np.array(row)
        for processor in self._processors:
            try:
                result = processor(self._tokens[:n_tokens].copy(), logits)
            except StopIteration as error:
                raise RuntimeError("logits_processor raised StopIteration") from error
            logits = _checked(logits if result is None else result, logits.size)
        np.asarray(row)[:] = logits


def _checked(logits: object, n_vocab: int) -> NDArray[np.float32]:
    allowed = f"None, or a float32 array of shape ({n_vocab},)"
    if not isinstance(logits, np.ndarray):
        raise ValueError(f"logits_processor returned {type(logits).__name__}; allowed: {allowed}")
    if logits.dtype != np.float32 or logits.shape != (n_vocab,):
        got = f"{logits.dtype} of shape {logits.shape}"
        raise ValueError(f"logits_processor returned {got}; allowed: {allowed}")
    wrong = np.flatnonzero(~(logits < np.inf))
    if wrong.size:
        raise ValueError(
            f"logits_processor made the logit of token {wrong[0]} {logits[wrong[0]]}; allowed: "
            "finite numbers, or -inf for a token that must not be drawn"
        )
    return logits
