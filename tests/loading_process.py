"""Processes that load a model and can be made to wait at a stage of it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60  # seconds until a test gives up waiting

# Loads argv[1] into the cache argv[2] and prints the stages it went through. Whenever it hears of
# progress in the stage argv[3], it makes the file argv[4] and waits for argv[5].
PROCESS = """
import json, os, sys, time
from pathlib import Path
from gpt2fast import loading
loading.IN_MEMORY_BELOW = 0
source, cache, wanted, tell, wait = sys.argv[1:6]
class Progress:
    stages, steps = [], 0
    def stage(self, stage):
        self.stages.append(stage.partition(" ")[0])
    def __call__(self, done, total):
        if self.stages[-1] != wanted:
            return
        self.steps += 1
        Path(tell).touch()
        end = time.monotonic() + 60
        while not os.path.exists(wait) and time.monotonic() < end:
            time.sleep(0.01)
progress = Progress()
model = loading.load_packed(source, cache_dir=cache, progress=progress)
print(json.dumps([progress.stages, progress.steps, model.fingerprint]))
"""


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def process(
    source: Path, stage: str, tell: str = "told", wait: str = "."
) -> Iterator[subprocess.Popen[str]]:
    """Run PROCESS in the directory of the source."""
    arguments = [str(source), str(source.parent / "cache"), stage, tell, wait]
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, *arguments],
        cwd=source.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()
