"""Linear layers of GPT-2's shapes: one token, a batch, a prompt.

With few tokens a layer is bound by reading its weights: matrices take turns, so that each comes
from memory. With many it is bound by arithmetic. `_core.linear` also quantises its input and makes
its output array, on one thread.
"""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.measure import Measure
from benchmarks.models import packed_matrix
from benchmarks.random_checkpoints import N_VOCAB, SIZES
from gpt2fast import _core
from gpt2fast.bench.roofline import STREAM, Work

pytestmark = pytest.mark.kernel

SHAPES = {  # n_out, n_in in units of n_embd
    "c_attn": (3, 1),
    "attn.c_proj": (1, 1),
    "c_fc": (4, 1),
    "mlp.c_proj": (1, 4),
}
PROMPT = 512
CASES = [(layer, n) for layer in SHAPES for n in (1, 8, PROMPT)]
CASES += [("lm_head", 1), ("lm_head", 8)]  # it computes few rows
ERROR = {"float32": 1e-5, "float16": 1e-5, "int8": 0.02}  # rms, relative; int8 rounds its input


@pytest.mark.parametrize(("layer", "n_tokens"), CASES)
def test_linear(
    measure: Measure, size: str, layer: str, n_tokens: int, dtype: str, target: str, threads: int
) -> None:
    if n_tokens == PROMPT and target == "scalar":
        pytest.skip("scalar is the specification, not for speed")
    n_embd = SIZES[size][2]
    n_out, n_in = (n * n_embd for n in SHAPES.get(layer, (0, 1)))
    n_out = n_out or N_VOCAB
    matrix = packed_matrix(n_out, n_in, dtype)
    copies = -(-STREAM // matrix.nbytes) if measure.enabled and n_tokens < PROMPT else 1
    matrices = cycle([matrix, *(matrix.copy() for _ in range(copies - 1))])
    generator = np.random.default_rng(1)
    x = generator.standard_normal((n_tokens, n_in), np.float32)
    bias = generator.standard_normal(n_out, np.float32)

    def call() -> NDArray[np.float32]:
        return _core.linear(x, next(matrices), dtype, n_out, bias, threads)

    check(call()[-1], x, matrix, dtype, bias)
    work = Work(matrix.nbytes, 2 * n_tokens * n_out * n_in, dtype)
    measure(call, work, threads=threads)


def check(
    y: NDArray[np.float32],
    x: NDArray[np.float32],
    matrix: NDArray[np.uint8],
    dtype: str,
    bias: NDArray[np.float32],
) -> None:
    """The last row has the bits of this row alone on one thread, and is near NumPy's product."""
    n_out, n_in = len(bias), x.shape[1]
    alone = _core.linear(x[-1:], matrix, dtype, n_out, bias, 1)[0]
    assert np.array_equal(y.view(np.uint32), alone.view(np.uint32))
    part = matrix[: _core.packed_nbytes(dtype, 64, n_in)]  # blocks of 64 outputs follow each other
    expected = _core.unpack(part, dtype, 64, n_in).astype(np.float64) @ x[-1]
    got = y[:64] - bias[:64].astype(np.float64)
    assert np.linalg.norm(got - expected) <= ERROR[dtype] * np.linalg.norm(expected)
