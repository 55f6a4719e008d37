"""GPT-2's byte-level BPE: text to token ids and back, exactly as tiktoken and tokenizers do it."""

import codecs
from array import array
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from itertools import accumulate, chain
from typing import Literal

from gpt2fast._bpe import BPE
from gpt2fast.tokenizer.files import read_vocabulary
from gpt2fast.tokenizer.splitting import AddedTokens, compiled, pieces
from gpt2fast.tokenizer.table import read_table, write_table
from gpt2fast.tokenizer.vocabulary import AddedToken, Splitting

_NONE: frozenset[str] = frozenset()


class Tokenizer:
    """Turn text into the token ids of one vocabulary, and ids into text.

    Never changes once it is made: several threads may use one at the same time.
    """

    def __init__(
        self, bpe: BPE, added: tuple[AddedToken, ...], splitting: Splitting, eot: int | None
    ) -> None:
        """Use `from_files` or `from_table`, which check what they pass here."""
        self._bpe = bpe
        self._added = added
        self._splitting = splitting
        self._eot = eot
        self._special = {token.content: token.id for token in added if token.special}
        self._plain = splitting == Splitting() and all(token.special for token in added)
        self._finders: dict[frozenset[str], AddedTokens] = {}
        for step in splitting.steps:
            compiled(step.pattern)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> "Tokenizer":
        """Read a checkpoint's tokenizer: {file name: content}.

        Needs tokenizer.json, or vocab.json and merges.txt; beside the latter added_tokens.json,
        special_tokens_map.json and tokenizer_config.json are read too. Raises ValueError naming
        the file and what is wrong or not supported.
        """
        vocabulary = read_vocabulary(files)
        flag = 3 if vocabulary.whole_pieces else 1
        offsets = array("I", accumulate(map(len, vocabulary.tokens), initial=0))
        try:
            bpe = BPE(
                b"".join(vocabulary.tokens),
                offsets.tobytes(),
                bytes(flag if regular else 0 for regular in vocabulary.regular),
                array("I", chain.from_iterable(vocabulary.merges)).tobytes(),
                known_direct=vocabulary.whole_pieces,
            )
        except ValueError as error:
            name = "tokenizer.json" if "tokenizer.json" in files else "vocab.json, merges.txt"
            raise ValueError(f"{name}: {error}") from None
        return cls(bpe, vocabulary.added, vocabulary.splitting, vocabulary.eot)

    @classmethod
    def from_table(cls, table: bytes) -> "Tokenizer":
        """Load what `to_table` gave; raise ValueError if it is damaged."""
        return cls(*read_table(bytes(table)))

    def to_table(self) -> bytes:
        """Return the tokenizer in a form that loads in milliseconds (see `tokenizer_table`)."""
        return write_table(self._bpe, self._added, self._splitting, self._eot)

    def __reduce__(self) -> tuple[object, ...]:
        return Tokenizer.from_table, (self.to_table(),)

    @property
    def n_vocab(self) -> int:
        """Number of tokens: ids are 0 to n_vocab - 1."""
        return self._bpe.n_vocab

    @property
    def eot(self) -> int | None:
        """Id of `<|endoftext|>` (or of the eos_token that the files name), if there is one."""
        return self._eot

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens and their ids: those that `encode` takes for text unless allowed."""
        return dict(self._special)

    def encode(
        self, text: str, *, allowed_special: AbstractSet[str] | Literal["all"] = _NONE
    ) -> list[int]:
        """Return the token ids of `text`; nothing is put before or after it.

        Special tokens such as `<|endoftext|>` in `text` are text like any other, unless
        `allowed_special` names them or is "all". Added tokens that are not special are always
        found. Half a surrogate pair is encoded as U+FFFD, and a pair as its character, as in
        tiktoken. Raises ValueError if `allowed_special` has a name that is no special token.

        >>> import gpt2fast
        >>> tokenizer = gpt2fast.load("tales").tokenizer
        >>> tokenizer.decode(tokenizer.encode("Once upon a time"))
        'Once upon a time'
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be str, not {type(text).__name__}")
        try:
            return self._encode(text, allowed_special)
        except UnicodeEncodeError:
            return self._encode(well_formed(text), allowed_special)

    def _encode(self, text: str, allowed: AbstractSet[str] | Literal["all"]) -> list[int]:
        if self._plain and not allowed:
            return self._bpe.encode(text)
        ids: list[int] = []
        for part in self._finder(allowed).split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_ordinary(part)
        return ids

    def _finder(self, allowed_special: AbstractSet[str] | Literal["all"]) -> AddedTokens:
        """Return what finds the added tokens that are allowed, remembering a few."""
        if isinstance(allowed_special, str):
            if allowed_special != "all":
                raise ValueError(f"allowed_special is {allowed_special!r}: a set or 'all'")
            allowed = frozenset(self._special)
        else:
            allowed = frozenset(allowed_special)
        unknown = sorted(allowed - self._special.keys())
        if unknown:
            raise ValueError(
                f"allowed_special names {unknown[0]!r}; special tokens are {sorted(self._special)}"
            )
        finder = self._finders.get(allowed)
        if finder is None:
            finder = AddedTokens(
                token for token in self._added if not token.special or token.content in allowed
            )
            if len(self._finders) < 16:
                self._finders[allowed] = finder
        return finder

    def _encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of text that holds no added token."""
        splitting = self._splitting
        parts = pieces(text, splitting.steps)  # none is empty
        if splitting.add_prefix_space:
            parts = [part if part.startswith(" ") else " " + part for part in parts]
        if splitting.gpt2_pattern:
            return list(chain.from_iterable(map(self._bpe.encode, parts)))
        return self._bpe.encode_pieces([part.encode("utf-8") for part in parts])

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD, as in tiktoken.

        `errors` is that of `bytes.decode`. Raises ValueError for an id out of range.
        """
        return self._bpe.decode(ids).decode("utf-8", errors)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`, which need not be UTF-8."""
        return self._bpe.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token id."""
        return self._bpe.token_bytes(token)


def well_formed(text: str) -> str:
    """Return text that UTF-8 can write: pairs of surrogates as one character, halves as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class StreamDecoder:
    r"""Decode tokens as they come: half a character waits until its other half is there.

    The pieces joined are what `bytes.decode("utf-8", "replace")` gives for all bytes at once.

    >>> stream = StreamDecoder()
    >>> stream.push(b"caf\xc3"), stream.push(b"\xa9"), stream.finish()
    ('caf', 'é', '')
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_bytes: bytes) -> str:
        """Return the text that is certain once these bytes are there."""
        return self._decoder.decode(token_bytes)

    def finish(self) -> str:
        """Return what is left, U+FFFD for half a character; start anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
