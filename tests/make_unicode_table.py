r"""Make gpt2fast/_unicode_table.h: the letters, numbers and spaces that GPT-2's pattern sees.

The classes are read off the behaviour of the two tokenizers that define GPT-2's ids today, code
point by code point, and must agree: tiktoken (`\p{L}`, `\p{N}`, `\s` of its Rust regex engine)
and Hugging Face tokenizers (the same of Oniguruma). Run it after a release of either that follows
a newer Unicode, then look at the difference before committing it: it changes token ids.

    python tests/make_unicode_table.py           # rewrite the header
    python tests/make_unicode_table.py --check   # exit 1 if the header is not what it would write
"""

import sys
from importlib.metadata import version
from pathlib import Path

import tiktoken
from tokenizers import Regex, pre_tokenizers

HEADER = Path(__file__).resolve().parent.parent / "gpt2fast" / "_unicode_table.h"
CLASSES = {r"\p{L}": 1, r"\p{N}": 2, r"\s": 3}
PER_LINE = 4
NEW_IN_16_0 = 0x1C89  # CYRILLIC CAPITAL LETTER TJE came with Unicode 16.0
NEW_IN_17_0 = 0x088F  # ARABIC LETTER NOON WITH RING ABOVE came with Unicode 17.0

TEMPLATE = """\
// Letters, numbers and spaces of Unicode {unicode}: what \\p{{L}}, \\p{{N}} and \\s match in
// tiktoken {tiktoken} and in Hugging Face tokenizers {tokenizers}: they agree on every code point.
// (The general categories L* and N* of Unicode 16.0.0, and its 25 White_Space characters.)
// Written by tests/make_unicode_table.py; do not edit. A code point in no range is "other".
#ifndef GPT2FAST_UNICODE_TABLE_H
#define GPT2FAST_UNICODE_TABLE_H

#include <stdint.h>

typedef struct {{
    uint32_t first, last;  // inclusive
    uint32_t kind;         // 1 letter, 2 number, 3 space
}} UnicodeRange;

enum {{ kUnicodeRangeCount = {count} }};

static const UnicodeRange kUnicodeRanges[kUnicodeRangeCount] = {{
{rows}
}};

#endif
"""


def scalar_values() -> list[int]:
    """Return every code point that UTF-8 can carry."""
    return [*range(0xD800), *range(0xE000, 0x110000)]


def matched_by_tiktoken(pattern: str) -> set[int]:
    """Return the code points that `pattern` matches in tiktoken's regex engine."""
    single_bytes = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "class", pat_str=pattern, mergeable_ranks=single_bytes, special_tokens={}
    )
    return {point for point in scalar_values() if encoding.encode_ordinary(chr(point))}


def matched_by_tokenizers(pattern: str) -> set[int]:
    """Return the code points that `pattern` matches in the regex engine of tokenizers."""
    remover = pre_tokenizers.Split(Regex(pattern), behavior="removed")
    return {point for point in scalar_values() if not remover.pre_tokenize_str(chr(point))}


def ranges() -> list[tuple[int, int, int]]:
    """Return the maximal runs (first, last, class) of code points of one class."""
    kinds: dict[int, int] = {}
    for pattern, kind in CLASSES.items():
        points = matched_by_tiktoken(pattern)
        if points != matched_by_tokenizers(pattern):
            raise SystemExit(f"tiktoken and tokenizers disagree on {pattern}")
        kinds.update(dict.fromkeys(points, kind))
    runs: list[tuple[int, int, int]] = []
    for point in sorted(kinds):
        if runs and runs[-1][1] == point - 1 and runs[-1][2] == kinds[point]:
            runs[-1] = (runs[-1][0], point, kinds[point])
        else:
            runs.append((point, point, kinds[point]))
    return runs


def header_text() -> str:
    """Return the header's text for the tiktoken and tokenizers that are installed."""
    runs = ranges()

    def assigned(point: int) -> bool:
        return any(first <= point <= last for first, last, _ in runs)

    if not assigned(NEW_IN_16_0) or assigned(NEW_IN_17_0):
        raise SystemExit("the tokenizers no longer follow Unicode 16.0: name the new version here")
    cells = [f"{{0x{first:05X}, 0x{last:05X}, {kind}}}," for first, last, kind in runs]
    rows = [
        "    " + " ".join(cells[start : start + PER_LINE])
        for start in range(0, len(cells), PER_LINE)
    ]
    return TEMPLATE.format(
        unicode="16.0",
        tiktoken=version("tiktoken"),
        tokenizers=version("tokenizers"),
        count=len(runs),
        rows="\n".join(rows),
    )


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(header_text() != HEADER.read_text(encoding="utf-8"))
    HEADER.write_text(header_text(), encoding="utf-8")
