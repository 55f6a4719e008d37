"""Texts against transformers' generate, token for token, in float32: a sample of `differential`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoint_files
import numpy as np
import pytest
from differential import LENGTHS, MODES, PENALISED, differences, prompts_of
from numpy.typing import NDArray
from oracle import oracle_model
from random_checkpoints import config_of, huggingface_config, random_tensors

import gpt2fast

N_NEW = 24


@pytest.fixture(scope="module")
def model(test_data: Path) -> Iterator[gpt2fast.Model]:
    with gpt2fast.load(test_data / "models" / "tales", dtype="float32", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def theirs(tales: tuple[dict[str, Any], dict[str, NDArray[np.float32]]]) -> Any:
    return oracle_model(*tales)


def check(model: gpt2fast.Model, theirs: Any, prompts: list[list[int]], mode: str) -> None:
    """Compare; a first difference is excused where torch's own margin is below 1e-4."""
    for way, excused in differences(model, theirs, prompts, mode, N_NEW):
        print(f"{mode}, {way}: {len(prompts)} texts, excused (prompt, step, margin): {excused}")
        assert len(excused) <= 1


@pytest.mark.parametrize("mode", [*MODES, *PENALISED])
def test_texts_of_the_trained_model(
    model: gpt2fast.Model, theirs: Any, test_data: Path, mode: str
) -> None:
    """Catches a rule or a search that acts otherwise than transformers' at any step of a text."""
    check(model, theirs, prompts_of(model, test_data, 10), mode)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[gpt2fast.Model, Any]]:
    config = config_of(n_layer=3, n_head=4, n_embd=64, n_vocab=5003, n_ctx=96, eot=5002)
    tensors = random_tensors(config, seed=3)
    folder = tmp_path_factory.mktemp("random")
    checkpoint_files.write_checkpoint(folder, huggingface_config(config), tensors)
    with gpt2fast.load(folder, dtype="float32", threads=1) as loaded:
        yield loaded, oracle_model(config, tensors)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.startswith("beam")])
def test_texts_of_a_random_model(random_models: tuple[gpt2fast.Model, Any], mode: str) -> None:
    """Catches what a trained model's text never meets: tokens that are all about as likely."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 5000, LENGTHS[i % len(LENGTHS)]).tolist() for i in range(10)]
    check(*random_models, prompts, mode)
