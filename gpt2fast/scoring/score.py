"""What scoring returns: how likely a text is, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gpt2fast.tokenizer import Tokenizer

UNKNOWN = -1  # rank and likeliest token where nothing came before


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """How likely the model finds each token of a text after those before it.

    All have one entry for each of `tokens`; at temperature 1, before any option:

    - `logprobs`: the natural logarithm of the token's probability, float32, the same bits as in
      `Completion.logprobs`
    - `ranks`: how many tokens are likelier, or as likely and of a lower id; 0 is the token that
      greedy decoding picks
    - `entropies`: of the whole prediction, in nats: the surprise to expect, as -logprob is the one
      that came
    - `likeliest`: the id of the likeliest token, that of rank 0
    - `pieces`: the text of the token; they join to the whole text. A character of several tokens
      is in the piece of the last one
    - `likeliest_pieces`: the text of the likeliest token, U+FFFD for part of a character

    A first token that nothing stands before has no prediction: NaN, -1, NaN, -1 and "". Pieces are
    empty lists if the model has no tokenizer.
    """

    tokens: list[int]
    logprobs: NDArray[np.float32]
    ranks: NDArray[np.int32]
    entropies: NDArray[np.float32]
    likeliest: NDArray[np.int32]
    pieces: list[str]
    likeliest_pieces: list[str]

    @property
    def logprob(self) -> float:
        """The sum of the log-probabilities that are known: that of the text as a whole."""
        return float(np.nansum(self.logprobs, dtype=np.float64))

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would write every token whose rank is known."""
        return not (self.ranks > 0).any()

    @property
    def perplexity(self) -> float:
        """exp of the mean of -logprob, over the tokens where it is known; NaN if there is none."""
        n = int((self.ranks != UNKNOWN).sum())
        return exponential(-self.logprob / n) if n else math.nan

    def __repr__(self) -> str:
        return f"<gpt2fast.Score {len(self.tokens)} tokens, perplexity {self.perplexity:.4g}>"

    def _repr_html_(self) -> str:
        """Show the text coloured by rank, in a notebook."""
        from gpt2fast.scoring.html import fragment

        return fragment(self)


def exponential(x: float) -> float:
    """Return exp(x), infinity beyond the largest number."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def pieces_of(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Return the text that each token adds."""
    from gpt2fast.tokenizer import StreamDecoder

    decoder = StreamDecoder()
    pieces = [decoder.push(_bytes_of(token, tokenizer)) for token in tokens]
    pieces[-1] += decoder.finish()
    return pieces


def texts_of(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Return the text of each token alone."""
    return [_bytes_of(token, tokenizer).decode("utf-8", "replace") for token in tokens]


def _bytes_of(token: int, tokenizer: Tokenizer) -> bytes:
    """Return the bytes of a token; none of UNKNOWN and of ids beyond the tokenizer's."""
    return tokenizer.token_bytes(token) if 0 <= token < tokenizer.n_vocab else b""
