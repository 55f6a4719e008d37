"""Makes nanoGPT's checkpoints: in pure NumPy from Hugging Face's tensors, and by torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch_save_files import TorchObject

Tensors = Mapping[str, NDArray[Any]]
ARGUMENTS = {
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 24,
    "block_size": 13,
    "bias": True,
    "vocab_size": 300,
    "dropout": 0.0,
}
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def state_dict(tensors: Tensors, prefix: str = "transformer.") -> dict[str, NDArray[Any]]:
    """Return Hugging Face's tensors under nanoGPT's names and in its layout."""
    return {
        prefix + name: np.ascontiguousarray(values.T) if name.endswith(MATRICES) else values
        for name, values in tensors.items()
    }


def nanogpt_file(
    state: Tensors, arguments: object = None, *, head: str | None = "lm_head.weight", **more: Any
) -> bytes:
    """Return the file; `head` names the output head, which is the token table's storage."""
    made = TorchObject()
    model = {name: made.add(values) for name, values in state.items()}
    if head is not None:
        tables = [name for name in model if name.endswith("wte.weight")]
        model[head] = model[tables[0]]
    moments = {i: {"exp_avg": made.add(values)} for i, values in enumerate(state.values())}
    content = {
        "model": model,
        "optimizer": {"state": moments, "param_groups": [{"lr": 6e-4, "betas": (0.9, 0.95)}]},
        "model_args": ARGUMENTS if arguments is None else arguments,
        "iter_num": 600_000,
        "best_val_loss": made.add(np.array(3.1, np.float32)),
        "config": {"out_dir": "out", "always_save_checkpoint": True, "init_from": "scratch"},
        **more,
    }
    return made.file({name: value for name, value in content.items() if value is not ...})


class TorchGPT:
    """nanoGPT's model, written down again with torch's own modules; `save` as its train.py does."""

    def __init__(self, torch: Any, arguments: Mapping[str, Any], activation: Any = None) -> None:
        nn, d, bias = torch.nn, arguments["n_embd"], arguments["bias"]
        self._torch = torch
        self._n_head = arguments["n_head"]
        self._activation = activation or torch.nn.functional.gelu
        blocks = [
            nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(d, bias=bias),
                    "attn": nn.ModuleDict(
                        {
                            "c_attn": nn.Linear(d, 3 * d, bias=bias),
                            "c_proj": nn.Linear(d, d, bias=bias),
                        }
                    ),
                    "ln_2": nn.LayerNorm(d, bias=bias),
                    "mlp": nn.ModuleDict(
                        {
                            "c_fc": nn.Linear(d, 4 * d, bias=bias),
                            "c_proj": nn.Linear(4 * d, d, bias=bias),
                        }
                    ),
                }
            )
            for _ in range(arguments["n_layer"])
        ]
        transformer = {
            "wte": nn.Embedding(arguments["vocab_size"], d),
            "wpe": nn.Embedding(arguments["block_size"], d),
            "h": nn.ModuleList(blocks),
            "ln_f": nn.LayerNorm(d, bias=bias),
        }
        self.module = nn.ModuleDict(
            {
                "transformer": nn.ModuleDict(transformer),
                "lm_head": nn.Linear(d, arguments["vocab_size"], bias=False),
            }
        )
        self.module["transformer"]["wte"].weight = self.module["lm_head"].weight
        self._arguments = dict(arguments)
        with torch.no_grad():
            for values in self.module.parameters():
                values += 0.1 * torch.randn_like(values)

    def logits(self, tokens: list[int]) -> Any:
        """Return the logits of every position."""
        torch, body = self._torch, self.module["transformer"]
        ids = torch.tensor(tokens)
        x = body["wte"](ids) + body["wpe"](torch.arange(len(tokens)))
        for block in body["h"]:
            qkv = block["attn"]["c_attn"](block["ln_1"](x))
            heads = qkv.view(len(tokens), 3, self._n_head, -1).permute(1, 2, 0, 3)
            y = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
            x = x + block["attn"]["c_proj"](y.transpose(0, 1).reshape(x.shape))
            hidden = self._activation(block["mlp"]["c_fc"](block["ln_2"](x)))
            x = x + block["mlp"]["c_proj"](hidden)
        return self.module["lm_head"](body["ln_f"](x))

    def save(self, path: Path, *, compiled: bool = False, dtype: str = "float32") -> None:
        """Take a step of AdamW and write what train.py writes."""
        torch = self._torch
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-3)
        self.logits([1, 2, 3]).sum().backward()
        optimizer.step()
        self.module.to(getattr(torch, dtype))
        state = self.module.state_dict()
        if compiled:
            state = {"_orig_mod." + name: values for name, values in state.items()}
        checkpoint = {
            "model": state,
            "optimizer": optimizer.state_dict(),
            "model_args": self._arguments,
            "iter_num": 1,
            "best_val_loss": torch.tensor(1e9),
            "config": {"out_dir": "out", "dtype": dtype, "compile": compiled},
        }
        torch.save(checkpoint, path)
