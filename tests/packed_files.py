"""Takes packed files apart and puts them together again, sound or not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "data" / "packed"


def take_apart(path: Path) -> tuple[dict[str, Any], bytearray]:
    """Return the header, as JSON reads it, and the data."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), bytearray(content[start:])


def put_together(
    path: Path, header: dict[str, Any], data: bytes | bytearray, *, forged: bool = True
) -> Path:
    """Write a packed file; `forged` gives it the fingerprint of the data as it is."""
    if forged:
        header["__metadata__"]["fingerprint"] = hashlib.sha256(data).hexdigest()
    text = json.dumps(header).encode()
    text = text.ljust(len(text) + -(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def tensor(header: dict[str, Any], data: bytearray, name: str) -> NDArray[np.uint8]:
    """Return a writable view of a tensor's stored bytes."""
    begin, end = header[name]["data_offsets"]
    return np.frombuffer(data, np.uint8)[begin:end]
