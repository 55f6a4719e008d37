"""The engines that are compared, and where their environments and models are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEED = 1  # of the random checkpoints


@dataclass(frozen=True)
class Engine:
    """One row of the tables: an engine with a format of the weights.

    `module` is what its process runs, in `environment` ("" is the one that runs the comparison).
    `converter` is the module whose `convert` makes its model, "" if it reads the checkpoint; `bits`
    are those of a weight, without scales; `group` is what `--engines` may call it together with
    others.
    """

    name: str
    label: str
    group: str
    environment: str
    module: str
    converter: str
    format: str
    bits: int
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return self.module == "engine_gpt2fast"

    @property
    def target(self) -> str:
        """The instruction set whose roofs count; "" is the best one of this CPU."""
        return "avx2" if self.group == "avx2" else ""

    @property
    def model(self) -> str:
        """The name of its model; engines that read the same one share it."""
        return f"{self.converter}-{self.format}" if self.converter else "checkpoint"


_AVX2 = {"GPT2FAST_TARGET": "avx2", "CT2_FORCE_CPU_ISA": "AVX2"}
_OURS = ("", "engine_gpt2fast", "engine_gpt2fast")
_LLAMA = ("llama", "engine_llamacpp", "gguf_file")
_LLAMA_AVX2 = ("llama-avx2", *_LLAMA[1:])
_CTRANSLATE = ("ctranslate2", "engine_ctranslate2", "engine_ctranslate2")
_ONNX = ("onnxruntime", "engine_onnxruntime", "onnx_graph")
_OPENVINO = ("openvino", "engine_openvino", "openvino_graph")
_GENAI = ("openvino", "engine_openvino_genai", "openvino_graph")
_TORCH = ("torch", "engine_torch", "")
ENGINES = (
    Engine("gpt2fast-int8", "gpt2fast int8", "int8", *_OURS, "int8", 8),
    Engine("llamacpp-q8_0", "llama.cpp Q8_0", "int8", *_LLAMA, "Q8_0", 8),
    Engine("ctranslate2-int8", "CTranslate2 int8", "int8", *_CTRANSLATE, "int8", 8),
    Engine("onnxruntime-int8", "ONNX Runtime int8 dynamic", "int8", *_ONNX, "int8", 8),
    Engine("openvino-int8", "OpenVINO int8", "int8", *_OPENVINO, "int8", 8),
    Engine("openvino-genai-int8", "OpenVINO GenAI int8", "int8", *_GENAI, "int8", 8),
    Engine("torch-bfloat16", "transformers bfloat16", "int8", *_TORCH, "bfloat16", 16),
    Engine("gpt2fast-int8-avx2", "gpt2fast int8, AVX2", "avx2", *_OURS, "int8", 8, _AVX2),
    Engine("llamacpp-q8_0-avx2", "llama.cpp Q8_0, AVX2", "avx2", *_LLAMA_AVX2, "Q8_0", 8),
    Engine(
        "ctranslate2-int8-avx2", "CTranslate2 int8, AVX2", "avx2", *_CTRANSLATE, "int8", 8, _AVX2
    ),
    Engine("gpt2fast-float16", "gpt2fast float16", "float16", *_OURS, "float16", 16),
    Engine("llamacpp-f16", "llama.cpp F16", "float16", *_LLAMA, "F16", 16),
    Engine("llamacpp-bf16", "llama.cpp BF16", "float16", *_LLAMA, "BF16", 16),
    Engine("gpt2fast-float32", "gpt2fast float32", "float32", *_OURS, "float32", 32),
    Engine("ctranslate2-float32", "CTranslate2 float32", "float32", *_CTRANSLATE, "float32", 32),
    Engine("onnxruntime-float32", "ONNX Runtime float32", "float32", *_ONNX, "float32", 32),
    Engine("openvino-float32", "OpenVINO float32 weights", "float32", *_OPENVINO, "float32", 32),
    Engine("torch-float32", "transformers float32", "float32", *_TORCH, "float32", 32),
    Engine("llamacpp-q4_0", "llama.cpp Q4_0", "int4", *_LLAMA, "Q4_0", 4),
)


def chosen(names: Sequence[str]) -> list[Engine]:
    """Return engines by name or group, in the order of `ENGINES`.

    Raises ValueError for a name that is neither.
    """
    allowed = {engine.name for engine in ENGINES} | {engine.group for engine in ENGINES}
    for name in names:
        if name not in allowed:
            raise ValueError(f"{name!r} is no engine; allowed: {', '.join(sorted(allowed))}")
    return [engine for engine in ENGINES if engine.name in names or engine.group in names]


@dataclass(frozen=True)
class Places:
    """Where things are kept: `venvs/NAME`, `models/SIZE/checkpoint`, `models/SIZE/MODEL`."""

    root: Path

    @staticmethod
    def default() -> Path:
        """Return GPT2FAST_PEERS, or a folder of the user's cache."""
        given = os.environ.get("GPT2FAST_PEERS")
        return Path(given) if given else Path.home() / ".cache" / "gpt2fast-benchmarks"

    def venv(self, environment: str) -> Path:
        return self.root / "venvs" / environment

    def python(self, environment: str) -> Path:
        """Return the interpreter of an environment; "" is this one's."""
        if not environment:
            return Path(sys.executable)
        windows = sys.platform == "win32"
        return self.venv(environment) / ("Scripts/python.exe" if windows else "bin/python")

    def model(self, engine: Engine, size: str) -> Path:
        return self.root / "models" / f"{size}-{SEED}" / engine.model

    def checkpoint(self, size: str) -> Path:
        return self.root / "models" / f"{size}-{SEED}" / "checkpoint"
