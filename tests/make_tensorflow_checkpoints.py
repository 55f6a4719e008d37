"""Make tests/data/tensorflow: tiny GPT-2s as TensorFlow itself writes them.

    pip install tensorflow-cpu
    python tests/make_tensorflow_checkpoints.py

    released   as OpenAI's download: model.ckpt, float
    run1       as gpt-2-simple leaves it after fine-tuning: model-1 and model-2, the latest
    optimizer  model-2 with Adam's slots and counters inside, as a Saver of everything writes it
    sharded    two data files, merged from two devices; the blocks' weights half and bfloat16

Each holds expected.json: sha256 of every weight, as float32, as the session holds it; `released`
also the logits that TensorFlow computes after TOKENS. The graph is GPT-2 as its paper and OpenAI's
code have it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
import tensorflow
from checkpoint_files import write_tokenizer

tf = tensorflow.compat.v1
DATA = Path(__file__).resolve().parent / "data" / "tensorflow"
HPARAMS = {"n_vocab": 258, "n_ctx": 8, "n_embd": 6, "n_head": 2, "n_layer": 2}
TOKENS = [17, 0, 257, 64, 64, 128]
Style = Callable[[str], Any]


def variable(name: str, shape: list[int], dtype: Any) -> Any:
    """Return a variable of normal weights, in float32 whatever it is stored as."""
    values = tf.initializers.random_normal(stddev=0.3, seed=len(name) * sum(shape))
    stored = tf.get_variable(name, shape, tf.float32 if dtype is None else dtype, values)
    return tf.cast(stored, tf.float32)


def norm(x: Any, scope: str, dtype: Any) -> Any:
    """Normalise the last axis, then scale and shift."""
    with tf.variable_scope(scope):
        n = x.shape[-1]
        g, b = variable("g", [n], dtype), variable("b", [n], dtype)
        mean, variance = tf.nn.moments(x, [-1], keep_dims=True)
        return (x - mean) * tf.rsqrt(variance + 1e-5) * g + b


def conv1d(x: Any, scope: str, n_out: int, dtype: Any) -> Any:
    """Multiply [n, n_in] with a weight that is stored as [1, n_in, n_out]."""
    with tf.variable_scope(scope):
        w = variable("w", [1, x.shape[-1], n_out], dtype)
        return tf.matmul(x, w[0]) + variable("b", [n_out], dtype)


def block(x: Any, dtype: Any) -> Any:
    """Attention and MLP of one layer on [n, n_embd]."""
    n, width = x.shape
    heads = HPARAMS["n_head"]
    x1 = norm(x, "ln_1", dtype)
    with tf.variable_scope("attn"):
        joined = tf.reshape(conv1d(x1, "c_attn", 3 * width, dtype), [n, 3, heads, width // heads])
        q, k, v = tf.unstack(tf.transpose(joined, [1, 2, 0, 3]))
        scores = tf.matmul(q, k, transpose_b=True) * (width // heads) ** -0.5
        scores += tf.constant(np.triu(np.full((n, n), -1e10, np.float32), 1))
        mixed = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [1, 0, 2])
        x += conv1d(tf.reshape(mixed, [n, width]), "c_proj", width, dtype)
    x2 = norm(x, "ln_2", dtype)
    with tf.variable_scope("mlp"):
        h = conv1d(x2, "c_fc", 4 * width, dtype)
        h = 0.5 * h * (1 + tf.tanh((2 / np.pi) ** 0.5 * (h + 0.044715 * h**3)))
        return x + conv1d(h, "c_proj", width, dtype)


def gpt2(style: Style) -> Any:
    """Return the logits of TOKENS; `style` gives device and dtype of a part of the model."""
    with tf.variable_scope("model"):
        with style("tables") as dtype:
            wpe = variable("wpe", [HPARAMS["n_ctx"], HPARAMS["n_embd"]], dtype)
            wte = variable("wte", [HPARAMS["n_vocab"], HPARAMS["n_embd"]], dtype)
            x = tf.gather(wte, TOKENS) + wpe[: len(TOKENS)]
        for layer in range(HPARAMS["n_layer"]):
            with style(f"h{layer}") as dtype, tf.variable_scope(f"h{layer}"):
                x = block(x, dtype)
        with style("ln_f") as dtype:
            return tf.matmul(norm(x, "ln_f", dtype), wte, transpose_b=True)


class Part:
    """Device and dtype of a part of the model, as a context."""

    def __init__(self, device: str, dtype: Any) -> None:
        self.device, self.dtype = tf.device(device), dtype

    def __enter__(self) -> Any:
        self.device.__enter__()
        return self.dtype

    def __exit__(self, *exception: object) -> None:
        self.device.__exit__(*exception)


def plain(_: str) -> Part:
    return Part("/cpu:0", tf.float32)


def mixed(part: str) -> Part:
    """Put the second layer on another device, and the layers into half and bfloat16."""
    dtypes = {"h0": tf.float16, "h1": tf.bfloat16}
    return Part("/cpu:1" if part == "h1" else "/cpu:0", dtypes.get(part, tf.float32))


def directory(name: str) -> Path:
    """Return an empty directory with configuration and tokenizer, as both layouts have them."""
    path = DATA / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / "hparams.json").write_text(json.dumps(HPARAMS), encoding="utf-8")
    write_tokenizer(path, HPARAMS["n_vocab"])
    (path / "vocab.json").rename(path / "encoder.json")
    (path / "merges.txt").rename(path / "vocab.bpe")
    return path


def expect(path: Path, session: Any, **more: Any) -> None:
    """Write down what the session holds."""
    weights = [v for v in tf.trainable_variables() if v.name.startswith("model/")]
    hashes = {
        v.op.name: hashlib.sha256(np.asarray(session.run(v), "<f4").tobytes()).hexdigest()
        for v in weights
    }
    content = {"tensorflow": tensorflow.__version__, "sha256": hashes, **more}
    (path / "expected.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write all four."""
    tf.disable_eager_execution()
    DATA.mkdir(parents=True, exist_ok=True)
    os.chdir(DATA)  # relative paths stay relative in the files `checkpoint`
    with tf.Graph().as_default(), tf.Session() as session:
        logits = gpt2(plain)
        weights = tf.trainable_variables()
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=TOKENS[1:], logits=logits[:-1])
        )
        step = tf.train.AdamOptimizer(0.01).minimize(loss, var_list=weights)
        session.run(tf.global_variables_initializer())
        path = directory("released")
        last = [float(f"{value:.7g}") for value in session.run(logits)[-1]]
        expect(path, session, tokens=TOKENS, last_logits=last)
        tf.train.Saver(weights).save(session, "released/model.ckpt", write_meta_graph=False)
        path = directory("run1")
        saver = tf.train.Saver(weights, max_to_keep=2)
        for counter in (1, 2):
            session.run(step)
            saver.save(session, "run1/model", counter, write_meta_graph=False)
            (path / "counter").write_text(f"{counter}\n", encoding="utf-8")
        expect(path, session)
        path = directory("optimizer")
        tf.train.Saver().save(session, "optimizer/model", 2, write_meta_graph=False)
        expect(path, session)
    two = tf.ConfigProto(device_count={"CPU": 2})
    with tf.Graph().as_default(), tf.Session(config=two) as session:
        gpt2(mixed)
        session.run(tf.global_variables_initializer())
        path = directory("sharded")
        saver = tf.train.Saver(sharded=True)
        saver.save(session, "sharded/model.ckpt", write_meta_graph=False)
        expect(path, session)


if __name__ == "__main__":
    main()
