"""tokenizer.json against Hugging Face tokenizers: what it saves must mean the same to us."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from tokenizer_vocabularies import VOCABULARY, name_of

from gpt2fast.tokenizer import Tokenizer
from gpt2fast.tokenizer.files import GPT2_PATTERNS

tokenizers = pytest.importorskip("tokenizers", reason="the oracle needs tokenizers")

GPT4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def bpe(**options: Any) -> Any:
    """Return a tokenizer of the small vocabulary in tokenizers."""
    tokens, merges = VOCABULARY
    model = tokenizers.models.BPE(
        vocab={name_of(token): number for number, token in enumerate(tokens)},
        merges=[(name_of(left), name_of(right)) for left, right in merges],
        **options,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def texts(count: int, seed: int, *parts: str) -> Iterator[str]:
    rng = random.Random(seed)
    pool = [
        "a",
        "bc",
        "de",
        "abc",
        " ",
        "  ",
        "\n",
        "\r\n",
        "'s",
        "'S",
        "1",
        "23",
        ".",
        "é",
        *parts,
    ]
    for _ in range(count):
        yield "".join(rng.choices(pool, k=rng.randint(0, 14)))


def assert_same(theirs: Any, texts: Iterator[str], *, special: bool = False) -> None:
    """Read what tokenizers saves, also by way of our table, and compare the ids of all texts."""
    ours = Tokenizer.from_files({"tokenizer.json": theirs.to_str().encode()})
    copy = Tokenizer.from_table(ours.to_table())
    assert ours.n_vocab == theirs.get_vocab_size()
    theirs.encode_special_tokens = not special
    for text in texts:
        expected = theirs.encode(text, add_special_tokens=False).ids
        for tokenizer in (ours, copy):
            found = tokenizer.encode(text, allowed_special="all" if special else frozenset())
            assert found == expected, text


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("flags", ["", "lstrip", "rstrip", "single_word", "lstrip rstrip"])
def test_added_tokens(flags: str, normalized: bool, special: bool) -> None:
    """Catches an added token found where tokenizers does not, or spaces taken with it or left."""
    theirs = bpe()
    options = {**dict.fromkeys(flags.split(), True), "normalized": normalized}
    for content in ("<x>", "<x>y", "bca", "de"):
        theirs.add_tokens([tokenizers.AddedToken(content, **options)])
    theirs.add_tokens([tokenizers.AddedToken("y<", normalized=not normalized)])
    theirs.add_special_tokens([tokenizers.AddedToken("<eos>", **options)])
    parts = ("<x>", "<x>y", "y", "<", "bca", "<eos>", "\u3000", "\x1c", "_", "\u0301", "\u200d")
    assert_same(theirs, texts(1500, 21, *parts), special=special)


def test_word_characters() -> None:
    """Catches another idea of a word character than tokenizers' beside a single_word token."""
    theirs = bpe()
    theirs.add_tokens([tokenizers.AddedToken("zzz", single_word=True, normalized=False)])
    spans = ((0, 0x558), (0x600, 0x88F), (0x900, 0xB53), (0xD00, 0x1ACF), (0x2000, 0x208F))
    more = ((0x20A0, 0xA7CE), (0xAC00, 0xD800), (0xF900, 0x107BB), (0x1D400, 0x1D6A6))
    points = (point for first, stop in (*spans, *more) for point in range(first, stop))
    # between them are characters newer than Unicode 16.0, which `regex` knows and tokenizers not
    assert_same(theirs, (f"zzz{chr(point)}" for point in points))


@pytest.mark.parametrize("use_regex", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_byte_level_options(prefix: bool, use_regex: bool) -> None:
    """Catches add_prefix_space or use_regex not heeded, also beside an added token."""
    theirs = bpe()
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=prefix, use_regex=use_regex
    )
    assert_same(theirs, texts(1500, 22))
    theirs.add_tokens(["<x>"])
    assert_same(theirs, texts(1500, 23, "<x>"))


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(
    "behavior", ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
)
def test_split_behaviors(behavior: str, invert: bool) -> None:
    """Catches a Split that joins or drops other pieces than tokenizers does."""
    cuts = tokenizers.pre_tokenizers
    for pattern in (tokenizers.Regex(r"\s+|b|1"), ".", tokenizers.Regex(GPT4_PATTERN)):
        for prefix in (False, True):
            theirs = bpe()
            theirs.pre_tokenizer = cuts.Sequence(
                [
                    cuts.Split(pattern, behavior=behavior, invert=invert),
                    cuts.ByteLevel(add_prefix_space=prefix, use_regex=False),
                ]
            )
            assert_same(theirs, texts(400, 24))


@pytest.mark.parametrize("pattern", [*GPT2_PATTERNS, GPT4_PATTERN])
def test_patterns(pattern: str) -> None:
    """Catches another pattern than GPT-2's split like GPT-2's, and the other way round."""
    cuts = tokenizers.pre_tokenizers
    for behavior, invert in (("isolated", False), ("removed", True), ("contiguous", False)):
        theirs = bpe(ignore_merges=True)
        theirs.pre_tokenizer = cuts.Sequence(
            [
                cuts.Split(tokenizers.Regex(pattern), behavior=behavior, invert=invert),
                cuts.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        assert_same(theirs, texts(800, 25, "\u3000", "e\u0301", "中文"))


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_whole_pieces(ignore_merges: bool) -> None:
    """Catches ignore_merges heeded where it is not set, or the other way round."""
    theirs = bpe(ignore_merges=ignore_merges, byte_fallback=True, unk_token="a")
    whole = [token.decode() for token in VOCABULARY[0] if len(token) > 4]
    assert_same(theirs, texts(2000, 26, *whole))


def test_harmless_post_processors() -> None:
    """Catches a tokenizer.json refused for a post-processor that adds nothing."""
    theirs = bpe()
    for processor in (
        tokenizers.processors.ByteLevel(trim_offsets=False),
        tokenizers.processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[]),
    ):
        theirs.post_processor = processor
        theirs.enable_truncation(5)
        theirs.no_truncation()
        assert_same(theirs, texts(100, 27))
