"""GPT-2 as ONNX Runtime likes it: its fused operators, and keys and values that grow in place.

Inputs `ids` and `positions` (batch, n), `lengths` (batch: tokens after this call, less one) and
`total` (tokens after this call), `from` (the first of the n positions whose logits are wanted;
negative from the end), and `key.i` and `value.i` (batch, n_head, capacity, head_dim), which are
bound as outputs too.

int8 is what `onnxruntime.quantization.quantize_dynamic` makes of linear layers, per output: bytes,
a float32 scale and no zero point for weights, activations quantised to unsigned bytes as they come.
The weights are quantised one at a time, because `quantize_dynamic` needs 20 GB for 1.5B.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.peers.weights import Floats, Weights, finished

CONTRIB = "com.microsoft"
_ALIGNMENT = 4096


def convert(checkpoint: Path, model: Path, dtype: str) -> None:
    """Write `model`, a folder with model.onnx and its weights, in "float32" or "int8"."""
    weights = Weights(checkpoint)
    with finished(model) as folder, (folder / "weights").open("wb") as data:
        graph = _Graph(data, dtype)
        logits = _forward(graph, weights)
        kv = ["batch", weights.n_head, "capacity", weights.n_embd // weights.n_head]
        names = [f"{part}.{i}" for i in range(weights.n_layer) for part in ("key", "value")]
        inputs = [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "n"]),
            helper.make_tensor_value_info("positions", TensorProto.INT64, ["batch", "n"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info("total", TensorProto.INT32, []),
            helper.make_tensor_value_info("from", TensorProto.INT64, [1]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, kv) for name in names),
        ]
        outputs = [
            helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", "rows", "vocab"]),
            *(helper.make_tensor_value_info(f"new.{n}", TensorProto.FLOAT, kv) for n in names),
        ]
        proto = helper.make_model(
            helper.make_graph(graph.nodes, "gpt2", inputs, outputs, graph.initializers),
            opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)],
            ir_version=8,
        )
        onnx.save(proto, folder / "model.onnx")


def _forward(graph: _Graph, weights: Weights) -> str:
    wte = weights["wte.weight"]
    embedded = graph.op("Gather", graph.constant("wte", wte), "ids")
    placed = graph.op("Gather", graph.constant("wpe", weights["wpe.weight"]), "positions")
    residual = graph.op("Add", embedded, placed)
    norm = graph.norm(residual, weights, "h.0.ln_1")
    for i in range(weights.n_layer):
        h = f"h.{i}"
        qkv = graph.linear(norm, weights, f"{h}.attn.c_attn")
        attended = graph.op(
            "GroupQueryAttention",
            *(qkv, "", "", f"key.{i}", f"value.{i}", "lengths", "total"),
            more_outputs=(f"new.key.{i}", f"new.value.{i}"),
            num_heads=weights.n_head,
            kv_num_heads=weights.n_head,
        )
        delta = graph.linear(attended, weights, f"{h}.attn.c_proj")
        norm, residual = graph.add_and_norm(residual, delta, weights, f"{h}.ln_2")
        wide = graph.op("FastGelu", graph.linear(norm, weights, f"{h}.mlp.c_fc"))
        delta = graph.linear(wide, weights, f"{h}.mlp.c_proj")
        after = f"h.{i + 1}.ln_1" if i + 1 < weights.n_layer else "ln_f"
        norm, residual = graph.add_and_norm(residual, delta, weights, after)
    end = graph.constant("end", np.array([2**62]))
    axis = graph.constant("axis", np.array([1]))
    wanted = graph.op("Slice", norm, "from", end, axis)
    return graph.matmul(wanted, "head", np.ascontiguousarray(wte.T), None)


class _Graph:
    """Nodes and initializers; the weights go to a file beside the graph as they come."""

    def __init__(self, data: Any, dtype: str) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._data = data
        self._dtype = dtype

    def op(self, kind: str, *inputs: str, more_outputs: tuple[str, ...] = (), **given: Any) -> str:
        """Add a node and return the name of its first output."""
        name = f"{len(self.nodes)}.{kind}"
        contrib = ("GroupQueryAttention", "FastGelu", "SkipLayerNormalization")
        domain = CONTRIB if kind in (*contrib, "DynamicQuantizeMatMul") else ""
        node = helper.make_node(kind, inputs, [name, *more_outputs], name, domain=domain, **given)
        self.nodes.append(node)
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer; large ones outside the graph."""
        if values.nbytes < 1024:
            self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values), name))
            return name
        self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT))
        tensor = TensorProto(name=name, dims=values.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        where = {"location": "weights", "offset": self._data.tell(), "length": values.nbytes}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        np.ascontiguousarray(values).tofile(self._data)
        self.initializers.append(tensor)
        return name

    def linear(self, x: str, weights: Weights, name: str) -> str:
        return self.matmul(x, name, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def matmul(self, x: str, name: str, weight: Floats, bias: Floats | None) -> str:
        """Multiply by a weight (inputs, outputs)."""
        added = "" if bias is None else self.constant(f"{name}.bias", bias)
        if self._dtype == "int8":
            quantised, scale = _quantise(weight)
            parts = [self.constant(f"{name}.weight", quantised), self.constant(f"{name}.s", scale)]
            return self.op("DynamicQuantizeMatMul", x, *parts, "", added)
        product = self.op("MatMul", x, self.constant(f"{name}.weight", weight))
        return self.op("Add", product, added) if added else product

    def norm(self, x: str, weights: Weights, name: str) -> str:
        parts = self._norm_parts(weights, name)
        return self.op("LayerNormalization", x, *parts, axis=-1, epsilon=weights.epsilon)

    def add_and_norm(self, x: str, delta: str, weights: Weights, name: str) -> tuple[str, str]:
        """Return norm(x + delta) and x + delta."""
        total = f"{name}.sum"
        norm = self.op(
            "SkipLayerNormalization",
            *(x, delta, *self._norm_parts(weights, name)),
            more_outputs=("", "", total),
            epsilon=weights.epsilon,
        )
        return norm, total

    def _norm_parts(self, weights: Weights, name: str) -> list[str]:
        parts = (f"{name}.weight", f"{name}.bias")
        return [self.constant(part, weights[part]) for part in parts]


def _quantise(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return bytes and one scale per output, for a weight (inputs, outputs)."""
    scale = np.maximum(np.abs(weight).max(0), np.float32(1e-30)) / np.float32(127)
    return np.rint(weight / scale).astype(np.int8), scale
