"""The tokenizer in a GGUF file's metadata, as the files that a Hugging Face checkpoint would have.

    tokenizer.ggml.model        "gpt2" is a byte-level BPE; "none" that there is no tokenizer
    tokenizer.ggml.pre          how text is cut before merging; many names mean GPT-2's pattern
    tokenizer.ggml.tokens       the names of the tokens, in GPT-2's alphabet if they are of type 1
    tokenizer.ggml.token_type   1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
    tokenizer.ggml.merges       "left right", in order of rank

They become a tokenizer.json rather than vocab.json and merges.txt: it holds what a hostile token
or merge would break a line with, and says which added tokens are special. A normal token is part of
the vocabulary; a user-defined one is found in any text; control, unknown and unused ones only where
special tokens are allowed. Unused tokens at the end are rows of the table without a token.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from gpt2fast.checkpoints.gguf_header import GGUFHeader, decoded
from gpt2fast.config import CheckpointError, quote

_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_MERGES, _EOS = "tokenizer.ggml.merges", "tokenizer.ggml.eos_token_id"
_END_OF_TEXT = b"<|endoftext|>"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
_NO_TOKEN = (-1, (1 << 32) - 1)  # llama.cpp writes its -1 as an unsigned integer

# What llama.cpp cuts with GPT-2's pattern. Files from before May 2024 do not say.
_GPT2_PATTERN = (
    "gpt-2", "gpt2", "default", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",
    "gigachat", "a.x-4.0", "mellum", "modern-bert",
)  # fmt: skip


class GGUFTokenizer:
    """The tokenizer of a header, checked as far as that takes no time. Raises CheckpointError.

    `eot` is the id that ends a text, or None. `n_rows` are the rows of the token table.
    """

    def __init__(self, header: GGUFHeader, n_rows: int) -> None:
        self._path = header.path
        self._tokens: list[bytes] = []
        self.eot: int | None = None
        if not self._check_kind(header):
            self.eot = self._end_of_text(header, n_rows)
            return
        self._tokens = header.strings(_TOKENS) or []
        merges = header.strings(_MERGES)
        if not self._tokens or merges is None:
            raise CheckpointError(
                f"{self._path}: {_MERGES if self._tokens else _TOKENS} is missing"
            )
        self._merges = merges
        self._types = self._token_types(header)
        while self._types and self._types[-1] == _UNUSED:
            self._types.pop()
            self._tokens.pop()
        if len(self._tokens) > n_rows:
            raise CheckpointError(
                f"{self._path}: {_TOKENS} has {len(self._tokens)} tokens, token_embd.weight only "
                f"{n_rows} rows"
            )
        self.eot = self._end_of_text(header, n_rows)

    def files(self) -> dict[str, bytes]:
        """Return the tokenizer files by name; none if there is no tokenizer.

        Raises CheckpointError for a token that is not UTF-8 or appears twice, a type that a
        byte-level BPE does not have, a merge that is not two tokens.
        """
        if not self._tokens:
            return {}
        vocab: dict[str, int] = {}
        added: list[dict[str, Any]] = []
        seen: dict[str, int] = {}
        for index, (raw, kind) in enumerate(zip(self._tokens, self._types, strict=True)):
            token = decoded(raw, self._path, f"{_TOKENS}[{index}]")
            if (other := seen.setdefault(token, index)) != index:
                self._fail(f"{_TOKENS}[{index}] is {quote(token)}, and so is token {other}")
            if kind == _NORMAL:
                vocab[token] = index
            elif not _UNKNOWN <= kind <= _UNUSED:
                self._fail(f"{_TYPES}[{index}] is {kind}: allowed are 1 to 5")
            if kind != _NORMAL or raw == _END_OF_TEXT:
                added.append({"id": index, "content": token, "special": kind != _USER_DEFINED})
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
        content = {
            "added_tokens": added,
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": self._pairs()},
        }
        files = {"tokenizer.json": content}
        if self.eot is not None and self.eot < len(self._tokens):
            files["tokenizer_config.json"] = {"eos_token": self._tokens[self.eot].decode("utf-8")}
        return {name: json.dumps(value).encode() for name, value in files.items()}

    def _check_kind(self, header: GGUFHeader) -> bool:
        """Tell whether there is a tokenizer; refuse any that is not GPT-2's."""
        model = header.text("tokenizer.ggml.model")
        if model in (None, "none", "no_vocab"):
            return False
        if model != "gpt2":
            self._fail(f"tokenizer.ggml.model is {quote(model)}: gpt2fast reads 'gpt2'")
        pattern = header.text("tokenizer.ggml.pre")
        if pattern is not None and pattern not in _GPT2_PATTERN:
            self._fail(
                f"tokenizer.ggml.pre is {quote(pattern)}: gpt2fast cuts text by GPT-2's pattern"
            )
        for key in ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"):
            if header.flag(key):
                self._fail(f"{key} is true: gpt2fast puts no token around a text")
        return True

    def _token_types(self, header: GGUFHeader) -> list[int]:
        found = header.numbers(_TYPES)
        if found is None:
            return [_NORMAL] * len(self._tokens)
        if found.dtype.kind not in "iu":
            self._fail(f"{_TYPES} is an array of {found.dtype}, not of integers")
        if len(found) != len(self._tokens):
            self._fail(f"{_TYPES} has {len(found)} types for {len(self._tokens)} tokens")
        types: list[int] = found.tolist()
        return types

    def _end_of_text(self, header: GGUFHeader, n_rows: int) -> int | None:
        eos = header.integer(_EOS)
        if eos is None:
            return self._tokens.index(_END_OF_TEXT) if _END_OF_TEXT in self._tokens else None
        if eos in _NO_TOKEN:
            return None
        if not 0 <= eos < n_rows:
            self._fail(f"{_EOS} is {eos}: allowed are 0 to {n_rows - 1}")
        return eos

    def _pairs(self) -> list[list[str]]:
        pairs = []
        for rank, raw in enumerate(self._merges):
            what = f"{_MERGES}[{rank}]"
            pair = decoded(raw, self._path, what).split(" ")
            if len(pair) != 2:
                self._fail(f"{what} is {quote(raw)}, not two tokens")
            pairs.append(pair)
        return pairs

    def _fail(self, problem: str) -> NoReturn:
        raise CheckpointError(f"{self._path}: {problem}")
