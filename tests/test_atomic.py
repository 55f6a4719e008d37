"""Writing files: what killed processes left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gpt2fast.atomic import replacing


def test_abandoned_files_are_swept(tmp_path: Path) -> None:
    """Catches gigabytes that a killed conversion leaves for ever, and the file of a running one."""
    for name, age in (("old", 25), ("young", 23), ("ahead", -25)):
        path = tmp_path / f".gpt2fast-{name}.tmp"
        path.touch()
        os.utime(path, (time.time() - 3600 * age,) * 2)
    for other in (".other-old.tmp", "gpt2fast-old.tmp", ".gpt2fast-old.txt"):
        (tmp_path / other).touch()
        os.utime(tmp_path / other, (0, 0))
    (tmp_path / ".gpt2fast-directory.tmp").mkdir()
    os.utime(tmp_path / ".gpt2fast-directory.tmp", (0, 0))
    before = {path.name for path in tmp_path.iterdir()}
    with replacing(tmp_path / "packed") as file:
        file.write(b"content")
    after = {path.name for path in tmp_path.iterdir()}
    assert before - after == {".gpt2fast-old.tmp"}
    assert after - before == {"packed"}
