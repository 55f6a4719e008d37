"""Fast GPT-2 on CPUs: `load` a model, then `generate`.

>>> import gpt2fast
>>> model = gpt2fast.load()
>>> text = model.generate("Once upon a time", max_new_tokens=20).text
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2fast._generate import CancelFlag
    from gpt2fast.completion import Chunk, Completion
    from gpt2fast.config import CheckpointError, Config
    from gpt2fast.conversion.convert import convert
    from gpt2fast.generation.alternatives import Alternative
    from gpt2fast.model import Model, load
    from gpt2fast.resources import Estimate, estimate
    from gpt2fast.scoring.score import Score

__version__ = "0.1.0"
__all__ = [
    "Alternative",
    "CancelFlag",
    "CheckpointError",
    "Chunk",
    "Completion",
    "Config",
    "Estimate",
    "Model",
    "Score",
    "convert",
    "estimate",
    "load",
]

# Looked up on first use, so that `import gpt2fast` loads neither NumPy nor the core.
_HOMES = {
    "Alternative": "generation.alternatives",
    "CancelFlag": "_generate",
    "CheckpointError": "config",
    "Chunk": "completion",
    "Completion": "completion",
    "Config": "config",
    "Estimate": "resources",
    "Model": "model",
    "Score": "scoring.score",
    "convert": "conversion.convert",
    "estimate": "resources",
    "load": "model",
}


if not TYPE_CHECKING:  # or type checkers would believe every name to be there

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
