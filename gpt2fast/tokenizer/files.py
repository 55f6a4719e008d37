"""Read a tokenizer's files: vocab.json and merges.txt, or tokenizer.json, with added tokens.

Whatever would change ids and is not supported (a normalizer, another model than BPE, another
pre-tokenizer than Split and ByteLevel, a post-processor that adds tokens) is refused by name.
Settings that only concern batches (truncation, padding) are ignored.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from gpt2fast.config import parse_json
from gpt2fast.tokenizer.vocabulary import (
    BEHAVIORS,
    AddedToken,
    Split,
    Splitting,
    Vocabulary,
    added_token,
    build,
    field,
    ids_of,
    short,
    text_of,
)

END_OF_TEXT = "<|endoftext|>"
GPT2_PATTERNS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
)


def read_vocabulary(files: Mapping[str, bytes]) -> Vocabulary:
    """Read tokenizer.json if it is there, else vocab.json and merges.txt.

    Beside vocab.json, added_tokens.json, special_tokens_map.json and tokenizer_config.json say
    which tokens are added and special; `<|endoftext|>` always is. Raises ValueError naming the
    file and what is wrong with it.
    """
    if "tokenizer.json" in files:
        return _read_tokenizer_json(files)
    missing = [name for name in ("vocab.json", "merges.txt") if name not in files]
    if missing:
        raise ValueError(
            f"no {' and no '.join(missing)} among the tokenizer files {sorted(files)}: "
            "needed are tokenizer.json, or vocab.json and merges.txt"
        )
    return _read_vocab_and_merges(files)


def _read_vocab_and_merges(files: Mapping[str, bytes]) -> Vocabulary:
    vocab = ids_of("vocab.json", parse_json(files["vocab.json"], "vocab.json"))
    merges: list[tuple[str, str]] = []
    lines = text_of("merges.txt", files["merges.txt"]).split("\n")
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise ValueError(f"merges.txt: line {number} is {short(line)}, not two tokens")
        merges.append((left, right))
    config = parse_json(files.get("tokenizer_config.json", b"{}"), "tokenizer_config.json")
    if field("tokenizer_config.json", config, "add_bos_token", bool, False):
        raise ValueError("tokenizer_config.json: add_bos_token is not supported")
    added = _declared_tokens(files, config, vocab)
    eot = _end_of_text(config, {**vocab, **{token.content: token.id for token in added}})
    prefix = field("tokenizer_config.json", config, "add_prefix_space", bool, False)
    splitting = Splitting(add_prefix_space=prefix)
    return build(
        "vocab.json", vocab, merges, "merges.txt", added,
        splitting=splitting, whole_pieces=False, eot=eot,
    )  # fmt: skip


def _declared_tokens(
    files: Mapping[str, bytes], config: Any, vocab: dict[str, int]
) -> list[AddedToken]:
    """Gather the added tokens that the files beside vocab.json declare."""
    found: dict[str, AddedToken] = {}
    listed = parse_json(files.get("added_tokens.json", b"{}"), "added_tokens.json")
    for content, index in ids_of("added_tokens.json", listed).items():
        entry = {"content": content, "normalized": True}
        found[content] = added_token("added_tokens.json", entry, index)
    ids = {**vocab, **{content: token.id for content, token in found.items()}}
    decoder = field("tokenizer_config.json", config, "added_tokens_decoder", dict, {})
    for index, entry in decoder.items():
        if not (index.isascii() and index.isdigit() and len(index) < 11):
            raise ValueError(f"tokenizer_config.json: {short(index)} is not a token id")
        token = added_token("tokenizer_config.json", entry, int(index))
        ids[token.content] = token.id
        found[token.content] = token
    roles = parse_json(files.get("special_tokens_map.json", b"{}"), "special_tokens_map.json")
    for name, holder in (("special_tokens_map.json", roles), ("tokenizer_config.json", config)):
        if not isinstance(holder, dict):
            raise ValueError(f"{name}: {short(holder)} where an object was expected")
        entries = [entry for role, entry in holder.items() if role.endswith("_token")]
        entries += field(name, holder, "additional_special_tokens", list, [])
        for entry in (*entries, END_OF_TEXT):
            special = {"content": entry} if isinstance(entry, str) else entry
            if not isinstance(special, dict):
                continue  # null, and add_bos_token and the like
            content = field(name, special, "content", str, "")
            if content in ids and not (content in found and found[content].special):
                found[content] = added_token(name, {**special, "special": True}, ids[content])
    return sorted(found.values(), key=lambda token: token.id)


def _end_of_text(config: Any, ids: dict[str, int]) -> int | None:
    """Return the id of `<|endoftext|>`, else of the eos_token that the configuration names."""
    if END_OF_TEXT in ids or not isinstance(config, dict):
        return ids.get(END_OF_TEXT)
    named = config.get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    return ids.get(named) if isinstance(named, str) else None


def _read_tokenizer_json(files: Mapping[str, bytes]) -> Vocabulary:
    name = "tokenizer.json"
    root = parse_json(files[name], name)
    model = field(name, root, "model", dict)
    if model is None:
        raise ValueError(f"{name}: no 'model'")
    _check_model(name, model)
    if root.get("normalizer") not in (None, {"type": "Sequence", "normalizers": []}):
        _refuse(name, "normalizer", root["normalizer"], "none")
    _check_post_processor(name, root.get("post_processor"))
    _check_decoder(name, root.get("decoder"))
    vocab = ids_of(name, model.get("vocab"))
    listed = field(name, model, "merges", list, [])
    merges = [_pair(name, rank, merge) for rank, merge in enumerate(listed)]
    added = [added_token(name, entry) for entry in field(name, root, "added_tokens", list, [])]
    ids = {**vocab, **{token.content: token.id for token in added}}
    config = parse_json(files.get("tokenizer_config.json", b"{}"), "tokenizer_config.json")
    return build(
        name, vocab, merges, name, added,
        splitting=_read_splitting(name, root.get("pre_tokenizer")),
        whole_pieces=field(name, model, "ignore_merges", bool, False),
        eot=_end_of_text(config, ids),
    )  # fmt: skip


def _refuse(name: str, what: str, got: Any, allowed: str) -> NoReturn:
    kind = got.get("type") if isinstance(got, dict) else got
    raise ValueError(f"{name}: {what} {short(kind)} is not supported, only {allowed}")


def _check_model(name: str, model: dict[str, Any]) -> None:
    """Refuse what is not plain BPE. With all bytes there, unk_token and byte_fallback are idle."""
    if model.get("type", "BPE") != "BPE":
        _refuse(name, "model", model, "BPE")
    for option, allowed in (
        ("dropout", (None, 0)),
        ("continuing_subword_prefix", (None, "")),
        ("end_of_word_suffix", (None, "")),
    ):
        if model.get(option) not in allowed:
            _refuse(name, option, model[option], "none")


def _check_post_processor(name: str, processor: Any) -> None:
    """Refuse a post-processor that puts tokens around the text."""
    kind = field(name, processor or {}, "type", str)
    if kind == "Sequence":
        for part in field(name, processor, "processors", list, []):
            _check_post_processor(name, part)
    elif kind == "TemplateProcessing":
        for part in field(name, processor, "single", list, []):
            if not isinstance(part, dict) or "Sequence" not in part:
                _refuse(name, "post_processor", processor, "a template without special tokens")
    elif kind not in (None, "ByteLevel"):
        _refuse(name, "post_processor", processor, "ByteLevel")


def _check_decoder(name: str, decoder: Any) -> None:
    kind = field(name, decoder or {}, "type", str)
    if kind == "Sequence":
        for part in field(name, decoder, "decoders", list, []):
            _check_decoder(name, part)
    elif kind not in (None, "ByteLevel"):
        _refuse(name, "decoder", decoder, "ByteLevel")


def _pair(name: str, rank: int, merge: Any) -> tuple[str, str]:
    """Return a merge given as "left right" or as ["left", "right"]."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if (
        not isinstance(parts, list)
        or len(parts) != 2
        or not all(isinstance(part, str) and part for part in parts)
    ):
        raise ValueError(f"{name}: merge {rank} is {short(merge)}, not two tokens")
    return parts[0], parts[1]


