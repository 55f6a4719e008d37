"""The core's scoring: the kernel against float64, and the same bits however the work is cut."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from bits import EPS, assert_within, misaligned, on_scalar
from core_models import all_logits, build, cache_of
from random_checkpoints import ODD, VARIANTS, random_tensors, random_tokens
from reference import Array, Config, score

from gpt2fast import _core

TOKENS = random_tokens(ODD, 200)
TARGETS = random_tokens(ODD, 200, seed=1)
NAMES = {"logprobs": "logprob", "entropies": "entropy", "ranks": "rank", "likeliest": "likeliest"}


def scored(model: _core.Model, tokens: Array, targets: Array, **options: int) -> Array:
    """The scores of the last tokens' targets, from an empty cache."""
    cache = _core.Cache(model, cache_of(model.dtype))
    (rows,) = model.score([cache], [tokens], [targets], **options)
    assert cache.length == len(tokens)
    return rows


def by_row(logits: Array, targets: Array) -> Array:
    """The same of rows of logits that lie somewhere else, one by one."""
    dtype = [("logprob", "f4"), ("entropy", "f4"), ("rank", "i4"), ("likeliest", "i4")]
    rows = [_core.score(row, int(target)) for row, target in zip(logits, targets, strict=True)]
    return np.array(rows, dtype)


def assert_near(rows: Array, want: dict[str, Array], n: int) -> None:
    """Ranks exactly; the others to the rounding of sums of n / 16 terms, and of the result."""
    for name in ("ranks", "likeliest"):
        np.testing.assert_array_equal(rows[NAMES[name]], want[name])
    of_sums = (n / 16) ** 0.5 + 4
    for name in ("logprobs", "entropies"):
        bound = EPS * (of_sums * (2 + want["entropies"]) + np.abs(want[name]))
        assert_within(rows[NAMES[name]], want[name], bound)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("n", [*range(1, 35), 67, 1000, 50257])
def test_row(n: int) -> None:
    """Catches a lane that is lost or counted twice, and ties that the id does not decide."""
    rng = np.random.default_rng(n)
    logits = (3 * rng.standard_normal((6, n))).astype(np.float32)
    logits[1] = np.round(logits[1])  # ties
    logits[2] = -7.25
    logits[3] *= 30  # nearly certain
    logits[4, rng.integers(n)] = 80
    targets = rng.integers(0, n, 6)
    targets[4], targets[5] = n - 1, 0
    rows = by_row(logits, targets)
    assert_near(rows, score(logits, targets), n)
    assert rows.tobytes() == on_scalar(lambda: by_row(logits, targets)).tobytes()
    moved = by_row(np.array([misaligned(row) for row in logits]), targets)
    assert moved.tobytes() == rows.tobytes()


def test_extreme_rows() -> None:
    """Catches differences beyond float32 that make an entropy NaN, and negative entropies."""
    big = float(np.finfo(np.float32).max)
    certain = np.array([big, -big, 0, -200], np.float32)
    assert _core.score(certain, 0) == (0.0, 0.0, 0, 0)
    logprob, entropy, rank, likeliest = _core.score(certain, 1)
    assert (logprob, entropy, rank, likeliest) == (-np.inf, 0.0, 3, 0)
    assert _core.score(np.array([-5], np.float32), 0) == (0.0, 0.0, 0, 0)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rows_are_those_of_forward(dtype: str) -> None:
    """Catches scores of other rows, or of logits that are not those that forward gives."""
    model = build(ODD, random_tensors(ODD), dtype)
    logits = all_logits(model, TOKENS)
    rows = scored(model, TOKENS, TARGETS, threads=2, prompt_threads=2)
    assert rows.tobytes() == by_row(logits, TARGETS).tobytes()
    assert_near(rows, score(logits, TARGETS), ODD["n_vocab"])
    last = scored(model, TOKENS, TARGETS[:70])
    assert last.tobytes() == by_row(logits[-70:], TARGETS[:70]).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("chunk", [0, 1, 7, 64, 65, 199])
def test_threads_and_chunks_change_no_bit(dtype: str, threads: int, chunk: int) -> None:
    """Catches rows that depend on how the work is cut."""
    model = build(ODD, random_tensors(ODD), dtype)
    want = scored(model, TOKENS, TARGETS[:150])
    options = {"threads": threads, "prompt_threads": threads, "chunk": chunk}
    assert scored(model, TOKENS, TARGETS[:150], **options).tobytes() == want.tobytes()


