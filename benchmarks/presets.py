"""How much of what each preset writes repeats itself, beside the text of real books.

    GPT2FAST_TEST_DATA=... python -m benchmarks.presets [--model tales] [--texts 60] [--candidates]

Prompts are the beginnings of paragraphs of books that the model was not trained on; each is
continued by 200 tokens. A column is the mean over the texts, or taken over all of them:

- rep-2, rep-4: 1 - different n-grams / n-grams of a text (Welleck et al., 2019), in percent
- distinct-1, distinct-2: different n-grams / n-grams of all texts together (Li et al., 2016)
- bits: surprise of a token under the model itself, at temperature 1

The row of the books is what a preset should be near; less repetition than theirs is not better.
`--candidates` prints the settings that the presets were chosen from.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpt2fast
from gpt2fast.presets import PRESETS

N_PROMPT, N_NEW = 24, 200
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "deterministic": [
        {"temperature": 0, **rule}
        for rule in (
            {"repetition_penalty": 1.1},
            {"repetition_penalty": 1.2},
            {"repetition_penalty": 1.3, "penalty_window": 128},
            {"no_repeat_ngram": 4},
            {"repetition_penalty": 1.2, "no_repeat_ngram": 5},
            {"dry_multiplier": 2.0},
            {"repetition_penalty": 1.2, "dry_multiplier": 0.8},
            {"frequency_penalty": 0.3, "penalty_window": 128},
        )
    ],
    "balanced": [
        {"temperature": temperature, "top_p": top_p, "repetition_penalty": penalty}
        for temperature, top_p in ((0.7, 0.9), (0.8, 0.9), (0.8, 0.95))
        for penalty in (1.0, 1.05, 1.1)
    ],
    "story": [
        {"temperature": 1.0, "top_p": 1.0, "min_p": least, **rule}
        for least in (0.02, 0.05)
        for rule in ({}, {"repetition_penalty": 1.05}, {"repetition_penalty": 1.1})
    ]
    + [{"temperature": 1.0, "top_p": 1.0, "min_p": 0.02, "dry_multiplier": 0.8}]
    + [{"temperature": 1.0, "mirostat_tau": tau} for tau in (3.0, 4.0)],
    "code": [
        {"temperature": temperature, "top_p": 0.95, **rule}
        for temperature in (0.4, 0.5, 0.6)
        for rule in (
            {},
            {"no_repeat_ngram": 10},
            {"dry_multiplier": 0.8, "dry_allowed_length": 6, "dry_breakers": ()},
        )
    ],
}


def repetition(tokens: Sequence[int], n: int) -> float:
    """Return the share of a text's n-grams that stand in it before."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams)


def distinct(texts: Sequence[Sequence[int]], n: int) -> float:
    """Return the share of different n-grams among those of all texts."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams)


def passages(model: gpt2fast.Model, n_texts: int) -> list[list[int]]:
    """Return the ids of passages of books, prompt and true continuation."""
    folder = Path(os.environ["GPT2FAST_TEST_DATA"], "data", "stories-valid")
    found = []
    for path in sorted(folder.glob("*.txt")):
        paragraphs = path.read_text(encoding="utf-8").split("\n\n")
        for i in range(len(paragraphs)):
            ids = model.tokenizer.encode("\n\n".join(paragraphs[i : i + 40])[:4000])
            if len(paragraphs[i]) >= 120 and len(ids) >= N_PROMPT + N_NEW:
                found.append(ids[: N_PROMPT + N_NEW])
    return found[:: max(len(found) // n_texts, 1)][:n_texts]


def surprise(model: gpt2fast.Model, passage: list[int]) -> float:
    """Return the bits of a token of the continuation."""
    rows = model.logits(passage[:-1])[N_PROMPT - 1 :].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = rows[np.arange(N_NEW), passage[N_PROMPT:]]
    return float((np.log(np.exp(rows).sum(axis=1)) - chosen).mean()) / math.log(2)


def row(name: str, texts: Sequence[Sequence[int]], bits: float) -> str:
    """Return a line of the table."""
    texts = [text for text in texts if len(text) >= 4]
    mean = [100 * float(np.mean([repetition(text, n) for text in texts])) for n in (2, 4)]
    kinds = [distinct(texts, n) for n in (1, 2)]
    return (
        f"| {name} | {mean[0]:.1f} | {mean[1]:.1f} | {kinds[0]:.3f} | {kinds[1]:.3f} | {bits:.2f} |"
    )


def measured(model: gpt2fast.Model, name: str, prompts: list[list[int]], **options: Any) -> str:
    """Return the line of the texts that these options write."""
    done = model.generate(
        prompts, seed=1, max_new_tokens=N_NEW, ignore_eot=True, logprobs=0, **options
    )
    logprobs = [entry.logprob for text in done for entry in text.logprobs or ()]
    return row(name, [text.tokens for text in done], -float(np.mean(logprobs)) / math.log(2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Repetition of the presets.")
    parser.add_argument("--model", default="tales")
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--candidates", action="store_true")
    given = parser.parse_args(arguments)
    with gpt2fast.load(given.model) as model:
        books = passages(model, given.texts)
        prompts = [passage[:N_PROMPT] for passage in books]
        print("| | rep-2 | rep-4 | distinct-1 | distinct-2 | bits |\n|---|---|---|---|---|---|")
        bits = float(np.mean([surprise(model, passage) for passage in books]))
        print(row("books", [passage[N_PROMPT:] for passage in books], bits), flush=True)
        print(measured(model, "temperature=0", prompts, temperature=0), flush=True)
        print(measured(model, "no preset", prompts), flush=True)
        for preset in PRESETS:
            print(measured(model, preset, prompts, preset=preset), flush=True)
            for options in CANDIDATES[preset] if given.candidates else ():
                label = ", ".join(f"{key}={value}" for key, value in options.items())
                print(measured(model, label, prompts, **options), flush=True)


if __name__ == "__main__":
    main()
