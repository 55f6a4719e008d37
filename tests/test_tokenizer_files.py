"""Files of tokenizers: what they may say, and that bad ones are refused by name."""

import json
import time
from typing import Any

import pytest
from tokenizer_vocabularies import (
    BYTE_LEVEL,
    FILES,
    GONE,
    N_VOCAB,
    VOCABULARY,
    byte_names,
    name_of,
    slow_encode,
    tokenizer_json,
    with_added,
    with_vocab,
)

from gpt2fast.tokenizer import Tokenizer

NUL = byte_names()[0]

BAD_FILES: list[tuple[str, dict[str, bytes], str]] = [
    ("none", {}, r"no vocab\.json and no merges\.txt .* needed are tokenizer\.json, or"),
    ("no merges", {"vocab.json": FILES["vocab.json"]}, r"no merges\.txt among"),
    (
        "not utf-8",
        {**FILES, "vocab.json": b'{"a\xff": 0}'},
        r"vocab\.json is not UTF-8: byte 0xff",
    ),
    (
        "merges not utf-8",
        {**FILES, "merges.txt": b"a \x80"},
        r"merges\.txt is not UTF-8: byte 0x80",
    ),
    ("not json", {**FILES, "vocab.json": b"{"}, r"vocab\.json is not valid JSON: .*line 1"),
    ("a list", {**FILES, "vocab.json": b"[]"}, r"vocab\.json: \[\] where token: id"),
    ("deep", {**FILES, "vocab.json": b"[" * 100_000}, r"vocab\.json .*: nested too deeply"),
    (
        "key twice",
        {**FILES, "vocab.json": b'{"a": 0, "a": 1}'},
        r"vocab\.json .*: key 'a' appears twice",
    ),
    ("id text", with_vocab(x="1"), r"vocab\.json: token 'x' has id '1'"),
    ("id bool", with_vocab(x=True), r"vocab\.json: token 'x' has id True"),
    ("id negative", with_vocab(x=-1), r"vocab\.json: token 'x' has id -1"),
    ("id float", with_vocab(x=1.0), r"vocab\.json: token 'x' has id 1\.0"),
    ("id twice", with_vocab(xyz=5), r"vocab\.json: id 5 is both .* and 'xyz'"),
    ("gap", with_vocab(xyz=10**15), rf"no token has id {N_VOCAB}, though"),
    ("empty token", with_vocab(**{"": N_VOCAB}), r"token '' .*it is empty"),
    (
        "not byte-level",
        with_vocab(**{"\u2581a": N_VOCAB}),
        r"U\+2581 stands",
    ),
    ("surrogate", with_vocab(**{"\ud800": N_VOCAB}), r"U\+D800 stands for"),
    (
        "no byte token",
        with_vocab(**{NUL: GONE, "xyz": VOCABULARY[0].index(b"\0")}),
        r"vocab\.json: not a byte-level vocabulary: no token for 1 of the 256 bytes \(0x00\)",
    ),
    (
        "no bytes at all",
        {"vocab.json": b'{"ab": 0}', "merges.txt": b""},
        r"no token for 256 of the 256 bytes \(0x00, 0x01, .* \.\.\.\)",
    ),
    ("merge of three", {**FILES, "merges.txt": b"a b c\n"}, r"merges\.txt: line 1 is 'a b c', not"),
    ("merge of one", {**FILES, "merges.txt": b"#version: 1\na\n"}, r"merges\.txt: line 2 is 'a'"),
    (
        "merge unknown",
        {**FILES, "merges.txt": b"x y\n"},
        r"merge 0 \('x' and 'y'\): 'xy'",
    ),
    ("bos", {**FILES, "tokenizer_config.json": b'{"add_bos_token": true}'}, "add_bos_token is not"),
    ("config", {**FILES, "tokenizer_config.json": b"3"}, r"tokenizer_config\.json: 3 where"),
    ("map", {**FILES, "special_tokens_map.json": b"[]"}, r"special_tokens_map\.json: \[\] where"),
    ("added", {**FILES, "added_tokens.json": b'{"<a>": null}'}, r"added_tokens\.json: token '<a>'"),
    ("added twice", {**FILES, "added_tokens.json": b'{"a": 0}'}, r"'a' has the ids|id 0 is both"),
    (
        "unigram",
        tokenizer_json({"type": "Unigram"}),
        r"tokenizer\.json: model 'Unigram' is not",
    ),
    ("dropout", tokenizer_json({"dropout": 0.1}), "dropout 0.1 is not supported, only none"),
    (
        "prefix",
        tokenizer_json({"continuing_subword_prefix": "##"}),
        "subword_prefix '##' is not",
    ),
    ("suffix", tokenizer_json({"end_of_word_suffix": "</w>"}), "end_of_word_suffix '</w>'"),
    ("vocab list", tokenizer_json({"vocab": [["a", 0.0]]}), r"tokenizer\.json: \[\['a', 0\.0\]\]"),
    ("merges dict", tokenizer_json({"merges": {}}), r"'merges' is \{\}, not of type list"),
    ("merge shape", tokenizer_json({"merges": [["a"]]}), r"merge 0 is \['a'\], not two tokens"),
    ("merge kind", tokenizer_json({"merges": [["a", 1]]}), r"merge 0 is \['a', 1\]"),
    ("no model", {"tokenizer.json": b'{"model": null}'}, "no 'model'"),
    ("root", {"tokenizer.json": b"[]"}, r"tokenizer\.json: \[\] where"),
    ("normalizer", tokenizer_json(normalizer={"type": "NFC"}), "normalizer 'NFC' is not supported"),
    ("pre none", tokenizer_json(pre_tokenizer=None), "pre_tokenizer None is not supported"),
    ("pre other", tokenizer_json(pre_tokenizer={"type": "Metaspace"}), "pre_tokenizer 'Metaspace'"),
    (
        "pre digits",
        tokenizer_json(
            pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTE_LEVEL]}
        ),
        "pre_tokenizer 'Digits' is not supported, only Split and ByteLevel",
    ),
    ("decoder", tokenizer_json(decoder={"type": "Metaspace"}), "decoder 'Metaspace' is not"),
    (
        "template",
        tokenizer_json(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "a"}}, {"Sequence": {"id": "A"}}],
            }
        ),
        "post_processor 'TemplateProcessing' is not supported, only a template without",
    ),
    ("added gap", with_added({"content": "<a>", "id": 10**6}), "no token has id"),
    ("added empty", with_added({"content": ""}), "has no content"),
    ("added kind", with_added({"content": 3}), "'content' is 3, not of type str"),
    ("added flag", with_added({"content": "<a>", "lstrip": 1}), "'lstrip' is 1, not of type bool"),
    ("added id", with_added({"content": "<a>", "id": -5}), "has id -5"),
    ("added half", with_added({"content": "<\ud800>"}), "half a surrogate pair"),
    ("added two ids", with_added({"content": "<a>"}, {"content": "<a>"}), "'<a>' has two ids"),
]


