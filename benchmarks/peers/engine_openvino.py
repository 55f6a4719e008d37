"""OpenVINO alone: the model of openvino_graph.py, one request per token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset15

from benchmarks.peers.protocol import Generated, Stopwatch, serve


class OpenVino:
    """Keys and values are the model's state; the head sees the last position only, as in GenAI."""

    version = openvino.__version__.partition("-")[0]

    def __init__(self, model: Path, _format: str, threads: int) -> None:
        self._core = openvino.Core()
        self._path = model / "openvino_model.xml"
        self._settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        network = self._core.read_model(self._path)
        head = network.get_results()[0].input_value(0).get_node()
        begin, end, step, axis = (opset15.constant([value]) for value in (-1, 2**31 - 1, 1, 1))
        last = opset15.slice(head.input_value(0), begin, end, step, axis)
        head.input(0).replace_source_output(last.output(0))
        network.validate_nodes_and_infer_types()
        self._request = self._compiled(network)

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        watch = Stopwatch()
        self._request.reset_state()
        ids = np.array(prompts)
        past = 0
        steps = []
        for _ in range(new):
            rows = _forward(self._request, ids, past)
            past += ids.shape[1]
            ids = rows[:, -1].argmax(-1)[:, None]
            steps.append(ids)
            watch.token()
        return watch.generated(np.concatenate(steps, 1).tolist())

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        request = self._compiled(self._core.read_model(self._path))
        return np.array(_forward(request, np.array([tokens]), 0)[0])

    def _compiled(self, network: openvino.Model) -> openvino.InferRequest:
        return self._core.compile_model(network, "CPU", self._settings).create_infer_request()


def _forward(
    request: openvino.InferRequest, ids: NDArray[np.int64], past: int
) -> NDArray[np.float32]:
    batch, n = ids.shape
    request.infer(
        {
            "input_ids": ids,
            "attention_mask": np.ones((batch, past + n), np.int64),
            "position_ids": np.ascontiguousarray(
                np.broadcast_to(np.arange(past, past + n), (batch, n))
            ),
            "beam_idx": np.arange(batch, dtype=np.int32),
        },
        share_inputs=True,
    )
    rows: NDArray[np.float32] = request.get_output_tensor().data
    return rows


if __name__ == "__main__":
    serve(OpenVino)
