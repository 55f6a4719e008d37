"""The forward pass over tiny random models: near the float64 twin in every variant, and int8 and
float16 equal to a simulation of their own contract. Bit equality is in test_bits, bad input
here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bits import assert_same_bits, assert_within
from core_models import all_logits, build, cache_of
from random_checkpoints import ODD, PLAIN, VARIANTS, random_tensors, random_tokens
from reference import Array, Config, Tensors, Twin
from reference_formats import Int8Twin, pack_model

from gpt2fast import _core


def rms(x: Array) -> float:
    return float(np.sqrt(np.square(x).mean()))


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_near_twin(name: str) -> None:
    """Catches any variant of GPT-2 that is computed otherwise than in float64, beyond float32's
    rounding.
    """
    config = VARIANTS[name]
    tensors = random_tensors(config)
    tokens = random_tokens(config, config["n_ctx"])
    model = build(config, tensors, "float32")
    twin = Twin(config, tensors)
    want = twin.logits(tokens)
    got = all_logits(model, tokens)
    assert got.shape == (len(tokens), config["n_vocab"])
    assert_within(got, want, 2e-5 * want.std() * config["n_layer"] ** 0.5)
    states = twin.hidden_states(tokens)
    deviation = 2e-5 * states.std() * config["n_layer"] ** 0.5
    assert_within(model.hidden_states(tokens, cache_dtype="float32"), states, deviation)


def float16_twin(config: Config, tensors: Tensors) -> Twin:
    """Matrices rounded to float16, a float16 cache."""
    rounded = {
        name: value.astype(np.float16) if value.ndim == 2 and name != "wpe.weight" else value
        for name, value in tensors.items()
    }
    return Twin(config, rounded, np.float64, "float16")


SIMULATIONS: dict[str, Callable[[Config, Tensors], Twin]] = {
    "float16": float16_twin,
    "int8": Int8Twin,
}


@pytest.mark.parametrize("dtype", SIMULATIONS)
@pytest.mark.parametrize("name", ["plain", "untied", "wide_inner", "head_dim_80", "deep", "long"])
def test_format_is_its_simulation(name: str, dtype: str) -> None:
    """Catches a quantised forward pass that loses more than its format does.

    A value on the edge between two codes may fall on either side, which changes the later tokens of
    its sequence a little; most rows see no such value and are explained to the rounding of float32
    (int8), or to that of the few codes of the cache that differ (float16).
    """
    config = VARIANTS[name]
    tensors = random_tensors(config)
    tokens = random_tokens(config, 300)
    exact = Twin(config, tensors).logits(tokens)
    simulated = SIMULATIONS[dtype](config, tensors).logits(tokens)
    got = all_logits(build(config, tensors, dtype), tokens)
    loss = rms(simulated - exact)
    unexplained = np.sqrt(np.square(got - simulated).mean(axis=-1)) / loss
    assert np.median(unexplained) <= {"float16": 0.1, "int8": 1e-3}[dtype]
    assert rms(unexplained) <= 0.5


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_hidden_states_lead_to_logits(dtype: str) -> None:
    """Catches hidden states that are not those of the forward pass: the head over the last gives
    its logits.
    """
    config = ODD
    model = build(config, random_tensors(config), dtype)
    tokens = random_tokens(config, 20)
    states = model.hidden_states(tokens, threads=2, cache_dtype=cache_of(dtype))
    assert states.shape == (config["n_layer"] + 1, 20, config["n_embd"])
    head = pack_model(config, random_tensors(config), dtype)["lm_head.weight"]
    packed = np.ascontiguousarray(head).view(np.uint8).ravel()
    logits = _core.linear(states[-1], packed, dtype, config["n_vocab"], None)
    assert_same_bits(logits, all_logits(model, tokens))


def plain_model() -> _core.Model:
    return build(PLAIN, random_tensors(PLAIN), "int8")


def call(model: _core.Model, tokens: Any, rows: int = 1, **options: int) -> None:
    model.forward([_core.Cache(model)], [np.asarray(tokens, np.int32)], [rows], **options)


def test_bad_calls() -> None:
    """Catches an id, a length or a count that would lead outside a table."""
    model = plain_model()
    with pytest.raises(ValueError, match="67"):
        call(model, [1, 67])
    with pytest.raises(ValueError, match="-1"):
        call(model, [1, -1])
    with pytest.raises(ValueError, match="64"):
        call(model, np.zeros(65))
    with pytest.raises(ValueError, match="rows"):
        call(model, [1, 2], rows=3)
    with pytest.raises(ValueError, match="threads"):
        call(model, [1], threads=0)
    with pytest.raises(ValueError, match="chunk"):
        call(model, [1], chunk=-1)
    with pytest.raises(ValueError, match=r"token"):
        call(model, [])
    cache = _core.Cache(model)
    one = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="cache"):
        model.forward([cache, cache], [one, one], [1, 1])
    with pytest.raises(ValueError, match=r"\d"):
        model.forward([cache], [one, one], [1])
    with pytest.raises(ValueError, match="model"):
        model.forward([_core.Cache(build(ODD, random_tensors(ODD), "int8"))], [one], [1])
    with pytest.raises(ValueError, match="float64"):
        _core.Cache(model, "float64")
    assert cache.length == 0


@pytest.mark.parametrize("where", ["wte.weight", "wpe.weight", "h.1.mlp.c_fc.bias", "ln_f.weight"])
def test_not_finite(where: str) -> None:
    """Catches a NaN that reaches the caller as a number, or a failed chunk left in the cache."""
    tensors = random_tensors(PLAIN)
    tensors[where] = tensors[where].copy()
    tensors[where].flat[:] = np.nan
    model = build(PLAIN, tensors, "float32")
    cache = _core.Cache(model, "float32")
    with pytest.raises(FloatingPointError, match=r"finite|NaN"):
        model.forward([cache], [np.arange(5, dtype=np.int32)], [1])
    assert cache.length == 0


def test_bad_tensors() -> None:
    """Catches a packed model whose tensors are missing, too small or of another format."""
    packed = pack_model(PLAIN, random_tensors(PLAIN), "int8")
    without = {name: value for name, value in packed.items() if name != "h.1.ln_2.bias"}
    short = packed | {"h.0.attn.c_attn.weight": packed["h.0.attn.c_attn.weight"][:-1]}
    with pytest.raises(ValueError, match=r"h\.1\.ln_2\.bias"):
        _core.Model(dict(PLAIN), "int8", without)
    with pytest.raises(ValueError, match=r"h\.0\.attn\.c_attn\.weight"):
        _core.Model(dict(PLAIN), "int8", short)
    with pytest.raises(ValueError, match=r"\w\.weight"):
        _core.Model(dict(PLAIN), "float32", packed)
    with pytest.raises(ValueError, match="n_head"):
        _core.Model({**PLAIN, "n_head": 7}, "int8", packed)
    with pytest.raises(ValueError, match="activation"):
        _core.Model({**PLAIN, "activation": "mish"}, "int8", packed)