@pytest.mark.parametrize(
    ("files", "message"), [case[1:] for case in BAD_FILES], ids=[c[0] for c in BAD_FILES]
)
def test_bad_files_are_refused(files: dict[str, bytes], message: str) -> None:
    """Catches a file taken that gives other ids than it should, or an error that names nothing."""
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_files(files)


def test_repeated_key_among_many() -> None:
    """Catches a search for the repeated key that takes the square of the keys."""
    keys = ",".join(f'"{n}": {n}' for n in [*range(200_000), 199_999])
    started = time.monotonic()
    with pytest.raises(ValueError, match="key '199999' appears twice"):
        Tokenizer.from_files({**FILES, "vocab.json": f"{{{keys}}}".encode()})
    assert time.monotonic() - started < 10


def test_bad_pattern_is_refused() -> None:
    """Catches a pattern that `regex` cannot compile passing until the first text."""
    split = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    pre = {"type": "Sequence", "pretokenizers": [split, {**BYTE_LEVEL, "use_regex": False}]}
    with pytest.raises(ValueError, match=r"pattern '\(' is not supported: missing \)"):
        Tokenizer.from_files(tokenizer_json(pre_tokenizer=pre))
    changes: list[dict[str, Any]] = [{"behavior": "Other"}, {"pattern": {}}]
    for change in changes:
        pre["pretokenizers"] = [{**split, **change}, BYTE_LEVEL]
        with pytest.raises(ValueError, match="Split"):
            Tokenizer.from_files(tokenizer_json(pre_tokenizer=pre))


