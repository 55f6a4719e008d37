"""ONNX Runtime: the graph of onnx_graph.py, its buffers bound once per text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.peers.protocol import Generated, Stopwatch, serve


class OnnxRuntime:
    """Keys and values stay in one buffer each, which the attention operator extends in place."""

    version = onnxruntime.__version__

    def __init__(self, model: Path, _format: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        cache = [given for given in self._session.get_inputs() if given.name.startswith("key.")]
        self._n_layer = len(cache)
        _, self._n_head, _, self._head_dim = cache[0].shape

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        watch = Stopwatch()
        binding = self._binding(len(prompts), len(prompts[0]) + new)
        ids = np.array(prompts)
        past = 0
        steps = []
        for _ in range(new):
            rows = self._forward(binding, ids, past, -1)
            past += ids.shape[1]
            ids = rows[:, -1].argmax(-1)[:, None]
            steps.append(ids)
            watch.token()
        return watch.generated(np.concatenate(steps, 1).tolist())

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        binding = self._binding(1, len(tokens))
        rows: NDArray[np.float32] = self._forward(binding, np.array([tokens]), 0, 0)[0]
        return rows

    def _binding(self, batch: int, capacity: int) -> onnxruntime.IOBinding:
        """Bind new buffers for keys and values, as inputs and as outputs."""
        binding = self._session.io_binding()
        shape = (batch, self._n_head, capacity, self._head_dim)
        for i in range(self._n_layer):
            for name in (f"key.{i}", f"value.{i}"):
                buffer = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
                binding.bind_ortvalue_input(name, buffer)
                binding.bind_ortvalue_output(f"new.{name}", buffer)
        self._logits = self._session.get_outputs()[0].name
        return binding

    def _forward(
        self, binding: onnxruntime.IOBinding, ids: NDArray[np.int64], past: int, start: int
    ) -> NDArray[np.float32]:
        batch, n = ids.shape
        positions = np.broadcast_to(np.arange(past, past + n), (batch, n))
        for name, values in (
            ("ids", ids),
            ("positions", positions),
            ("lengths", np.full(batch, past + n - 1, np.int32)),
            ("total", np.array(past + n, np.int32)),
            ("from", np.array([start])),
        ):
            binding.bind_cpu_input(name, np.ascontiguousarray(values))
        binding.bind_output(self._logits)
        self._session.run_with_iobinding(binding)
        rows: NDArray[np.float32] = binding.get_outputs()[-1].numpy()
        return rows


if __name__ == "__main__":
    serve(OnnxRuntime)
