"""The sections of the report that are not about models' speed: quality, and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]


def quality_tables(rows: Rows) -> Iterator[str]:
    """Yield one table for each model."""
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        reference = next((row for row in own if "failed" not in row), None)
        yield ""
        if reference is None:
            yield f"## Quality, {model}: nothing to compare with: {own[0]['failed']}"
            continue
        trained = reference["positions"] > 64
        yield f"## Quality, {model}"
        yield ""
        yield (
            f"{reference['positions']} positions; the logits of the first engine have a standard "
            f"deviation of {reference['deviation']:.3f}."
        )
        yield ""
        headers = ["engine", "logit rms error", "same most likely token"]
        headers += ["perplexity", "more than float32"] * trained
        yield f"| {' | '.join(headers)} |"
        yield f"|{'---|' * len(headers)}"
        for row in own:
            yield f"| {' | '.join(_columns(row, reference, trained))} |"


def _columns(row: dict[str, Any], reference: dict[str, Any], trained: bool) -> list[str]:
    if "failed" in row:
        return [row["label"], " ".join(row["failed"].split())[:120], *["-"] * (1 + 2 * trained)]
    columns = [row["label"], f"{row['rms_error']:.2g}", f"{row['same_token']:.1%}"]
    if trained:
        more = row["perplexity"] / reference["perplexity"] - 1
        columns += [f"{row['perplexity']:.3f}", f"{more:+.3%}"]
    return columns


def tokenizer_table(rows: Rows) -> Iterator[str]:
    """Yield MB/s, one row per engine and one column per text."""
    yield ""
    yield "## Tokenizers, MB/s on one thread"
    yield ""
    if "failed" in rows[0]:
        yield f"not measured: {rows[0]['failed']}"
        return
    texts = [f"{row['text']} ({row['bytes'] / 1e6:.1f} MB)" for row in rows]
    yield f"| GPT-2's vocabulary | {' | '.join(texts)} |"
    yield f"|{'---|' * (1 + len(rows))}"
    for name in rows[0]["rates"]:
        rates = (f"{row['rates'][name]:.1f}" for row in rows)
        yield f"| {name} | {' | '.join(rates)} |"
