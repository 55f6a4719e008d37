"""Named sets of options, chosen by how much of what they write on `tales` repeats itself.

`python -m benchmarks.presets` prints the table of `gpt2fast.sampling.Options`.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "deterministic": {"temperature": 0.0, "no_repeat_ngram": 4},
    "balanced": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.05},
    "story": {"temperature": 0.9, "top_p": 0.95, "dry_multiplier": 0.8},
    "code": {"temperature": 0.2, "top_p": 0.95},
}
