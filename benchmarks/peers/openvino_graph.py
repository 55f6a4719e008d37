"""GPT-2 as an OpenVINO model with a state, in the form that optimum-intel exports and GenAI wants.

Inputs `input_ids`, `attention_mask`, `position_ids` (batch, n) and `beam_idx` (batch), output
`logits`; keys and values are variables. int8 is NNCF's default for weights: unsigned bytes with a
zero point and a float16 scale per output, also of the token table, which is the head's too. Written
with OpenVINO's own operators, one weight at a time, because exporting 1.5B takes 16 GB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import Model, Type, opset15
from openvino.op import Constant
from openvino.op.util import Variable, VariableInfo

from benchmarks.peers.weights import Floats, Weights, finished

_HIDDEN = -65504.0  # what is added to the score of a position that is not to be seen


def convert(checkpoint: Path, model: Path, dtype: str) -> None:
    """Write `model`, a folder with openvino_model.xml and .bin, in "float32" or "int8"."""
    weights = Weights(checkpoint)
    with finished(model) as folder:
        network = _Network(weights, dtype).model()
        openvino.save_model(network, folder / "openvino_model.xml", compress_to_fp16=False)
        end = weights.n_vocab - 1
        settings = {"model_type": "gpt2", "eos_token_id": end, "bos_token_id": end}
        for name in ("config.json", "generation_config.json"):
            (folder / name).write_text(json.dumps(settings))


class _Network:
    def __init__(self, weights: Weights, dtype: str) -> None:
        self._weights = weights
        self._int8 = dtype == "int8"
        self._sinks: list[Any] = []
        self._ids = _input("input_ids", Type.i64, [-1, -1])
        self._seen = _input("attention_mask", Type.i64, [-1, -1])
        self._positions = _input("position_ids", Type.i64, [-1, -1])
        self._beams = _input("beam_idx", Type.i32, [-1])

    def model(self) -> Model:
        weights = self._weights
        table = self._matrix(weights["wte.weight"])
        places = self._stored("wpe.weight")
        axis = _ints(0)
        x = opset15.gather(table, opset15.convert(self._ids, "i32"), axis)
        x = opset15.add(x, opset15.gather(places, opset15.convert(self._positions, "i32"), axis))
        mask = self._mask()
        for i in range(weights.n_layer):
            x = opset15.add(x, self._attention(self._norm(x, f"h.{i}.ln_1"), i, mask))
            wide = self._linear(self._norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
            wide = opset15.gelu(wide, "tanh")
            x = opset15.add(x, self._linear(wide, f"h.{i}.mlp.c_proj"))
        logits = opset15.matmul(self._norm(x, "ln_f"), table, False, True)
        logits.output(0).set_names({"logits"})
        inputs = [self._ids, self._seen, self._positions, self._beams]
        return Model([opset15.result(logits)], self._sinks, inputs, "gpt2")

    def _attention(self, x: Any, i: int, mask: Any) -> Any:
        n_head = self._weights.n_head
        head_dim = self._weights.n_embd // n_head
        axis = Constant(np.array(2, np.int64))
        parts = opset15.split(self._linear(x, f"h.{i}.attn.c_attn"), axis, 3)
        heads = _ints(0, 0, n_head, head_dim)
        query, key, value = (
            opset15.transpose(opset15.reshape(part, heads, True), _ints(0, 2, 1, 3))
            for part in parts.outputs()
        )
        key = self._extended(f"past_key_values.{i}.key", key, n_head, head_dim)
        value = self._extended(f"past_key_values.{i}.value", value, n_head, head_dim)
        attended = opset15.scaled_dot_product_attention(query, key, value, mask)
        attended = opset15.transpose(attended, _ints(0, 2, 1, 3))
        attended = opset15.reshape(attended, _ints(0, 0, n_head * head_dim), True)
        return self._linear(attended, f"h.{i}.attn.c_proj")

    def _extended(self, name: str, new: Any, n_head: int, head_dim: int) -> Any:
        """Return keys or values with `new` ones after those of the state, and store them."""
        info = VariableInfo()
        info.variable_id = name
        info.data_type = Type.f32
        info.data_shape = openvino.PartialShape([-1, n_head, -1, head_dim])
        variable = Variable(info)
        batch = opset15.gather(opset15.shape_of(self._ids), _ints(0), _ints(0))
        shape = opset15.concat([batch, _ints(n_head), _ints(0), _ints(head_dim)], 0)
        empty = opset15.broadcast(Constant(np.array(0, np.float32)), shape)
        past = openvino.op.read_value(empty, variable)
        past = opset15.gather(past, self._beams, _ints(0))
        both = opset15.concat([past, new], 2)
        self._sinks.append(openvino.op.assign(both, variable))
        return both

    def _mask(self) -> Any:
        """Return what hides later positions and those not to be attended: (batch, 1, n, total)."""
        total = opset15.squeeze(_dimension(self._seen, 1))
        past = opset15.squeeze(opset15.subtract(total, _dimension(self._ids, 1)))
        one = Constant(np.array(1, np.int64))
        start = Constant(np.array(0, np.int64))
        keys = opset15.range(start, total, one, "i64")
        queries = opset15.unsqueeze(opset15.range(past, total, one, "i64"), _ints(1))
        causal = opset15.unsqueeze(opset15.less_equal(keys, queries), _ints(0, 1))
        attended = opset15.unsqueeze(opset15.not_equal(self._seen, _ints(0)), _ints(1, 2))
        visible = opset15.logical_and(causal, attended)
        nothing, hidden = (Constant(np.array(v, np.float32)) for v in (0, _HIDDEN))
        return opset15.select(visible, nothing, hidden)

    def _norm(self, x: Any, name: str) -> Any:
        centred = opset15.mvn(x, _ints(-1), True, self._weights.epsilon, "inside_sqrt")
        scaled = opset15.multiply(centred, self._stored(f"{name}.weight"))
        return opset15.add(scaled, self._stored(f"{name}.bias"))

    def _linear(self, x: Any, name: str) -> Any:
        weight = np.ascontiguousarray(self._weights[f"{name}.weight"].T)
        product = opset15.matmul(x, self._matrix(weight), False, True)
        return opset15.add(product, self._stored(f"{name}.bias"))

    def _stored(self, name: str) -> Any:
        return Constant(np.array(self._weights[name]))

    def _matrix(self, rows: Floats) -> Any:
        """Return a matrix of (outputs, inputs), decompressed from bytes if these are wanted."""
        if not self._int8:
            return Constant(np.array(rows))
        low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
        scale = (np.maximum(high - low, np.float32(1e-10)) / 255).astype(np.float16)
        step = scale.astype(np.float32)
        zero = np.clip(np.rint(-low / step), 0, 255)
        stored = np.clip(np.rint(rows / step + zero), 0, 255).astype(np.uint8)
        wide = opset15.convert(Constant(stored), "f16")
        centred = opset15.subtract(wide, opset15.convert(Constant(zero.astype(np.uint8)), "f16"))
        return opset15.convert(opset15.multiply(centred, Constant(scale)), "f32")


def _input(name: str, kind: Type, shape: list[int]) -> Any:
    given = opset15.parameter(shape, kind)
    given.set_friendly_name(name)  # GenAI looks for some of them by this name, for others by that
    given.output(0).set_names({name})
    return given


def _dimension(x: Any, axis: int) -> Any:
    return opset15.gather(opset15.shape_of(x), _ints(axis), _ints(0))


def _ints(*values: int) -> Any:
    return Constant(np.array(values, np.int64))
