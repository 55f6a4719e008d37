"""What a byte-level BPE is, whatever its files: `Vocabulary`, and the checks that make one.

A byte-level vocabulary writes each byte as one printable character (GPT-2's alphabet: a space is
"\u0120"), so its tokens have names; here they are bytes and ids. Every message names the file.
"""

from dataclasses import dataclass
from typing import Any

BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text as it stands, before anything is split or merged."""

    id: int
    content: str
    special: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Split:
    """One pre-tokenizer step: cut the text where `pattern` matches, as tokenizers' Split does."""

    pattern: str
    behavior: str
    invert: bool


@dataclass(frozen=True)
class Splitting:
    """How text is cut into pieces: the steps, then a space in front, then GPT-2's pattern."""

    steps: tuple[Split, ...] = ()
    add_prefix_space: bool = False
    gpt2_pattern: bool = True


@dataclass(frozen=True)
class Vocabulary:
    """All of a byte-level BPE, checked: `tokens[id]` are its bytes, `regular[id]` says whether it
    belongs to the byte-level vocabulary (else it was added as text), `merges` are (left, right,
    merged) ids in order of rank. `whole_pieces`: a piece that is a token is never merged.
    """

    tokens: list[bytes]
    regular: list[bool]
    merges: list[tuple[int, int, int]]
    added: tuple[AddedToken, ...]
    splitting: Splitting
    whole_pieces: bool
    eot: int | None


def _byte_alphabet() -> dict[int, int]:
    """Return the code point -> byte of GPT-2's printable alphabet.

    Printable Latin-1 stands for itself, every other byte for U+0100 and up. Latin-1 characters
    that stand for nothing map to U+FFFF, so that encoding the result as Latin-1 fails on them.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {**dict.fromkeys(rest, 0xFFFF), **{0x100 + n: byte for n, byte in enumerate(rest)}}


_ALPHABET = _byte_alphabet()


def text_of(name: str, data: bytes) -> str:
    """Return the text of a file, or raise ValueError naming it and the first byte that is bad."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data[error.start]
        raise ValueError(f"{name} is not UTF-8: byte {bad:#04x} at {error.start}") from None


def field(name: str, holder: Any, key: str, kind: type, default: Any = None) -> Any:
    """Return holder[key], `default` if absent or null; raise ValueError if not of that kind."""
    if not isinstance(holder, dict):
        raise ValueError(f"{name}: {short(holder)} where an object with {key!r} was expected")
    value = holder.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name}: {key!r} is {short(value)}, not of type {kind.__name__}")
    return value


def short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def ids_of(name: str, vocabulary: Any) -> dict[str, int]:
    if not isinstance(vocabulary, dict):
        raise ValueError(f"{name}: {short(vocabulary)} where token: id was expected")
    for token, index in vocabulary.items():
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise ValueError(f"{name}: token {token!r} has id {short(index)}, allowed are 0, 1 ...")
    return vocabulary


def build(
    name: str,
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    merges_name: str,
    added: list[AddedToken],
    **rest: Any,
) -> Vocabulary:
    """Put ids in order, turn names into bytes and merges into ids, checking all of them."""
    contents = {token.content: token for token in added}
    for token in added:
        if contents[token.content].id != token.id:
            raise ValueError(f"{name}: added token {token.content!r} has two ids")
    names: dict[int, str] = {}
    for content, index in (*vocab.items(), *((token.content, token.id) for token in added)):
        if names.setdefault(index, content) != content:
            raise ValueError(f"{name}: id {index} is both {names[index]!r} and {content!r}")
        if vocab.get(content, index) != index:
            raise ValueError(f"{name}: {content!r} has the ids {vocab[content]} and {index}")
    for index in range(len(names)):
        if index not in names:
            raise ValueError(
                f"{name}: no token has id {index}, though the highest is {max(names)}: "
                "ids must be 0, 1, 2 ... without gaps"
            )
    tokens: list[bytes] = []
    regular: list[bool] = []
    for index in range(len(names)):
        content = names[index]
        literal = content in contents and len(content) > 1 and not content.isascii()
        as_bytes = None if literal or content not in vocab else _bytes_of(content)
        if as_bytes is None and content not in contents:
            bad = next(char for char in content + " " if _bytes_of(char) is None)
            raise ValueError(
                f"{name}: token {content!r} (id {index}) is not byte-level: "
                + (f"U+{ord(bad):04X} stands for no byte" if content else "it is empty")
            )
        tokens.append(_utf8(name, content) if as_bytes is None else as_bytes)
        regular.append(as_bytes is not None)
    single = {token for token, is_regular in zip(tokens, regular, strict=True) if is_regular}
    missing = [f"0x{byte:02X}" for byte in range(256) if bytes([byte]) not in single]
    if missing:
        raise ValueError(
            f"{name}: not a byte-level vocabulary: no token for {len(missing)} of the 256 bytes "
            f"({', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''})"
        )
    return Vocabulary(tokens, regular, _merge_ids(merges_name, merges, vocab), tuple(added), **rest)


def _merge_ids(
    name: str, merges: list[tuple[str, str]], vocab: dict[str, int]
) -> list[tuple[int, int, int]]:
    """Return the merges as ids. Of a merge given twice the later counts, as in tokenizers."""
    found: dict[tuple[int, int], int] = {}
    for rank, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in vocab:
                raise ValueError(
                    f"{name}: merge {rank} ({left!r} and {right!r}): "
                    f"{token!r} is not in the vocabulary"
                )
        pair = (vocab[left], vocab[right])
        found.pop(pair, None)
        found[pair] = vocab[left + right]
    return [(left, right, merged) for (left, right), merged in found.items()]


def _bytes_of(content: str) -> bytes | None:
    """Return the bytes that a token's name stands for, None if it is not in the alphabet."""
    try:
        return content.translate(_ALPHABET).encode("latin-1") or None
    except UnicodeEncodeError:
        return None


def _utf8(name: str, content: str) -> bytes:
    try:
        return content.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name}: added token {content!r} has half a surrogate pair") from None


def added_token(name: str, entry: Any, index: int | None = None) -> AddedToken:
    """Return an added token from its JSON object; `index` is its id where the object has none."""
    content = field(name, entry, "content", str)
    if not content:
        raise ValueError(f"{name}: added token {short(entry)} has no content")
    found = field(name, entry, "id", int, index)
    if found is None or not 0 <= found < 1 << 31:
        raise ValueError(f"{name}: added token {content!r} has id {found}, allowed are 0, 1 ...")
    flags = ("special", "single_word", "lstrip", "rstrip", "normalized")
    return AddedToken(
        found, content, **{flag: field(name, entry, flag, bool, False) for flag in flags}
    )
