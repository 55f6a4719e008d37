"""`verify --golden`: catches another model taken for GPT-2 124M, and the right one refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import write_checkpoint
from random_checkpoints import config_of, huggingface_config, random_tensors
from reference import Array, Twin

import gpt2fast
from gpt2fast import cli, published
from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.config import CheckpointError
from gpt2fast.loading import load_packed

CONFIG = config_of(n_layer=3, n_embd=72, n_vocab=301)
TENSORS = random_tensors(CONFIG)
ROWS = {"explainer.0": ("gelu", 301), "explainer.1": ("gelu", 50), "transformers.0": (None, 50)}


def forge(path: Path, change: Callable[[str, Array], Array] | None = None, **config: Any) -> Path:
    """Publish rows of our random model, computed in float64 and changed."""
    rng = np.random.default_rng(5)
    file: dict[str, Array] = {"shape": np.array([3, 3, 72, 301], np.int32)}
    for name, (activation, n_tokens) in ROWS.items():
        own = {"activation": activation} if activation else {}
        ids = rng.integers(0, 301, 6).astype(np.int32)
        logits = Twin({**CONFIG, **own, **config}, TENSORS).logits(ids)[-1]
        tokens = rng.permutation(301)[:n_tokens].astype(np.int32)
        row = logits[tokens].astype(np.float32)
        file[f"{name}.ids"], file[f"{name}.tokens"] = ids, tokens
        file[f"{name}.logits"] = change(name, row) if change else row
    np.savez(path, **file)  # type: ignore[arg-type]  # none is called allow_pickle
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the random model."""
    folder = tmp_path_factory.mktemp("published")
    return write_checkpoint(folder / "model", huggingface_config(CONFIG), TENSORS)


def model(source: Path, dtype: str) -> PackedModel:
    return load_packed(source, dtype=dtype)


@pytest.mark.parametrize("dtype", published.BOUNDS)
def test_agrees(dtype: str, source: Path, tmp_path: Path) -> None:
    """Catches a row compared at the wrong tokens or position, and the exact GELU not tried."""
    rows = published.compare(model(source, dtype), path=forge(tmp_path / "rows.npz"))
    assert [(item.row.name, item.agrees) for item in rows] == [(name, True) for name in ROWS]
    if dtype == "float32":
        assert [item.activation for item in rows] == ["gelu", "gelu", "gelu_new"]
        assert max(item.difference for item in rows) < 1e-4
    else:
        assert min(item.difference for item in rows) > 1e-5


def test_own_activation_may_be_the_published_one(source: Path, tmp_path: Path) -> None:
    """Catches rows of GPT-2's own GELU that are held against the exact one."""
    path = forge(tmp_path / "rows.npz", activation="gelu_new")
    rows = published.compare(model(source, "float32"), path=path)
    assert {item.activation for item in rows} == {"gelu_new"}
    assert max(item.difference for item in rows) < 1e-4


def one_logit(_: str, row: Array) -> Array:
    row[7] += 0.1
    return row


def shift(_: str, row: Array) -> Array:
    return row + 0.05


def noise(_: str, row: Array) -> Array:
    return row + np.random.default_rng(0).normal(0, 0.35, len(row)).astype(np.float32)


def only_the_last(name: str, row: Array) -> Array:
    return noise(name, row) if name == "transformers.0" else row


@pytest.mark.parametrize(
    ("dtype", "change", "config", "n_differing"),
    [
        ("float32", one_logit, {}, 3),
        ("float32", shift, {}, 3),
        ("float16", shift, {}, 0),  # no probability sees it
        ("float16", one_logit, {}, 0),
        ("float32", only_the_last, {}, 1),
        ("float16", noise, {}, 3),
        ("int8", noise, {}, 3),
        ("int8", only_the_last, {}, 1),
        ("float32", None, {"activation": "relu"}, 3),
        ("int8", None, {"layer_norm_epsilon": 3.0}, 3),
    ],
)
def test_differs(
    dtype: str, change: Any, config: Any, n_differing: int, source: Path, tmp_path: Path
) -> None:
    """Catches a difference beyond the bound that is not seen, or hidden by rows that agree."""
    path = forge(tmp_path / "rows.npz", change, **config)
    rows = published.compare(model(source, dtype), path=path)
    assert sum(not item.agrees for item in rows) == n_differing


def test_another_shape() -> None:
    """Catches a comparison of logits that mean other tokens."""
    with pytest.raises(CheckpointError, match=r"is no GPT-2 124M.*: n_layer is 4, not 12"):
        published.compare(load_packed("tales"))


def test_shipped_rows(test_data: Path) -> None:
    """Catches published numbers that were shipped wrongly; the file itself stays small."""
    shape, rows = published.read_rows(published.GOLDEN)
    assert shape == {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_vocab": 50257}
    assert published.GOLDEN.stat().st_size < 300_000
    with np.load(test_data / "data/gpt2-124m-attention/golden-last-logits.npz") as file:
        for i, row in enumerate(rows[:5]):
            assert row.name == f"explainer.{i}"
            assert np.array_equal(row.ids, file[f"ids{i}"])
            assert np.array_equal(row.logits, file[f"logits{i}"][row.tokens])
            assert np.array_equal(row.tokens, np.arange(0, 50257, 50 if i else 1))
        for row, i in zip(rows[5:], (0, 1, 3), strict=True):
            likeliest = int(file[f"logits{i}"].argmax())
            assert np.array_equal(row.ids, [*file[f"ids{i}"], likeliest])
            assert len(set(row.tokens)) == 50 and np.all(np.diff(row.logits) <= 0)


def test_command(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a verdict or exit status that is not what the rows say."""
    monkeypatch.setattr(published, "GOLDEN", forge(tmp_path / "rows.npz"))
    packed = tmp_path / "packed.safetensors"
    gpt2fast.convert(source, packed, dtype="float16")
    assert cli.main(["verify", "--golden", "--dtype", "float32", str(source)]) == 0
    assert cli.main(["verify", "--golden", str(packed), "--quiet"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[3] == f"{source}: float32 agrees with the published logits of GPT-2 124M"
    assert "float16 agrees with" in out[7]
    forge(tmp_path / "rows.npz", only_the_last)
    assert cli.main(["verify", "--golden", str(packed)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.endswith(": differs") for line in out] == [False, False, True, False]
    assert "float16 differs from" in out[3]
