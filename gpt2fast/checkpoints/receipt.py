"""The receipt of a conversion: what a packed file was made from, and what the packing cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpt2fast.checkpoints import SourceFile
from gpt2fast.config import CheckpointError, parse_json


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How far the packed model's predictions are from those of the same weights in float32.

    After each of `tokens` tokens of `text`: `kl_divergence` is the mean of sum p log(p / q) in
    nats, p of float32 and q of the packed model; `top1_agreement` the share, 0 to 1, of positions
    where both find the same token likeliest; the perplexities are those of the text. None stands
    for what is not finite, and for the perplexity of a single token.
    """

    tokens: int
    text: str
    kl_divergence: float | None
    top1_agreement: float | None
    perplexity_float32: float | None
    perplexity: float | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a conversion did: its source, the files, the dtype, and what it cost.

    `weight_error` is, per matrix, the rms of (stored - given) relative to the rms of the weights.
    `fidelity` is None for a model packed in memory, and in files written before there was one.
    `seconds` is what the conversion took; None in a receipt read from a file, so that equal sources
    give equal files. `str(receipt)` is for people.
    """

    source: str
    files: tuple[SourceFile, ...]
    dtype: str
    weight_error: Mapping[str, float]
    seconds: float | None = None
    fidelity: Fidelity | None = None

    def to_json(self) -> str:
        """Return the receipt as it is stored in the file, without the time."""
        content = dataclasses.asdict(self)
        del content["seconds"]
        content["files"] = [
            {key: value for key, value in file.items() if value is not None}
            for file in content["files"]
        ]
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, what: str) -> Receipt:
        """Read what `to_json` wrote, in this version or an earlier one.

        Raises CheckpointError, which starts with `what`.
        """
        content = parse_json(text.encode("utf-8", "surrogatepass"), what)
        try:
            return cls(
                str(content["source"]),
                tuple(map(_file, content["files"])),
                str(content["dtype"]),
                {str(name): float(e) for name, e in content["weight_error"].items()},
                None,
                _fidelity(content.get("fidelity")),
            )
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{what} is not a receipt: {type(error).__name__}") from None

    def __str__(self) -> str:
        return "\n".join(f"{name:<12} {_printable(value)}" for name, value in self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "source", self.source
        for file in self.files:
            digest = f"sha256 {file.sha256}"
            if file.sha256 is None:
                digest = f"sha256 of its tensors {file.tensors_sha256}"
            yield "", f"{file.name}, {file.size:,} bytes, {digest}"
        yield "weight error", f"relative, as {self.dtype}"
        for layer, errors in _by_layer(self.weight_error).items():
            yield "", f"{layer:<8} " + "  ".join(f"{n} {e:#.2g}" for n, e in errors.items())
        if self.fidelity is not None:
            yield from _fidelity_rows(self.fidelity, self.dtype)
        if self.seconds is not None:
            yield "seconds", f"{self.seconds:.1f}"


def _file(content: Any) -> SourceFile:
    [kind] = content.keys() & {"sha256", "tensors_sha256"}
    return SourceFile(str(content["name"]), int(content["size"]), **{kind: str(content[kind])})


def _fidelity(content: Any) -> Fidelity | None:
    if content is None:
        return None
    numbers = [field.name for field in dataclasses.fields(Fidelity)[2:]]
    values = {n: None if content[n] is None else float(content[n]) for n in numbers}
    return Fidelity(int(content["tokens"]), str(content["text"]), **values)


def _by_layer(errors: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Group h.0.attn.c_attn.weight and its like: {"h.0": {"attn.c_attn": error}}."""
    layers: dict[str, dict[str, float]] = {}
    for name, error in errors.items():
        parts = name.removesuffix(".weight").split(".")
        at = 2 if parts[0] == "h" else 1
        layers.setdefault(".".join(parts[:at]), {})[".".join(parts[at:])] = error
    return layers


def _fidelity_rows(fidelity: Fidelity, dtype: str) -> Iterator[tuple[str, str]]:
    yield "fidelity", f"to float32, on {fidelity.tokens} tokens of {fidelity.text}"
    for name, value in (
        ("KL divergence", _shown(fidelity.kl_divergence, ".3g", " nats per token")),
        ("top-1 agreement", _shown(fidelity.top1_agreement, ".1%")),
        (
            "perplexity",
            f"{_shown(fidelity.perplexity_float32, '.5g')} as float32, "
            f"{_shown(fidelity.perplexity, '.5g')} as {dtype}",
        ),
    ):
        yield "", f"{name} {value}"


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "not finite" if value is None else f"{value:{form}}{unit}"


def _printable(text: str) -> str:
    """Escape what could steer a terminal: the receipt of a file may say anything."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()