def _read_splitting(name: str, pre_tokenizer: Any) -> Splitting:
    """Return how the pre-tokenizer cuts text: any Splits, then one ByteLevel."""
    parts = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        parts = field(name, pre_tokenizer, "pretokenizers", list, [])
    if not parts or not isinstance(parts[-1], dict) or parts[-1].get("type") != "ByteLevel":
        _refuse(name, "pre_tokenizer", parts[-1] if parts else None, "one that ends in ByteLevel")
    prefix = field(name, parts[-1], "add_prefix_space", bool, True)
    use_regex = field(name, parts[-1], "use_regex", bool, True)
    steps = tuple(_read_split(name, part) for part in parts[:-1])
    last = steps[-1] if steps else None
    if not use_regex and not prefix and last is not None and _is_gpt2(last):
        return Splitting(steps[:-1])
    return Splitting(steps, prefix, use_regex)


def _is_gpt2(step: Split) -> bool:
    """Say whether a step cuts as GPT-2's pattern does: it leaves no character unmatched."""
    kept = step.behavior == "Isolated" or (step.behavior == "Removed" and step.invert)
    return kept and step.pattern in GPT2_PATTERNS


def _read_split(name: str, part: Any) -> Split:
    kind = field(name, part, "type", str)
    if kind != "Split":
        _refuse(name, "pre_tokenizer", part, "Split and ByteLevel")
    behavior = field(name, part, "behavior", str)
    if behavior not in BEHAVIORS:
        _refuse(name, "Split behavior", behavior, ", ".join(BEHAVIORS))
    pattern = field(name, part, "pattern", dict, {})
    source = field(name, pattern, "Regex", str)
    if source is None:
        literal = field(name, pattern, "String", str)
        if not literal:
            raise ValueError(f"{name}: a Split has no pattern")
        source = re.escape(literal)
    return Split(source, behavior, field(name, part, "invert", bool, False))
