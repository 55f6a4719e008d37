"""Named sets of options, chosen by how much of what they write on `tales` repeats itself.

A preset should repeat as much as books do, no less. "code" is for text that repeats itself by
right: only long repetitions cost something. The table is in the README; `python -m
benchmarks.presets` of the source prints it anew, and with `--candidates` what else was tried.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "deterministic": {"temperature": 0.0, "repetition_penalty": 1.3},
    "balanced": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1},
    "story": {"temperature": 1.0, "top_p": 1.0, "min_p": 0.02, "repetition_penalty": 1.05},
    "code": {
        "temperature": 0.6,
        "top_p": 0.95,
        "dry_multiplier": 0.8,
        "dry_allowed_length": 10,
        "dry_breakers": (),
    },
}
