"""GPT-2 as a GGUF file, quantised by the `gguf` package; it has no vocabulary."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from benchmarks.peers.weights import Weights, finished

_PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def convert(checkpoint: Path, model: Path, dtype: str) -> None:
    """Write `model`, a folder with model.gguf; `dtype` is a name of GGML, "Q8_0" for example."""
    weights = Weights(checkpoint)
    kind = gguf.GGMLQuantizationType[dtype]
    with finished(model) as folder:
        writer = gguf.GGUFWriter(folder / "model.gguf", "gpt2", use_temp_file=True)
        writer.add_block_count(weights.n_layer)
        writer.add_context_length(weights.n_ctx)
        writer.add_embedding_length(weights.n_embd)
        writer.add_feed_forward_length(4 * weights.n_embd)
        writer.add_head_count(weights.n_head)
        writer.add_layer_norm_eps(weights.epsilon)
        writer.add_vocab_size(weights.n_vocab)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{dtype}"])
        writer.add_tokenizer_model("no_vocab")

        def add(target: str, source: str) -> None:
            values = weights[source]
            if values.ndim == 1 or source.startswith("wpe"):
                writer.add_tensor(target, np.array(values))
                return
            rows = values if source.startswith("wte") else np.ascontiguousarray(values.T)
            writer.add_tensor(target, gguf.quants.quantize(rows, kind), raw_dtype=kind)

        add("token_embd.weight", "wte.weight")
        add("position_embd.weight", "wpe.weight")
        for part in ("weight", "bias"):
            add(f"output_norm.{part}", f"ln_f.{part}")
            for i in range(weights.n_layer):
                for source, target in _PARTS.items():
                    add(f"blk.{i}.{target}.{part}", f"h.{i}.{source}.{part}")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
