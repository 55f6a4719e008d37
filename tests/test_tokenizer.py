"""The tokenizer against slow readable twins and known ids; it needs no other tokenizer."""

import pickle
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import regex
from tokenizer_vocabularies import as_files, random_vocabulary, slow_encode

from gpt2fast import _bpe
from gpt2fast.tokenizer import StreamDecoder, Tokenizer
from gpt2fast.tokenizer.files import GPT2_PATTERNS

END_OF_TEXT = "<|endoftext|>"
ALPHABET = "abst lldvrem'  \t\n\r\u00a0\u3000\u0085.,!12²é\u0301ñ中文ج😀\u200d\x1c\u1c89\u088f"


@pytest.fixture(scope="module")
def gpt2(test_data: Path) -> Tokenizer:
    folder = test_data / "gpt2-tokenizer"
    return Tokenizer.from_files(
        {name: (folder / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    )


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    """Return a random vocabulary of 600 tokens over a handful of letters."""
    return Tokenizer.from_files(as_files(random_vocabulary(1)))


def strings(count: int, longest: int, seed: int, alphabet: str = ALPHABET) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(rng.choices(alphabet, k=rng.randint(0, longest)))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello my name is", [15496, 616, 1438, 318]),
        ("", []),
        (" ", [220]),
        ("  two", [220, 734]),
        ("I'll\n\n  go", [40, 1183, 628, 220, 467]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
    ],
)
def test_golden_ids(gpt2: Tokenizer, text: str, ids: list[int]) -> None:
    """Catches another byte alphabet, merge order or treatment of leading spaces."""
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


def test_special_tokens_are_text_unless_allowed(gpt2: Tokenizer) -> None:
    """Catches a prompt that could end its own document, and one that cannot when asked to."""
    text = f"one{END_OF_TEXT} two{END_OF_TEXT}"
    assert gpt2.special_tokens == {END_OF_TEXT: 50256}
    assert gpt2.eot == 50256
    assert 50256 not in gpt2.encode(text)
    expected = [*gpt2.encode("one"), 50256, *gpt2.encode(" two"), 50256]
    assert gpt2.encode(text, allowed_special="all") == expected
    assert gpt2.encode(text, allowed_special={END_OF_TEXT}) == expected
    assert gpt2.decode(expected) == gpt2.decode(gpt2.encode(text)) == text
    with pytest.raises(ValueError, match=r"allowed_special names '<s>'.*endoftext"):
        gpt2.encode(text, allowed_special={"<s>"})
    with pytest.raises(ValueError, match="a set or 'all'"):
        gpt2.encode(text, allowed_special="<|endoftext|>")  # type: ignore[arg-type]


def test_every_id_round_trips(gpt2: Tokenizer) -> None:
    """Catches a token whose bytes are not those that its name stands for."""
    each = [gpt2.token_bytes(token) for token in range(gpt2.n_vocab)]
    assert gpt2.n_vocab == len(set(each)) == 50257
    assert gpt2.decode_bytes(range(gpt2.n_vocab)) == b"".join(each)
    assert {bytes([byte]) for byte in range(256)} <= set(each)
    again = [gpt2.decode([token]) for token in range(gpt2.n_vocab)]
    assert [gpt2.decode(gpt2.encode(text)) for text in again] == again


def test_splitter_is_the_pattern() -> None:
    """Catches a wrong branch of the hand-written splitter, against `regex` on the true pattern."""
    known = [char for char in ALPHABET if char != "\u088f"]  # a letter since Unicode 17.0
    for pattern in GPT2_PATTERNS:
        oracle = regex.compile(pattern)
        for text in strings(6000, 40, 2, "".join(known)):
            assert [piece.decode() for piece in _bpe.split(text)] == oracle.findall(text), text


def test_unicode_table_is_16_0() -> None:
    """Catches a table of another Unicode version: U+1C89 came with 16.0, U+088F with 17.0."""
    counts = {"a\u1c89a": 1, "a\u088fa": 3, "1\u00b21": 1, "a\x1cb": 3}
    assert {text: len(_bpe.split(text)) for text in counts} == counts
    split = [piece.decode() for piece in _bpe.split("x \u0085\u3000y")]
    assert split == ["x", " \u0085", "\u3000", "y"]


@pytest.mark.parametrize("seed", range(12))
def test_merging_is_the_slow_twins(seed: int) -> None:
    """Catches wrong merges in any path (scan, heap, memo), also when ranks come out of order."""
    vocabulary = random_vocabulary(seed, shuffled=seed % 2 == 1)
    tokenizer = Tokenizer.from_files(as_files(vocabulary))
    texts = [*strings(150, 30, seed, "abc de"), *strings(12, 400, seed, "abc"), "a" * 3000]
    for text in [*texts, " ".join(texts)]:
        expected = [token for piece in _bpe.split(text) for token in slow_encode(piece, vocabulary)]
        assert tokenizer.encode(text) == expected, text


def test_ids_are_checked(small: Tokenizer) -> None:
    """Catches an id that would read outside the token bytes."""
    top = small.n_vocab - 1
    for bad in (-1, small.n_vocab, 1 << 31, 1 << 32, -(1 << 63), 1 << 70):
        for use in (small.token_bytes, lambda token: small.decode([0, token])):
            with pytest.raises(ValueError, match=f"token id {bad} is out of range: .* 0 to {top}"):
                use(bad)
    for wrong in ("1", 1.0, None):
        with pytest.raises(TypeError):
            small.decode([wrong])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="text must be str, not bytes"):
        small.encode(b"abc")  # type: ignore[arg-type]


