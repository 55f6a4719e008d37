"""float32 against transformers on torch: what users compare us with. The bound is the project's own
promise.
"""

from __future__ import annotations

import numpy as np
import pytest
from bits import assert_within
from core_models import all_logits, build
from oracle import oracle_model, oracle_outputs
from random_checkpoints import ODD, VARIANTS, config_of, random_tensors, random_tokens
from reference import Array, Config, Tensors

from gpt2fast import _core

GPT2_124M = config_of(n_layer=12, n_head=12, n_embd=768, n_ctx=1024, n_vocab=50257, eot=50256)
PROMPTS = [[4095], [37], [104, 300, 2000, 7, 7, 1500], list(range(1000, 1100))]


def assert_agrees(config: Config, tensors: Tensors, tokens: Array, threads: int = 1) -> None:
    _, want = oracle_outputs(oracle_model(config, tensors), tokens)
    model = build(config, tensors, "float32")
    got = all_logits(model, tokens, threads=threads, prompt_threads=threads)
    bound = 2e-5 * float(want.std()) * config["n_layer"] ** 0.5
    assert_within(got, want.astype(np.float64), bound)


@pytest.mark.parametrize("name", [*VARIANTS, "odd"])
def test_variant(name: str) -> None:
    """Catches a configuration that transformers reads otherwise than we do."""
    config = ODD if name == "odd" else VARIANTS[name]
    tokens = random_tokens(config, config["n_ctx"], seed=1)
    assert_agrees(config, random_tensors(config, seed=1), tokens)


@pytest.mark.large
def test_124m() -> None:
    """Catches errors that grow with width and depth."""
    tensors = random_tensors(GPT2_124M)
    for name, value in tensors.items():
        if name.endswith(".weight") and value.ndim == 2:
            value *= np.float32(0.02) / value.std()  # as GPT-2 is initialised
    assert_agrees(GPT2_124M, tensors, random_tokens(GPT2_124M, 48), threads=2)


@pytest.mark.parametrize("prompt", PROMPTS, ids=["eot", "one", "few", "many"])
def test_greedy_continuation(
    prompt: list[int], tales: tuple[dict[str, object], dict[str, Array]]
) -> None:
    """Catches a drift over 200 cached steps of a trained model.

    One pass of the oracle over our continuation judges all of it: it would have chosen the same
    tokens, one after the other, exactly if each is its choice after those before it.
    """
    model = build(*tales, "float32")
    cache = _core.Cache(model, "float32")
    tokens = list(prompt)
    fed = 0
    for _ in range(200):
        (logits,) = model.forward([cache], [np.array(tokens[fed:], np.int32)], [1])
        fed = len(tokens)
        tokens.append(int(logits[0].argmax()))
    _, want = oracle_outputs(oracle_model(*tales), np.array(tokens[:-1], np.int32))
    assert tokens[len(prompt) :] == want[len(prompt) - 1 :].argmax(axis=-1).tolist()
