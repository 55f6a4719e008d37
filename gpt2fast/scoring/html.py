"""A score as HTML: the text coloured by the ranks of its tokens, as GLTR does.

GLTR: Gehrmann, Strobelt and Rush, "GLTR: Statistical Detection and Visualization of Generated
Text", 2019 (arXiv:1906.04043). What a model writes itself is nearly all green.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from gpt2fast.scoring.score import UNKNOWN, Score

# The first colour whose limit is above the rank; legible under black text.
_COLOURS = ((10, "#b8e0b0", "top 10"), (100, "#f5e79e", "top 100"), (1000, "#f2b8ae", "top 1000"))
_REST = ("#d3b8e8", "the rest")
_NONE = "#e4e4e4"
_STYLE = "color:#000;border-radius:2px;padding:0 1px;background:"


def fragment(score: Score) -> str:
    """Return an element that shows the text, a legend, and each token's numbers on hovering."""
    spans = "".join(_span(score, group) for group in groups(score))
    return (
        '<div style="background:#fff;color:#000;padding:8px;font-family:sans-serif">'
        f"{_legend(score)}"
        '<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;'
        f'font-family:monospace">{spans}</div></div>'
    )


def page(score: Score, title: str) -> str:
    """Return a whole document with the fragment."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n</head>\n"
        f'<body style="margin:0;background:#fff">\n{fragment(score)}\n</body>\n</html>\n'
    )


def groups(score: Score) -> Iterator[range]:
    """Yield the tokens that are shown as one: alone, or those that a character is made of."""
    n, begin = len(score.tokens), 0
    for i in range(n):
        if not score.pieces or score.pieces[i] or i == n - 1:
            yield range(begin, i + 1)
            begin = i + 1


def colour(rank: int) -> str:
    """Return the background of a rank."""
    if rank == UNKNOWN:
        return _NONE
    return next((shade for limit, shade, _ in _COLOURS if rank < limit), _REST[0])


def _span(score: Score, group: range) -> str:
    """Return the tokens of a group as one element, coloured by the highest rank among them."""
    ranks = [int(score.ranks[i]) for i in group]
    if score.pieces:
        text = escape("".join(score.pieces[i] for i in group))
    else:
        text = f"{score.tokens[group[0]]} "
    # A line that ends in colour shows that a token did.
    text = text.replace("\n", "↵\n")
    title = escape("\n".join(_numbers(score, i) for i in group))
    title = title.replace("\n", "&#10;")
    return f'<span style="{_STYLE}{colour(max(ranks))}" title="{title}">{text}</span>'


def _numbers(score: Score, i: int) -> str:
    """Return what is to be said of a token."""
    token, rank = score.tokens[i], int(score.ranks[i])
    if rank == UNKNOWN:
        return f"token {token}: nothing before it"
    likeliest = ""
    if rank:
        likeliest = f", likeliest {score.likeliest[i]}"
        if score.likeliest_pieces:
            likeliest += f" {score.likeliest_pieces[i]!r}"
    return (
        f"token {token}: rank {rank}, probability {math.exp(score.logprobs[i]):.3g}, "
        f"entropy {score.entropies[i]:.2f} nats{likeliest}"
    )


def _legend(score: Score) -> str:
    """Return how many tokens have which colour, and the perplexity."""
    shades = [colour(int(rank)) for rank in score.ranks]
    kinds = [*((shade, label) for _, shade, label in _COLOURS), _REST]
    counts = (
        f'<span style="{_STYLE}{shade}">{label}: {shades.count(shade)}</span>'
        for shade, label in kinds
    )
    known = "" if math.isnan(score.perplexity) else f", perplexity {score.perplexity:.4g}"
    total = f"{len(score.tokens)} tokens{known}"
    return f'<div style="font-size:small;margin-bottom:6px">{" ".join(counts)} {total}</div>'
