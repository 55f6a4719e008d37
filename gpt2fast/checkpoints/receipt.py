"""The receipt of a conversion: what a packed file was made from, and what the packing cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from gpt2fast.checkpoints import SourceFile
from gpt2fast.config import CheckpointError, parse_json


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a conversion did: its source, the files, the dtype, the error of the weights.

    `weight_error` is, per matrix, the rms of (stored - given) relative to the rms of the weights.
    `seconds` is what the conversion took; None in a receipt read from a file, so that equal sources
    give equal files.
    """

    source: str
    files: tuple[SourceFile, ...]
    dtype: str
    weight_error: Mapping[str, float]
    seconds: float | None = None

    def to_json(self) -> str:
        """Return the receipt as it is stored in the file, without the time."""
        content = dataclasses.asdict(self)
        del content["seconds"]
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, what: str) -> Receipt:
        """Read what `to_json` wrote. Raises CheckpointError, which starts with `what`."""
        content = parse_json(text.encode("utf-8", "surrogatepass"), what)
        try:
            files = tuple(
                SourceFile(str(file["name"]), int(file["size"]), str(file["sha256"]))
                for file in content["files"]
            )
            errors = {str(name): float(e) for name, e in content["weight_error"].items()}
            return cls(str(content["source"]), files, str(content["dtype"]), errors)
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{what} is not a receipt: {type(error).__name__}") from None
