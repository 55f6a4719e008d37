"""transformers' GPT-2 over the same tensors; the tests that use it are skipped where torch is not
installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_checkpoints import huggingface_config
from reference import Array, Config, Tensors


def oracle_model(config: Config, tensors: Tensors, *, double: bool = False) -> Any:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    known = huggingface_config(config)
    settings = transformers.GPT2Config(
        **known, bos_token_id=None, attn_implementation="eager", use_cache=True
    )
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(settings)
    prefixed = {
        name if name == "lm_head.weight" else f"transformer.{name}": torch.tensor(value)
        for name, value in tensors.items()
    }
    if config["tie_word_embeddings"]:
        prefixed["lm_head.weight"] = prefixed["transformer.wte.weight"]
    missing = model.load_state_dict(prefixed, strict=False, assign=True)
    assert not [*missing.missing_keys, *missing.unexpected_keys], missing
    model.eval()
    return model.double() if double else model


def oracle_outputs(model: Any, tokens: Array) -> tuple[Array, Array]:
    """(hidden states [n_layer + 1, n, n_embd], logits [n, n_vocab])."""
    import torch

    with torch.inference_mode():
        out = model(torch.tensor(np.asarray(tokens))[None].long(), output_hidden_states=True)
    states = np.stack([state[0].numpy() for state in out.hidden_states])
    return states, out.logits[0].numpy()