@pytest.mark.parametrize("chunk", [0, 50])
def test_batch_changes_no_bit(chunk: int) -> None:
    """Catches rows that go to another sequence, and a sequence without rows that takes some."""
    model = build(ODD, random_tensors(ODD), "int8")
    lengths = [(90, 5), (1, 1), (33, 0), (70, 70), (1, 0), (130, 40), (1, 1)]
    texts = [random_tokens(ODD, n, seed=n + k) for n, k in lengths]
    targets = [TARGETS[:k].copy() for _, k in lengths]
    caches = [_core.Cache(model) for _ in lengths]
    rows = model.score(caches, texts, targets, threads=2, prompt_threads=2, chunk=chunk)
    assert [cache.length for cache in caches] == [n for n, _ in lengths]
    for found, text, wanted in zip(rows, texts, targets, strict=True):
        assert found.tobytes() == scored(model, text, wanted).tobytes()


def test_step_after_a_prompt() -> None:
    """Catches a single token, or two, whose row is not that of the prompt."""
    model = build(ODD, random_tensors(ODD), "int8")
    whole = scored(model, TOKENS, TARGETS)
    for n_last in (1, 2):
        cache = _core.Cache(model)
        for threads in (1, 2):
            cache.truncate(0)
            model.forward([cache], [TOKENS[:-n_last]], [0])
            (rows,) = model.score(
                [cache],
                [TOKENS[-n_last:]],
                [TARGETS[-n_last:]],
                threads=threads,
                prompt_threads=threads,
            )
            assert rows.tobytes() == whole[-n_last:].tobytes()


@pytest.mark.parametrize("name", ["vocab_33", "vocab_250000", "head_dim_1"])
def test_sizes_of_vocabulary(name: str) -> None:
    """Catches rows that overlap, or run beyond their buffer."""
    config = VARIANTS[name]
    model = build(config, random_tensors(config), "float32")
    tokens, targets = (random_tokens(config, 16, seed=seed) for seed in (0, 1))
    rows = scored(model, tokens, targets, threads=2, prompt_threads=2)
    assert rows.tobytes() == by_row(all_logits(model, tokens), targets).tobytes()


def damaged(config: Config, token: int) -> _core.Model:
    """A model of which one row of the head is not finite."""
    tensors = random_tensors(config)
    tensors["lm_head.weight"][token] = np.nan
    return build(config, tensors, "float32")


def test_damaged_model() -> None:
    """Catches a NaN among the logits that is scored, and a cache that keeps what failed."""
    model = damaged(ODD, 100)
    cache = _core.Cache(model, "float32")
    with pytest.raises(FloatingPointError, match="not finite"):
        model.score([cache], [TOKENS], [TARGETS])
    assert cache.length == 0
    model.score([cache], [TOKENS], [TARGETS[:0]])  # no row of the head is needed


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[131]], "target 131 at index 0 is outside the vocabulary; allowed are 0 to 130"),
        ([[5, -1]], "target -1 at index 1"),
        ([[5, 5, 5, 5]], "rows is 4; allowed are 0 to 3"),
        ([np.zeros(2, np.int64)], "targets must be a C-contiguous int32 array"),
        ([np.zeros((1, 1), np.int32)], "one dimension"),
        ([[1], [1]], "one length"),
        ([], "one length"),
    ],
)
def test_bad_targets(targets: list[Any], message: str) -> None:
    """Catches a target that would lead outside a table."""
    model = build(ODD, random_tensors(ODD), "int8")
    arrays = [t if isinstance(t, np.ndarray) else np.array(t, np.int32) for t in targets]
    with pytest.raises(ValueError, match=message):
        model.score([_core.Cache(model)], [TOKENS[:3]], arrays)


@pytest.mark.parametrize(
    ("logits", "token", "message"),
    [
        (np.zeros(3, np.float32), 3, "target is 3; allowed are 0 to 2"),
        (np.zeros(3, np.float32), -1, "target is -1"),
        (np.zeros(0, np.float32), 0, "logits"),
        (np.zeros((2, 2), np.float32), 0, "logits"),
        (np.zeros(3), 0, "logits"),
    ],
)
def test_bad_rows(logits: Array, token: int, message: str) -> None:
    """Catches a row that is read beyond its end."""
    with pytest.raises(ValueError, match=message):
        _core.score(logits, token)


PEAK = """
import sys
import numpy as np
sys.path[:0] = sys.argv[1:]
from core_models import build
from random_checkpoints import config_of, random_tensors
from gpt2fast import _core
config = config_of(n_layer=1, n_head=1, n_embd=8, n_ctx=512, n_vocab=200_000)
model = build(config, random_tensors(config), "float32")
tokens = np.zeros(512, np.int32)
def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])
model.forward([_core.Cache(model)], [tokens], [1])
before = peak()
model.score([_core.Cache(model)], [tokens], [tokens], prompt_threads=2)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_matrix_of_logits() -> None:
    """Catches logits that are kept for each token: 512 rows of 200,000 would be 410 MB."""
    run = subprocess.run(
        [sys.executable, "-c", PEAK, *sys.path], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 64 * 200_064 * 4 + 20_000_000
