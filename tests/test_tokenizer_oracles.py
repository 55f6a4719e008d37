"""The tokenizer against Hugging Face tokenizers and tiktoken, both built from the same local files.

Many texts go to an oracle in one call, joined by `<|endoftext|>` as a special token: both cut there
before anything else, so that each text is encoded as if it were alone.
"""

import random
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2fast.tokenizer import Tokenizer
from gpt2fast.tokenizer.files import GPT2_PATTERNS

tiktoken = pytest.importorskip("tiktoken", reason="the oracle needs tiktoken")
tokenizers = pytest.importorskip("tokenizers", reason="the oracle needs tokenizers")

END_OF_TEXT = "<|endoftext|>"
Oracle = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def files(test_data: Path) -> Path:
    return test_data / "gpt2-tokenizer"


@pytest.fixture(scope="module")
def ours(files: Path) -> Tokenizer:
    return Tokenizer.from_files(
        {name: (files / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    )


@pytest.fixture(scope="module")
def tiktoken_gpt2(ours: Tokenizer) -> Any:
    """GPT-2 in tiktoken: a token's rank is its id, as in its own files."""
    ranks = {ours.token_bytes(token): token for token in range(50256)}
    return tiktoken.Encoding(
        "gpt2",
        pat_str=GPT2_PATTERNS[2],
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: 50256},
        explicit_n_vocab=50257,
    )


@pytest.fixture(scope="module")
def tokenizers_gpt2(files: Path) -> Any:
    tokenizer = tokenizers.ByteLevelBPETokenizer(
        str(files / "vocab.json"), str(files / "merges.txt")
    )
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


@pytest.fixture(scope="module", params=["tiktoken", "tokenizers"])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    """Text to ids, `<|endoftext|>` being the special token."""
    found: Any = request.getfixturevalue(f"{request.param}_gpt2")
    if request.param == "tiktoken":
        return lambda text: list(found.encode(text, allowed_special="all"))
    return lambda text: list(found.encode(text).ids)


def assert_equal(ours: Tokenizer, oracle: Oracle, texts: list[str]) -> None:
    """Encode each text alone by ours, by the oracle many in a call; name the first difference."""
    for start in range(0, len(texts), 4096):
        some = texts[start : start + 4096]
        expected = oracle(END_OF_TEXT.join(some))
        found = [token for text in some for token in (*ours.encode(text), 50256)][:-1]
        if found != expected:
            wrong = next((text for text in some if ours.encode(text) != oracle(text)), None)
            assert wrong is None, f"{wrong!r}: {ours.encode(wrong)}, not {oracle(wrong)}"
            raise AssertionError("a difference only between texts, not in one")


def characters() -> Iterator[str]:
    """Yield every code point that UTF-8 can carry."""
    yield from map(chr, (*range(0xD800), *range(0xE000, 0x110000)))


@pytest.mark.parametrize("form", ["{}", "{}'s", "a{}b"])
def test_every_code_point(ours: Tokenizer, oracle: Oracle, form: str) -> None:
    """Catches one wrong entry of the Unicode table: alone, before 's, and between letters."""
    assert_equal(ours, oracle, [form.format(char) for char in characters()])


def random_strings(count: int, seed: int) -> list[str]:
    """Return strings of 0 to 24 characters that mix scripts, spaces, marks and contractions."""
    rng = random.Random(seed)
    known = [char for char in characters() if not 0xE000 <= ord(char) < 0xF900]
    pools: list[list[str]] = [
        list("abcdefghijklmnopqrstuvwxyzABCXYZ"),
        list("stdmlvre'\u2019"),
        list("      \t\n\r\v\f\u00a0\u0085\u1680\u2003\u2028\u3000\u200b\ufeff\x1c\x1f"),
        list("0123456789\u00b2\u00bd\u0669\u2167\u3007"),
        list(".,:;!?-_()[]{}\"'`~@#$%^&*+=/\\|<>"),
        known[0x80:0x600],
        known[:0x3000],
        known,
        known[0xF900 - 0x2000 :],
        [
            "'s",
            "'ll",
            " '",
            "  ",
            "\r\n",
            "e\u0301",
            "\U0001f468\u200d\U0001f469",
            "##",
            END_OF_TEXT[:5],
        ],
    ]
    strings = []
    for _ in range(count):
        some = rng.sample(pools, 3)
        strings.append("".join(rng.choice(rng.choice(some)) for _ in range(rng.randint(0, 24))))
    return strings


def test_random_strings(ours: Tokenizer, oracle: Oracle) -> None:
    """Catches any wrong split or merge in 100,000 random Unicode strings."""
    texts = random_strings(100_000, 11)
    assert sum(map(len, texts)) > 1_000_000
    assert_equal(ours, oracle, texts)


def test_long_words(ours: Tokenizer, oracle: Oracle) -> None:
    """Catches a difference in the path for long pieces, at and past its first length."""
    rng = random.Random(12)
    texts = [
        "".join(rng.choices(alphabet, k=length))
        for alphabet in ("a", "ab", "the", "etaoinshrdlu", "é中", ".-", "\n ", "17")
        for length in (*range(30, 34), *range(62, 68), 127, 1000, 5000)
    ]
    assert_equal(ours, oracle, texts)


def test_stories_tiktoken(ours: Tokenizer, tiktoken_gpt2: Any, test_data: Path) -> None:
    """Catches a difference on ordinary text: all stories (44 MB) and the evaluation texts."""
    paths = [*test_data.glob("data/stories*/*.txt"), *test_data.glob("data/eval/*.*")]
    assert len(paths) > 140
    for path in paths:
        text = path.read_text(encoding="utf-8")
        ids = ours.encode(text)
        assert ids == tiktoken_gpt2.encode_ordinary(text), path.name
        assert ours.decode(ids) == text


def test_stories_tokenizers(ours: Tokenizer, tokenizers_gpt2: Any, test_data: Path) -> None:
    """Catches the same on the first 30,000 characters of each story book (it is slower)."""
    paths = [*test_data.glob("data/stories*/*.txt"), *test_data.glob("data/eval/*.*")]
    texts = [path.read_text(encoding="utf-8")[:30_000] for path in paths]
    for text, expected in zip(texts, tokenizers_gpt2.encode_batch(texts), strict=True):
        assert ours.encode(text) == expected.ids


def test_special_tokens(ours: Tokenizer, tiktoken_gpt2: Any) -> None:
    """Catches `<|endoftext|>` read otherwise than by tiktoken, allowed or not, in random places."""
    rng = random.Random(13)
    parts = [END_OF_TEXT, "<|", "|>", " ", "a", "'s", "<|endoftext", "\n"]
    for _ in range(3000):
        text = "".join(rng.choices(parts, k=rng.randint(0, 8)))
        assert ours.encode(text) == tiktoken_gpt2.encode(text, disallowed_special=())
        allowed = tiktoken_gpt2.encode(text, allowed_special="all")
        assert ours.encode(text, allowed_special="all") == allowed
        assert ours.encode(text, allowed_special={END_OF_TEXT}) == allowed


def test_surrogates(ours: Tokenizer, tiktoken_gpt2: Any) -> None:
    """Catches halves of surrogate pairs read otherwise than by tiktoken."""
    rng = random.Random(14)
    for _ in range(2000):
        text = "".join(rng.choices("a \ud800\ud83d\udc00\ude00\udfff\u4e2d'", k=6))
        assert ours.encode(text) == tiktoken_gpt2.encode(text)


def test_decoding(ours: Tokenizer, tiktoken_gpt2: Any, tokenizers_gpt2: Any) -> None:
    """Catches other text or bytes than the oracles give for any ids, most of them no UTF-8."""
    rng = random.Random(15)
    partial = [token for token in range(50256) if "\ufffd" in ours.decode([token])]
    assert len(partial) > 100
    for _ in range(20_000):
        ids = [rng.choice((rng.randrange(50257), rng.choice(partial))) for _ in range(6)]
        assert ours.decode_bytes(ids) == tiktoken_gpt2.decode_bytes(ids)
        assert ours.decode(ids) == tiktoken_gpt2.decode(ids)
        assert ours.decode(ids) == tokenizers_gpt2.decode(ids, skip_special_tokens=False)
    assert all(
        ours.token_bytes(token) == tiktoken_gpt2.decode_single_token_bytes(token)
        for token in range(50257)
    )


def test_tales_vocabulary(test_data: Path) -> None:
    """Catches a reader that only fits GPT-2's own vocabulary: the 4,096 tokens of the tales."""
    folder = test_data / "models" / "tales"
    names = ("vocab.json", "merges.txt")
    ours = Tokenizer.from_files({name: (folder / name).read_bytes() for name in names})
    theirs = tokenizers.ByteLevelBPETokenizer(*(str(folder / name) for name in names))
    assert (ours.n_vocab, ours.eot) == (4096, 4095)
    texts = [path.read_text("utf-8") for path in test_data.glob("data/stories-valid/*.txt")]
    texts += random_strings(10_000, 16)
    for text, expected in zip(texts, theirs.encode_batch(texts), strict=True):
        assert ours.encode(text) == expected.ids, text[:80]
        assert ours.decode(ours.encode(text)) == text


def test_unicode_table_is_current() -> None:
    """Catches a committed table that its script would no longer write."""
    script = Path(__file__).parent / "make_unicode_table.py"
    made = runpy.run_path(str(script))
    committed = re.findall(r"\{0x(\w+), 0x(\w+), (\d)\}", made["HEADER"].read_text("utf-8"))
    found = [(int(first, 16), int(last, 16), int(kind)) for first, last, kind in committed]
    assert found == made["ranges"]()
