"""transformers on torch: GPT2LMHeadModel with its cache, one forward pass per token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from benchmarks.peers.protocol import Generated, Stopwatch, serve


class Torch:
    """The checkpoint itself, in float32 or bfloat16; attention is torch's fused one."""

    version = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def __init__(self, model: Path, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._model: Any = transformers.GPT2LMHeadModel.from_pretrained(
            model, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        watch = Stopwatch()
        ids = torch.tensor(prompts)
        cache = None
        steps = []
        for _ in range(new):
            output = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            ids = output.logits[:, -1].argmax(-1, keepdim=True)
            steps.append(ids)
            watch.token()
        return watch.generated(torch.cat(steps, 1).tolist())

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        rows = self._model(torch.tensor([tokens]), use_cache=False).logits[0]
        return np.asarray(rows.float().numpy(), np.float32)


if __name__ == "__main__":
    serve(Torch)
