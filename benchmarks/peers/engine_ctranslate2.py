"""CTranslate2: a model folder made from its own specification, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerDecoderModelSpec
from ctranslate2.specs.common_spec import Activation
from numpy.typing import NDArray

from benchmarks.peers.protocol import Generated, Stopwatch, serve
from benchmarks.peers.weights import Weights, finished


class CTranslate2:
    """Decoding by `generate_batch`; a callback takes the time of each token."""

    version = ctranslate2.__version__

    def __init__(self, model: Path, dtype: str, threads: int) -> None:
        self._generator = ctranslate2.Generator(
            str(model), "cpu", compute_type=dtype, inter_threads=1, intra_threads=threads
        )

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        last = len(prompts) - 1
        watch = Stopwatch()

        def note(step: ctranslate2.GenerationStepResult) -> bool:
            if step.batch_id == last:
                watch.token()
            return False

        results = self._generator.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts],
            include_prompt_in_result=False,
            max_length=new,
            min_length=new,
            callback=note,
        )
        return watch.generated([result.sequences_ids[0] for result in results])

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = np.array(self._generator.forward_batch([tokens]))[0]
        return rows


def convert(checkpoint: Path, model: Path, dtype: str) -> None:
    """Write a model folder as `ct2-transformers-converter --quantization dtype` would."""
    weights = Weights(checkpoint)
    spec = TransformerDecoderModelSpec.from_config(
        weights.n_layer, weights.n_head, pre_norm=True, activation=Activation.GELUTanh
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = np.array(weights["wte.weight"])  # quantised in place
    decoder.position_encodings.encodings = weights["wpe.weight"]
    decoder.projection.weight = decoder.embeddings.weight
    _norm(decoder.layer_norm, weights, "ln_f")
    for i, layer in enumerate(decoder.layer):
        _norm(layer.self_attention.layer_norm, weights, f"h.{i}.ln_1")
        _norm(layer.ffn.layer_norm, weights, f"h.{i}.ln_2")
        for linear, name in (
            (layer.self_attention.linear[0], "attn.c_attn"),
            (layer.self_attention.linear[1], "attn.c_proj"),
            (layer.ffn.linear_0, "mlp.c_fc"),
            (layer.ffn.linear_1, "mlp.c_proj"),
        ):
            linear.weight = np.array(weights[f"h.{i}.{name}.weight"].T, order="C")
            linear.bias = weights[f"h.{i}.{name}.bias"]
    spec.register_vocabulary([str(token) for token in range(weights.n_vocab)])
    end = str(weights.n_vocab - 1)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = end
    spec.validate()
    spec.optimize(quantization=dtype)
    with finished(model) as folder:
        spec.save(str(folder))


def _norm(spec: Any, weights: Weights, name: str) -> None:
    spec.gamma = weights[f"{name}.weight"]
    spec.beta = weights[f"{name}.bias"]


if __name__ == "__main__":
    serve(CTranslate2)
