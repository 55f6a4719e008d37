"""The library inside a process: its end, its signals, its environment, its other threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from core_models import build
from random_checkpoints import VARIANTS, random_tensors

from gpt2fast import _core

EXIT = """
import threading, time, gpt2fast
model = gpt2fast.load()
def work():
    while True:
        model.{call}
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""

AGAIN = """
import threading, time, gpt2fast
model = gpt2fast.load(threads=1)
def work():
    while True:
        try:
            model.{call}
        except RuntimeError:
            pass
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""

FORKED = """
import os, signal, threading, time, gpt2fast
model = gpt2fast.load(threads=2)
def work():
    while True:
        model.logits([5] * 512)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
if child := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    signal.alarm(20)
"""

HANDLER = """
import signal, gpt2fast
model = gpt2fast.load(threads=2)
texts = []
signal.signal(signal.SIGALRM, lambda *_: texts.append(model.generate("hi", max_new_tokens=3).text))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
while len(texts) < 3:
    model.logits([5] * 512)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    "call",
    [
        "logits([5] * 512)",
        "logits([5])",
        "hidden_states([5] * 512)",
        "generate('Once', ignore_eot=True)",
    ],
)
def test_exit_during_a_call(call: str) -> None:
    """Catches an abort when the interpreter ends while a daemon thread is in the core."""
    ended = run(EXIT.format(call=call))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("call", ["logits([5])", "hidden_states([5])"])
def test_exit_while_threads_try_again(call: str) -> None:
    """Catches an exit that waits for ever, or aborts, as calls go on to come after it began."""
    ended = run(AGAIN.format(call=call))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_ends() -> None:
    """Catches a child whose end waits for a call of a thread that it does not have."""
    ended = run(FORKED)
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr


def test_signal_handler_uses_the_model() -> None:
    """Catches a handler that waits for the thread pool which its own interrupted call holds."""
    ended = run(HANDLER)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", ["avx9", "neon_i8mm9"])
def test_unknown_target_in_the_environment(name: str) -> None:
    """Catches a wrong GPT2FAST_TARGET that is ignored, or reported as something else."""
    ended = run("import gpt2fast; gpt2fast.load()", GPT2FAST_TARGET=name)
    assert ended.returncode == 1
    assert "ValueError" in ended.stderr
    assert name in ended.stderr
    assert "scalar" in ended.stderr


def test_core_refuses_what_would_crash() -> None:
    """Catches a null cache, weights that vanish and ids that change after their check."""
    config = VARIANTS["plain"]
    model = build(config, random_tensors(config), "float32")
    one = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="None"):
        model.forward([None], [one], [1])  # type: ignore[list-item]
    tensors = dict.fromkeys(["wte.weight"], np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"wte\.weight"):
        _core.Model(dict(config), "float32", tensors)
