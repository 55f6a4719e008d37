"""What each engine's arithmetic costs: logits, and perplexity on a trained model.

    python -m benchmarks.peers.quality --text FOLDER [--sizes gpt2 ...] [--engines int8 ...]

Logits of the random checkpoints, at 64 positions, and of a trained model on the text that it was
held out from, beside those of torch in float32: root mean square of the difference, and how often
the most likely token is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.client import EngineError, EngineProcess
from benchmarks.peers.engines import ENGINES, Engine, Places, chosen
from benchmarks.peers.measures import Measure
from benchmarks.peers.prepare import convert
from benchmarks.peers.report_quality import quality_tables
from benchmarks.peers.weights import finished
from benchmarks.random_checkpoints import SIZES
from gpt2fast.tokenizer import Tokenizer

_REFERENCE = next(engine for engine in ENGINES if engine.name == "torch-float32")
_RANDOM = Measure("logits", "", 1, 64)
_CHARACTERS = 25_000  # of each text: about 20,000 tokens in all
_WINDOW = 512
_THREADS = 1

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """A checkpoint with its tokenizer, and texts that it was not trained on."""

    checkpoint: Path
    texts: list[Path]

    @staticmethod
    def below(folder: Path) -> Trained:
        """Return what the project's test data has.

        Raises FileNotFoundError if it is not there.
        """
        found = Trained(
            folder / "models" / "tales", sorted((folder / "data" / "stories-valid").glob("*.txt"))
        )
        if not found.checkpoint.is_dir() or not found.texts:
            raise FileNotFoundError(f"{folder}: no models/tales or no data/stories-valid/*.txt")
        return found

    def windows(self) -> list[list[int]]:
        """Return the texts' ids, in windows that the model can read."""
        names = ("vocab.json", "merges.txt")
        files = {name: (self.checkpoint / name).read_bytes() for name in names}
        tokenizer = Tokenizer.from_files(files)
        windows = []
        for text in self.texts:
            ids = tokenizer.encode(text.read_text(encoding="utf-8")[:_CHARACTERS])
            windows += [ids[start : start + _WINDOW] for start in range(0, len(ids), _WINDOW)]
        return [window for window in windows if len(window) > 1]


def compare(
    places: Places, engines: Sequence[Engine], sizes: Sequence[str], trained: Trained
) -> list[dict[str, Any]]:
    """Return one row for each engine and model; `failed` says why one has no numbers."""
    rows = []
    name = _added(places, trained.checkpoint)
    cases = [(size, size, _RANDOM.ids(0, 0)) for size in sizes]
    for model, label, windows in [*cases, (name, trained.checkpoint.name, trained.windows())]:
        for engine in engines:
            if model == name and not places.model(engine, model).exists():
                with suppress(OSError, CalledProcessError):  # an engine without model is reported
                    convert(places, engine, model)
        rows += [{"model": label, **row} for row in _rows(places, engines, model, windows)]
    return rows


def _added(places: Places, checkpoint: Path) -> str:
    """Copy a checkpoint to where the engines find it, and return its name there."""
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    name = f"{checkpoint.name}-{digest[:12]}"
    if not places.checkpoint(name).exists():
        with finished(places.checkpoint(name)) as folder:
            shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    return name


def _rows(
    places: Places, engines: Sequence[Engine], model: str, windows: list[list[int]]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each engine, torch first. Window by window: logits are large."""
    for engine in [_REFERENCE, *(e for e in engines if e != _REFERENCE)]:
        row = {"engine": engine.name, "label": engine.label}
        try:
            with (
                EngineProcess(_REFERENCE, places, model, _THREADS) as reference,
                EngineProcess(engine, places, model, _THREADS) as process,
            ):
                compared = ((w, reference.logits(w), process.logits(w)) for w in windows)
                yield row | _numbers(compared)
        except EngineError as error:
            yield row | {"failed": str(error)}
        print("quality", model, engine.name, file=sys.stderr)


def _numbers(compared: Iterator[tuple[list[int], Floats, Floats]]) -> dict[str, float]:
    squares, deviation, same, loss, count, positions = 0.0, 0.0, 0, 0.0, 0, 0
    for window, wanted, found in compared:
        if wanted.shape != found.shape:
            raise EngineError(f"gave logits of shape {found.shape}, not {wanted.shape}")
        squares += float(np.square(found - wanted, dtype=np.float64).sum())
        deviation += float(np.square(wanted - wanted.mean(), dtype=np.float64).sum())
        same += int((found.argmax(-1) == wanted.argmax(-1)).sum())
        positions += len(window)
        loss += _loss(found[:-1], window[1:])
        count += len(window) - 1
    values = positions * found.shape[1]
    return {
        "positions": positions,
        "rms_error": float(np.sqrt(squares / values)),
        "deviation": float(np.sqrt(deviation / values)),
        "same_token": same / positions,
        "perplexity": float(np.exp(loss / count)),
    }


def _loss(rows: Floats, tokens: list[int]) -> float:
    """Return minus the sum of the log-probabilities of tokens."""
    wide = rows.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    chosen_ = np.take_along_axis(wide, np.array(tokens)[:, None], 1)[:, 0]
    return float((np.log(np.exp(wide).sum(-1)) - chosen_).sum())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--text", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--sizes", nargs="*", default=["gpt2"], choices=SIZES, metavar="SIZE")
    parser.add_argument("--engines", nargs="+", default=["int8"], metavar="ENGINE or GROUP")
    parser.add_argument("--cache", type=Path, default=Places.default(), help="default: %(default)s")
    options = parser.parse_args()
    try:
        engines, trained = chosen(options.engines), Trained.below(options.text)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    rows = compare(Places(options.cache), engines, options.sizes, trained)
    print("\n".join(quality_tables(rows)))


if __name__ == "__main__":
    main()
