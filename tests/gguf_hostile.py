"""Damaged and hostile GGUF files, as generators: each with what its error must say.

They follow the published attacks on GGUF readers: counts, lengths and shapes whose products wrap
around in 64 bits, ids out of range, values of another type than expected.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from checkpoint_files import byte_level_vocabulary
from gguf_files import (
    ARRAY,
    BOOL,
    F32,
    I32,
    N_ROWS,
    SMALL,
    STRING,
    TYPES,
    U64,
    GGUFFile,
    Raw,
    Tensor,
    f32,
    integers,
    small_file,
    strings,
    tokenizer_metadata,
)

from gpt2fast.checkpoints.gguf_blocks import OTHER_TYPES

WRAPS = {"2^31": 1 << 31, "2^32-1": (1 << 32) - 1, "2^63": 1 << 63, "2^64-1": (1 << 64) - 1}
TOKENS = byte_level_vocabulary(N_ROWS)[0]

Case = tuple[Callable[[], GGUFFile], str]


def keyed(key: str, value: Any, message: str) -> Case:
    """Return a sound file but for one value of its metadata."""
    return lambda: small_file({key: value}), message


def tensor(name: str, message: str, sizes: tuple[int, ...], kind: int = 0, **rest: Any) -> Case:
    """Return a sound file but for one tensor, which has 128 bytes."""

    def file() -> GGUFFile:
        result = small_file()
        result.tensors[name] = Tensor(sizes, kind, bytes(128), **rest)
        return result

    return file, message


def parts(message: str, **changes: Any) -> Case:
    """Return a sound file but for some of its parts."""

    def file() -> GGUFFile:
        result = small_file()
        for name, value in changes.items():
            setattr(result, name, value)
        return result

    return file, message


def array(kind: int, count: int, content: bytes = b"") -> Raw:
    return Raw(ARRAY, struct.pack("<IQ", kind, count) + content)


def tokens_with(index: int, token: str | bytes) -> Raw:
    found = [item.encode() for item in TOKENS]
    found[index] = token.encode() if isinstance(token, str) else token
    return strings(found)


def without(name: str) -> Callable[[], GGUFFile]:
    def file() -> GGUFFile:
        result = small_file()
        del result.tensors[name]
        return result

    return file


BIAS = "output_norm.bias"  # the last tensor
TOKEN_LIST = "tokenizer.ggml.tokens"
TYPE_LIST = "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"
EOS = "tokenizer.ggml.eos_token_id"

HEADERS: dict[str, Case] = {
    "other magic": parts("begins with b'GGML': it is not a GGUF file", magic=b"GGML"),
    "magic backwards": parts("big-endian GGUF file", magic=b"FUGG"),
    "big-endian": parts("big-endian GGUF file", version=3 << 24),
    "version 0": parts("GGUF version 0; gpt2fast reads versions 2 and 3", version=0),
    "version 1": parts("GGUF version 1, of 2023", version=1),
    "version 99": parts("GGUF version 99", version=99),
    **{
        f"{what} {name}": parts(f"announces {count} {words}", **{what: count})
        for name, count in {**WRAPS, "wrap": (1 << 64) // 24 + 1}.items()
        for what, words in (("n_entries", "metadata entries"), ("n_tensors", "tensors"))
    },
    "one entry more": parts("tensor 0 has a name of", n_entries=15),
    "one tensor more": parts("tensor|truncated", n_tensors=17),
    "no tensor": parts("tensor token_embd.weight is missing", tensors={}),
    "no entry": parts("is_missing|is missing", metadata={}),
    "bytes behind the data": parts("the rest is of no tensor", tail=bytes(33)),
    "another file behind the data": parts("the rest is of no tensor", tail=b"PK\x03\x04" * 99),
    "key twice": parts("'gpt2.block_count' appears twice", extra=[("gpt2.block_count", 1)]),
    "key not UTF-8": parts("name of metadata entry 14 is not UTF-8", extra=[(b"\xff", 1)]),
    "key of 64 KiB": parts("name of 65536 bytes", extra=[("k" * 65536, 1)]),
    "tensor twice": parts(
        f"tensor '{BIAS}' appears twice", extra_tensors=[(BIAS, f32(np.ones(32)))]
    ),
    **{
        f"string of {name}": parts("truncated", extra=[("k", Raw(STRING, struct.pack("<Q", n)))])
        for name, n in WRAPS.items()
    },
    **{
        f"array of {name}": parts("truncated", extra=[("k", array(U64, n))])
        for name, n in {**WRAPS, "wrap": (1 << 61) + 1}.items()
    },
    **{
        f"{name} strings": parts(f"an array of {n} strings", extra=[("k", array(STRING, n))])
        for name, n in {**WRAPS, "wrap": (1 << 61) + 1}.items()
    },
    "array of arrays": parts("an array of arrays", extra=[("k", array(ARRAY, 1, bytes(12)))]),
    "value type 13": parts("unknown value type 13", extra=[("k", Raw(13, bytes(8)))]),
    "value type -1": parts("unknown value type 4294967295", extra=[("k", Raw((1 << 32) - 1, b""))]),
    "item type 99": parts("unknown value type 99", extra=[("k", array(99, 1))]),
}

ALIGNMENT = "general.alignment"
TENSORS: dict[str, Case] = {
    "alignment 0": keyed(ALIGNMENT, 0, "alignment 0, not a power of two"),
    "alignment 3": keyed(ALIGNMENT, 3, "alignment 3, not a power of two"),
    "alignment 2^31": keyed(ALIGNMENT, 1 << 31, "leaves a hole|truncated"),
    "alignment a string": keyed(ALIGNMENT, "32", "not a power of two"),
    "alignment negative": keyed(ALIGNMENT, Raw(I32, struct.pack("<i", -32)), "not a power of two"),
    "alignment true": keyed(ALIGNMENT, True, "not a power of two"),
    "no dimension": tensor(BIAS, "has 0 dimensions", ()),
    "five dimensions": tensor(BIAS, "has 5 dimensions", (32, 1, 1, 1, 1)),
    "negative size": tensor(BIAS, "truncated", (32, (1 << 64) - 1)),
    "size wraps to 0": tensor(BIAS, "truncated", (1 << 32, 1 << 32)),
    "size wraps to 128": tensor(BIAS, "truncated", ((1 << 62) + 32,)),
    "sizes that sum up to 2^64": tensor("token_embd.weight", "truncated", ((1 << 62) - 32,)),
    "size 0": tensor(BIAS, "leaves a hole|has the sizes|of no tensor", (0,)),
    "size 0 times 2^60": tensor(BIAS, "of no tensor|has the sizes", (0, 1 << 60)),
    "one weight more": tensor(BIAS, "truncated", (33,)),
    "one weight less": tensor(BIAS, r"has the sizes \[31\], the metadata says \[32\]", (31,)),
    "two dimensions": tensor(BIAS, "has the sizes", (16, 2)),
    "type 42": tensor(BIAS, "type 42, which is unknown", (32,), 42),
    "type -1": tensor(BIAS, "type 4294967295, which is unknown", (32,), -1),
    **{
        f"type {name}": tensor("blk.0.attn_qkv.weight", f"'blk.0.attn_qkv.weight' has type {name}: "
                               "gpt2fast reads BF16, F16, F32, IQ4_NL, Q2_K", (32, 96), number)
        for number, name in OTHER_TYPES.items()
    },
    "half a block": tensor(BIAS, "rows of 33 weights, Q8_0 has blocks of 32", (33,), TYPES["Q8_0"]),
    "offset past the end": tensor(BIAS, "leaves a hole", (32,), offset=1 << 40),
    "offset 2^64-32": tensor(BIAS, "leaves a hole", (32,), offset=(1 << 64) - 32),
    "offset not aligned": tensor(BIAS, "overlaps|leaves a hole", (32,), offset=33),
    "overlap": tensor(BIAS, "overlaps", (32,), offset=0),
    "no embedding": (without("token_embd.weight"), "tensor token_embd.weight is missing"),
    "no bias": (without("blk.0.ffn_up.bias"), "tensor blk.0.ffn_up.bias is missing"),
    "unknown tensor": parts(
        "tensor 'rope_freqs.weight' is unknown",
        extra_tensors=[("rope_freqs.weight", f32(np.ones(8)))],
    ),
    "a layer more": parts("tensor 'blk.1.ffn_up.bias' is unknown; a GPT-2 of 1 layers",
                          extra_tensors=[("blk.1.ffn_up.bias", f32(np.ones(64)))]),
    "a name with NUL": parts(
        r"'output_norm.bias\\x00' is unknown", extra_tensors=[(BIAS + "\0", f32(np.ones(32)))]
    ),
}  # fmt: skip

METADATA: dict[str, Case] = {
    **{
        f"{key} missing": keyed(key, None, f"{key} is missing")
        for key in ("general.architecture", *SMALL)
    },
    **{f"{key} 0": keyed(key, 0, "1 to|multiple|missing|sizes") for key in list(SMALL)[:-1]},
    **{
        f"{key} 2^32-1": keyed(key, (1 << 32) - 1, "must be an integer from 1|layers|sizes|missing")
        for key in list(SMALL)[:-1]
    },
    "heads that do not divide": keyed("gpt2.attention.head_count", 3, "multiple of n_head"),
    "heads per layer": keyed("gpt2.attention.head_count", integers([2]), "an array of 1, not an"),
    "layers as a string": keyed("gpt2.block_count", "1", "is an array of 1, not an integer"),
    "layers as a float": keyed("gpt2.block_count", 1.0, "block_count is 1.0, not an integer"),
    "layers true": keyed("gpt2.block_count", True, "block_count is True, not an integer"),
    "layers negative": keyed("gpt2.block_count", Raw(I32, b"\xff" * 4), "integer from 1"),
    "epsilon 0": keyed("gpt2.attention.layer_norm_epsilon", 0.0, "positive finite"),
    "epsilon NaN": keyed("gpt2.attention.layer_norm_epsilon", float("nan"), "positive finite"),
    "epsilon an integer": keyed("gpt2.attention.layer_norm_epsilon", 1, "not a floating-point"),
    "other architecture": keyed("general.architecture", "llama", "is a 'llama' model: gpt2fast"),
    "architecture with NUL": keyed("general.architecture", "gpt2\0", r"is a 'gpt2\\x00' model"),
    "architecture not UTF-8": keyed("general.architecture", b"\xff", "is not UTF-8"),
    "architecture a number": keyed("general.architecture", 2, "is 2, not a string"),
    "an adapter": keyed("general.type", "adapter", "a file of type 'adapter', not a model"),
    "a piece": keyed("split.count", 3, "one of 3 pieces of a model: join them"),
}

TOKENIZERS: dict[str, Case] = {
    "other model": keyed("tokenizer.ggml.model", "llama", "is 'llama': gpt2fast reads 'gpt2'"),
    "other pattern": keyed("tokenizer.ggml.pre", "llama-bpe", "pre is 'llama-bpe'"),
    "a token in front": keyed("tokenizer.ggml.add_bos_token", True, "no token around a text"),
    "a token behind": keyed("tokenizer.ggml.add_eos_token", True, "no token around a text"),
    "no tokens": keyed(TOKEN_LIST, strings([]), f"{TOKEN_LIST} is missing"),
    "one token": keyed(TOKEN_LIST, strings(["!"]), "260 types for 1 tokens"),
    "ten tokens": (
        lambda: small_file({TOKEN_LIST: strings(TOKENS[:10]), TYPE_LIST: None, EOS: 9}),
        "no token for 246 of the 256 bytes",
    ),
    "more tokens than rows": (
        lambda: small_file(tokenizer_metadata(N_ROWS + 1)),
        "261 tokens, token_embd.weight only 260 rows",
    ),
    "tokens not listed": keyed(TOKEN_LIST, "abc", "is an array of 3, not an array of strings"),
    "tokens as numbers": keyed(TOKEN_LIST, integers([1]), "not an array of strings"),
    "token not UTF-8": keyed(TOKEN_LIST, tokens_with(7, b"\xc3"), r"tokens\[7\] is not UTF-8"),
    "token twice": keyed(TOKEN_LIST, tokens_with(7, "!"), r"tokens\[7\] is '!', and so is token 0"),
    "token empty": keyed(TOKEN_LIST, tokens_with(7, ""), r"tokenizer\.ggml: token '' \(id 7\)"),
    "token with NUL": keyed(TOKEN_LIST, tokens_with(7, "\0"), r"U\+0000 stands for no byte"),
    "byte token with a sign": (
        lambda: small_file({TOKEN_LIST: tokens_with(7, "<0x-1>"),
                            TYPE_LIST: integers([1] * 7 + [6] + [1] * 252)}),
        r"token_type\[7\] is 6: allowed are 1 to 5",
    ),
    "type out of range": keyed(TYPE_LIST, integers([1] * 259 + [-1]), r"token_type\[259\] is -1"),
    "types too few": keyed(TYPE_LIST, integers([1] * 259), "259 types for 260 tokens"),
    "types as floats": keyed(TYPE_LIST, array(F32, 1, bytes(4)), "not of integers"),
    "types as flags": keyed(TYPE_LIST, array(BOOL, 260, bytes(260)), "not of integers"),
    "no merges": keyed(MERGES, None, f"{MERGES} is missing"),
    "merge of one": keyed(MERGES, strings(["ab"]), r"merges\[0\] is b'ab', not two tokens"),
    "merge of three": keyed(MERGES, strings(["a b c"]), "not two tokens"),
    "merge of nothing": keyed(MERGES, strings([" "]), "not two tokens"),
    "merge not UTF-8": keyed(MERGES, strings([b"\xff \xff"]), r"merges\[0\] is not UTF-8"),
    "merge of two lines": keyed(MERGES, strings(["! !\n! \""]), "not two tokens"),
    "merge of no token": keyed(MERGES, strings(["x zz"]), "is not in the vocabulary"),
    "end of text past the table": keyed(EOS, N_ROWS, "is 260: allowed are 0 to 259"),
    "end of text 2^31": keyed(EOS, 1 << 31, "is 2147483648: allowed"),
    "end of text negative": keyed(EOS, Raw(I32, struct.pack("<i", -2)), "is -2: allowed"),
    "end of text 2^64-1": keyed(EOS, Raw(U64, b"\xff" * 8), "allowed are 0"),
    "end of text a string": keyed(EOS, "259", "not an integer"),
}  # fmt: skip

HOSTILE = HEADERS | TENSORS | METADATA | TOKENIZERS