def test_both_kinds_of_files_agree() -> None:
    """Catches a reader of tokenizer.json that differs from that of vocab.json and merges.txt."""
    table = Tokenizer.from_files(FILES).to_table()
    assert Tokenizer.from_files(tokenizer_json()).to_table() == table
    joined = [" ".join(map(name_of, merge)) for merge in VOCABULARY[1]]
    assert Tokenizer.from_files(tokenizer_json({"merges": joined})).to_table() == table
    windows = {**FILES, "merges.txt": FILES["merges.txt"].replace(b"\n", b"\r\n") + b"\r\n"}
    assert Tokenizer.from_files(windows).to_table() == table


def test_later_of_two_equal_merges_counts() -> None:
    """Catches another rank than tokenizers gives a merge that merges.txt has twice."""
    entries = {name: n for n, name in enumerate([*byte_names(), "ab", "bc"])}
    files = {"vocab.json": json.dumps(entries).encode(), "merges.txt": b"a b\nb c\na b\n"}
    assert Tokenizer.from_files(files).encode("abc") == [entries["a"], entries["bc"]]


def test_added_tokens_of_the_files_beside_vocab_json() -> None:
    """Catches added tokens lost, taken for text, or taken for special ones."""
    files = {
        **FILES,
        "added_tokens.json": json.dumps({"<|pad|>": N_VOCAB, "<sep>": N_VOCAB + 1}).encode(),
        "special_tokens_map.json": b'{"pad_token": "<|pad|>", "unk_token": {"content": "<none>"}}',
        "tokenizer_config.json": json.dumps(
            {
                "eos_token": "<eos>",
                "add_bos_token": False,
                "model_max_length": 1024,
                "added_tokens_decoder": {
                    str(N_VOCAB + 2): {"content": "<eos>", "special": True, "lstrip": True}
                },
            }
        ).encode(),
    }
    tokenizer = Tokenizer.from_files(files)
    assert (tokenizer.n_vocab, tokenizer.eot) == (N_VOCAB + 3, N_VOCAB + 2)
    assert tokenizer.special_tokens == {"<|pad|>": N_VOCAB, "<eos>": N_VOCAB + 2}
    assert tokenizer.encode("<sep>") == [N_VOCAB + 1]
    assert tokenizer.encode("<|pad|>") == slow_encode(b"<|", VOCABULARY) + [
        token for piece in (b"pad", b"|>") for token in slow_encode(piece, VOCABULARY)
    ]
    assert tokenizer.encode("<|pad|> \t<eos>", allowed_special="all") == [N_VOCAB, N_VOCAB + 2]
    for copy in (tokenizer, Tokenizer.from_table(tokenizer.to_table())):
        assert copy.decode([N_VOCAB, N_VOCAB + 1, N_VOCAB + 2]) == "<|pad|><sep><eos>"
        assert copy.encode("<sep><eos>", allowed_special={"<eos>"}) == [N_VOCAB + 1, N_VOCAB + 2]
    assert Tokenizer.from_files(FILES).eot is None


def test_added_token_outside_the_alphabet() -> None:
    """Catches an added token decoded as if its letters stood for bytes."""
    tokenizer = Tokenizer.from_files(with_added({"content": "<é>"}, {"content": " 中 "}))
    assert tokenizer.encode("a<é> 中 ")[1:] == [N_VOCAB, N_VOCAB + 1]
    assert tokenizer.decode([N_VOCAB, N_VOCAB + 1]) == "<é> 中 "


def test_ignore_merges_takes_whole_tokens() -> None:
    """Catches ignore_merges not heeded: a piece that is a token must not be merged."""
    model = {"ignore_merges": True, "merges": []}
    whole = max((token for token in VOCABULARY[0] if b" " not in token), key=len)
    tokenizer = Tokenizer.from_files(tokenizer_json(model))
    assert tokenizer.encode(whole.decode()) == [VOCABULARY[0].index(whole)]
    assert len(tokenizer.encode(whole.decode() + "x")) == len(whole) + 1
