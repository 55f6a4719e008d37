"""Which version of this source tree is measured."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def commit() -> dict[str, Any]:
    """Return the commit of this source tree, wherever the run was started; {} without git."""
    root = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"id": head, "dirty": bool(changes)}
