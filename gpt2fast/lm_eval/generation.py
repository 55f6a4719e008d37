"""How the harness's options of generation become those of `Model.generate`."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from gpt2fast.sampling import GenerateOptions, Options
from gpt2fast.tokenizer import Tokenizer

RENAMED = {"no_repeat_ngram_size": "no_repeat_ngram"}
SET_HERE = {"max_new_tokens", "stop", "seed", "cancel", "logits_processor"}
ALLOWED = set(GenerateOptions.__annotations__) - SET_HERE | {*RENAMED, "do_sample"}
DRAWN = {"top_k": 50, "top_p": 1.0}  # what transformers does unless asked otherwise


@dataclass(frozen=True)
class Manner:
    """How to answer: options of `generate`, and the stop strings, which end the answer."""

    options: dict[str, Any]
    until: list[str]

    @classmethod
    def from_harness(cls, given: dict[str, Any], max_gen_toks: int, end: str) -> Manner:
        """Read a task's `generation_kwargs`; `end` is the text that always ends an answer.

        Raises ValueError for one that `generate` does not have, or a value out of range.
        """
        known: dict[str, Any] = dict(normalize_gen_kwargs(given, max_gen_toks))
        until = handle_stop_sequences(known.pop("until"), eos=end)
        options = {"max_new_tokens": known.pop("max_gen_toks"), "stop": until}
        unknown = sorted(set(known) - ALLOWED)
        if unknown:
            raise ValueError(
                f"generation_kwargs has {unknown[0]!r}; allowed: {', '.join(sorted(ALLOWED))}"
            )
        drawn, temperature = known.pop("do_sample"), known.pop("temperature", 0.0)
        options |= {"temperature": temperature, **DRAWN} if drawn else {"temperature": 0.0}
        options |= {RENAMED.get(name, name): value for name, value in known.items()}
        Options(**options)
        return cls(options, until)

    @property
    def n_new(self) -> int:
        """How many tokens an answer has at most."""
        return int(self.options["max_new_tokens"])

    def text(self, tokens: Sequence[int], tokenizer: Tokenizer) -> str:
        """Return the answer: what was written, up to the first of the stop strings."""
        special = set(tokenizer.special_tokens.values())
        shown = [i for i in tokens if i not in special and i < tokenizer.n_vocab]
        text: str = postprocess_generated_text(tokenizer.decode(shown), self.until, None)
        return text


def groups(requests: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[int, list[int]]]:
    """Return (repetition, indices) of requests that may be written by one call.

    They have the same options; the second of two equal requests is repetition 1, for it is to be
    drawn anew.
    """
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, (context, given) in enumerate(requests):
        manner = json.dumps(given, sort_keys=True, default=repr)
        found[manner, seen[context, manner]].append(i)
        seen[context, manner] += 1
    return [(repetition, indices) for (_, repetition), indices in found.items()]
