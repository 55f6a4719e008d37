"""What a source may be: a bundled model, a file, or a directory."""

from __future__ import annotations

import os
from pathlib import Path

from gpt2fast.checkpoints import Checkpoint, open_checkpoint
from gpt2fast.config import CheckpointError

Source = str | os.PathLike[str]

BUNDLED = {"tales": "tales-int8.safetensors"}


def open_source(source: Source) -> Checkpoint:
    """Open a checkpoint. Raises CheckpointError, also for what does not exist."""
    path = Path(source)
    if not path.exists():
        raise CheckpointError(
            f"{os.fspath(path)!r} is neither a bundled model ({', '.join(BUNDLED)}) nor an "
            "existing file or directory; models of the Hugging Face Hub must be downloaded first, "
            "and given as directory"
        )
    return open_checkpoint(path)