def test_surrogates(small: Tokenizer) -> None:
    """Catches a crash on, or another reading than tiktoken's of, text that has no UTF-8."""
    assert small.decode(small.encode("a\ud800b\udc00")) == "a\ufffdb\ufffd"
    assert small.decode(small.encode("\ud83d\ude00")) == "\U0001f600"
    assert small.decode(small.encode("x\ud800y", allowed_special="all")) == "x\ufffdy"


def test_decoding_invalid_utf8(small: Tokenizer) -> None:
    """Catches decoding that is not `bytes.decode`'s, for ids that are no whole characters."""
    rng = random.Random(3)
    for _ in range(2000):
        data = bytes(rng.choices([0x41, 0x80, 0xC3, 0xA9, 0xE2, 0x82, 0xF0, 0x9F, 0xFF], k=9))
        ids = [token for byte in data for token in slow_encode(bytes([byte]), random_vocabulary(1))]
        assert small.decode_bytes(ids) == data
        assert small.decode(ids) == data.decode("utf-8", "replace")
    with pytest.raises(UnicodeDecodeError):
        small.decode(slow_encode(b"\xff", random_vocabulary(1)), errors="strict")


def test_streaming_at_every_split() -> None:
    """Catches half a character shown, text lost at the end, or other U+FFFD than in one go."""
    rng = random.Random(4)
    broken = [bytes(rng.choices(b"a\x80\xbf\xc3\xe2\xf0\x9f\x98", k=8)) for _ in range(50)]
    for data in (*(text.encode() for text in strings(150, 12, 5)), *broken):
        whole = data.decode("utf-8", "replace")
        for at in range(len(data) + 1):
            stream = StreamDecoder()
            first = stream.push(data[:at])
            assert whole.startswith(first)
            assert first + stream.push(data[at:]) + stream.finish() == whole
        stream = StreamDecoder()
        assert "".join(stream.push(bytes([byte])) for byte in data) + stream.finish() == whole
        assert stream.push(b"a") + stream.finish() == "a"


def test_ten_megabytes_of_one_word(gpt2: Tokenizer) -> None:
    """Catches a merge loop that is quadratic in the length of a word: it would take hours."""
    letters = "".join(random.Random(6).choices("abcdefghijklmnopqrstuvwxyz", k=10_000_000))
    for text in ("a" * 10_000_000, letters):
        spent = []
        for size in (1_000_000, 10_000_000):
            start = time.thread_time()
            ids = gpt2.encode(text[:size])
            spent.append(time.thread_time() - start)
        assert gpt2.decode(ids) == text
        assert spent[1] < 40 * spent[0]  # n log n with a cold cache is near 15, n squared 100


def test_threads_share_a_tokenizer(gpt2: Tokenizer) -> None:
    """Catches state shared between calls: four threads encode different texts at once."""
    texts = ["".join(strings(400, 60, seed)) for seed in range(4)]
    expected = [gpt2.encode(text) for text in texts]
    found: list[list[list[int]]] = [[] for _ in texts]

    def work(index: int) -> None:
        found[index] = [gpt2.encode(texts[index]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[ids] * 20 for ids in expected]


def test_copies_by_table_and_pickle(gpt2: Tokenizer) -> None:
    """Catches a table that forgets something: direct tokens, added tokens, eot, the splitting."""
    text = "".join(strings(500, 60, 7)) + END_OF_TEXT
    for copy in (Tokenizer.from_table(gpt2.to_table()), pickle.loads(pickle.dumps(gpt2))):
        assert copy.to_table() == gpt2.to_table()
        assert len(copy.to_table()) % 64 == 0
        assert (copy.n_vocab, copy.eot, copy.special_tokens) == (50257, 50256, {END_OF_TEXT: 50256})
        assert copy.encode(text) == gpt2.encode(text)
        assert copy.encode(text, allowed_special="all") == gpt2.encode(text, allowed_special="all")


def test_table_loads_at_once(gpt2: Tokenizer) -> None:
    """Catches a load that parses or merges again: the best of five stays below 25 ms."""
    table = gpt2.to_table()
    spent = []
    for _ in range(5):
        start = time.thread_time()
        Tokenizer.from_table(table)
        spent.append(time.thread_time() - start)
    assert min(spent) < 0.025
