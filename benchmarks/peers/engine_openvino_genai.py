"""OpenVINO GenAI: its pipeline with continuous batching and paged attention, the default on x86."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import openvino_genai as genai
from numpy.typing import NDArray

from benchmarks.peers.protocol import Generated, serve


class OpenVinoGenai:
    """Prompts and results are token ids; every prompt differs, so no prefix is found in a cache."""

    version = genai.__version__.partition("-")[0]

    def __init__(self, model: Path, _format: str, threads: int) -> None:
        self._pipeline = genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        ids = np.array(prompts)
        given = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True, do_sample=False)
        result = self._pipeline.generate(given, config)
        milliseconds = result.perf_metrics.raw_metrics.m_new_token_times  # one for each step
        first = result.perf_metrics.get_ttft().mean
        return Generated(result.tokens, first / 1e3, (milliseconds[-1] - milliseconds[0]) / 1e3)

    def logits(self, _tokens: list[int]) -> NDArray[np.float32]:
        raise NotImplementedError("gives no logits; its model is OpenVINO's")


if __name__ == "__main__":
    serve(OpenVinoGenai)
