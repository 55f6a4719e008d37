"""The configuration: catches an option read wrongly and another architecture let through."""

from __future__ import annotations

from typing import Any

import pytest
from checkpoint_files import hf_config

from gpt2fast.config import ACTIVATIONS, CheckpointError, Config, parse_json, quote

PUBLISHED = {
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "distilgpt2": (6, 12, 768),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name: str) -> None:
    """Catches a published configuration that is refused or read wrongly."""
    n_layer, n_head, n_embd = PUBLISHED[name]
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    config = Config.from_huggingface(
        hf_config(**sizes, n_positions=1024, vocab_size=50257, eos_token_id=50256, n_ctx=1024)
    )
    expected = (n_layer, n_head, n_embd, 1024, 50257, 4 * n_embd)
    assert (config.n_layer, config.n_head, config.n_embd) == expected[:3]
    assert (config.n_ctx, config.n_vocab, config.n_inner) == expected[3:]
    assert (config.head_dim, config.eot) == (64, 50256)


def test_defaults_are_those_of_transformers() -> None:
    """Catches a default that differs from what transformers assumes for an absent option."""
    config = Config.from_huggingface(hf_config(model_type=None, architectures=None))
    assert config.to_dict() == {
        "n_layer": 2,
        "n_head": 3,
        "n_embd": 24,
        "n_ctx": 13,
        "n_vocab": 300,
        "n_inner": 96,
        "activation": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": True,
        "eot": None,
    }


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "swish"])
def test_activations(activation: str) -> None:
    """Catches an activation of transformers' GPT-2 that is refused, and the alias of silu."""
    config = Config.from_huggingface(hf_config(activation_function=activation))
    assert config.activation == ("silu" if activation == "swish" else activation)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"n_inner": 7}, "n_inner", 7),
        ({"layer_norm_epsilon": 1e-12}, "layer_norm_epsilon", 1e-12),
        ({"layer_norm_epsilon": 1}, "layer_norm_epsilon", 1.0),
        ({"scale_attn_weights": False}, "scale_attn_weights", False),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx", True),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn", True),
        ({"tie_word_embeddings": False}, "tie_word_embeddings", False),
        ({"n_layer": None, "num_hidden_layers": 5}, "n_layer", 5),
        ({"n_head": None, "num_attention_heads": 2}, "n_head", 2),
        ({"n_embd": None, "hidden_size": 48}, "n_embd", 48),
        ({"n_positions": None, "max_position_embeddings": 9}, "n_ctx", 9),
        ({"n_positions": None, "n_ctx": 8}, "n_ctx", 8),
        ({"n_ctx": 8}, "n_ctx", 13),
        ({"vocab_size": 250_000}, "n_vocab", 250_000),
        ({"vocab_size": 33}, "n_vocab", 33),
        ({"eos_token_id": 299}, "eot", 299),
        ({"eos_token_id": [7, 8]}, "eot", 7),
        ({"eos_token_id": []}, "eot", None),
        ({"eos_token_id": 300}, "eot", None),
        ({"eos_token_id": -1}, "eot", None),
        ({"architectures": ["GPT2Model"]}, "n_layer", 2),
    ],
)
def test_options(changes: dict[str, Any], field: str, value: object) -> None:
    """Catches an option that is ignored or read under another name."""
    got = getattr(Config.from_huggingface(hf_config(**changes)), field)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        ("gptj", "GPT-J"),
        ("gpt_neo", "GPT-Neo"),
        ("gpt_neox", "GPT-NeoX"),
        ("openai-gpt", "GPT-1"),
        ("gpt_bigcode", "GPT-BigCode"),
        ("llama", "Llama"),
        ("bloom", "BLOOM"),
        ("opt", "OPT"),
        ("mamba", "'mamba'"),
        (7, "7"),
        (["gpt2"], "['gpt2']"),
    ],
)
def test_other_models_are_refused_by_name(model_type: object, named: str) -> None:
    """Catches another architecture that would be run as if it were GPT-2."""
    with pytest.raises(CheckpointError, match="gpt2fast runs GPT-2 only") as caught:
        Config.from_huggingface(hf_config(model_type=model_type))
    assert f"is a {named}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2ForSequenceClassification"]}, "GPT2ForSequenceClassification"),
        ({"architectures": "GPT2LMHeadModel"}, "architectures must be a list"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"activation_function": "mish"}, "activation must be one of gelu_new, .*; got 'mish'"),
        ({"activation_function": ["gelu"]}, "activation must be one of"),
        ({"n_head": 5}, "n_embd must be a multiple of n_head, got n_embd 24 and n_head 5"),
        ({"n_layer": 0}, "n_layer must be an integer from 1 to 4096, got 0"),
        ({"n_layer": 10**9}, "n_layer must be"),
        ({"n_layer": True}, "n_layer must be an integer"),
        ({"n_embd": 24.0}, "n_embd must be an integer"),
        ({"n_embd": "24"}, "n_embd must be an integer"),
        ({"n_positions": -1}, "n_positions must be"),
        ({"vocab_size": 2**64}, "vocab_size must be"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"n_head": None}, "n_head is missing"),
        ({"n_inner": 0}, "n_inner must be"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must be"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon must be"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon must be"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon must be"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon must be"),
        ({"scale_attn_weights": 1}, "scale_attn_weights must be true or false, got 1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"eos_token_id": "x"}, "eos_token_id must be"),
        ({"eos_token_id": True}, "eos_token_id must be"),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    """Catches a bad value accepted, or an error that does not name what, got and allowed."""
    with pytest.raises(CheckpointError, match=message):
        Config.from_huggingface(hf_config(**changes))


def test_dict_round_trip() -> None:
    """Catches a field that the packed file would lose."""
    config = Config.from_huggingface(
        hf_config(n_inner=5, activation_function="relu", tie_word_embeddings=False, eos_token_id=1)
    )
    assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_from_dict_wants_exactly_its_keys(change: str) -> None:
    """Catches a packed file of another version whose options would be dropped silently."""
    content = Config.from_huggingface(hf_config()).to_dict()
    if change == "missing":
        del content["eot"]
    else:
        content["rotary"] = True
    with pytest.raises(CheckpointError, match=r"eot|rotary"):
        Config.from_dict(content)


def test_eot_outside_the_vocabulary_is_refused() -> None:
    """Catches an end-of-text id that would index past the token table."""
    content = Config.from_huggingface(hf_config()).to_dict()
    with pytest.raises(CheckpointError, match="eot must be an id below n_vocab 300"):
        Config.from_dict({**content, "eot": 300})


@pytest.mark.parametrize("tied", [True, False])
def test_tensor_shapes_are_those_of_transformers(tied: bool) -> None:
    """Catches a tensor name or shape that differs from what GPT2LMHeadModel stores."""
    transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
    pytest.importorskip("torch", reason="the oracle needs torch")
    changes = {"tie_word_embeddings": tied, "n_inner": 40}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf_config(**changes)))
    expected = {
        name.removeprefix("transformer."): tuple(values.shape)
        for name, values in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    assert Config.from_huggingface(hf_config(**changes)).tensor_shapes() == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "what is not valid JSON"),
        (b'{"a": 1', "what is not valid JSON"),
        (b'{"a": "\xff"}', "what is not UTF-8: byte 0xff at 7"),
        (b"\xff\xfe{\x00}\x00", "what is not UTF-8"),
        (b"[" * 100_000, "what is not valid JSON"),
        (b'{"a":' * 100_000, "what is not valid JSON"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"a": 1, "\\u0061": 2}', "key 'a' appears twice"),
        (b'{"x": {"b": 1, "b": 1}}', "key 'b' appears twice"),
        (b"1" * 5000, "what is not valid JSON"),
    ],
)
def test_hostile_json(data: bytes, message: str) -> None:
    """Catches JSON that crashes the parser or means two things."""
    with pytest.raises(CheckpointError, match=message):
        parse_json(data, "what")


@pytest.mark.parametrize("value", ["x" * 10**6, "\ud800" * 9, [[[[]]]] * 9, 10**4000, "\x1b[J"])
def test_quote_is_short_and_printable(value: object) -> None:
    """Catches a value from a hostile file that floods or controls the terminal."""
    text = quote(value)
    assert len(text) < 500 and text.isascii() and text.isprintable()
