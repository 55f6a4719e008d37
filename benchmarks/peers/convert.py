"""Make an engine's model from a checkpoint, in that engine's environment.

python -m benchmarks.peers.convert CONVERTER CHECKPOINT MODEL FORMAT
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Call `convert` of the module that the first argument names."""
    converter, checkpoint, model, dtype = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.peers.{converter}")
    module.convert(Path(checkpoint), Path(model), dtype)


if __name__ == "__main__":
    main()
