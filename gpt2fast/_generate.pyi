from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core

POLL_SECONDS: float

class CancelFlag:
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def is_set(self) -> bool: ...

class StopStrings:
    def __new__(cls, strings: list[bytes], table: bytes, offsets: bytes) -> StopStrings: ...

class Workspace:
    def __new__(cls, n_vocab: int) -> Workspace: ...

class Sequence:
    cache: _core.Cache
    def __new__(
        cls,
        cache: _core.Cache,
        tokens: NDArray[np.int32],
        n_prompt: int,
        logits: NDArray[np.float32],
        stop_tokens: NDArray[np.int32],
        visible: NDArray[np.int64],
        stops: StopStrings | None,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        seed: int,
        sample: int,
    ) -> Sequence: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def finish_reason(self) -> Any: ...
    @property
    def seconds(self) -> tuple[float, float]: ...

def now() -> float: ...
def run(
    model: _core.Model,
    sequences: list[Sequence],
    workspace: Workspace,
    *,
    threads: int,
    prompt_threads: int,
    seconds: float,
    cancel: CancelFlag | None = None,
    deadline: float = 0.0,
) -> None: ...
def filtered(
    logits: NDArray[np.float32],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> dict[int, int]: ...
def sample(
    logits: NDArray[np.float32],
    random: int,
    workspace: Workspace | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> int: ...
def random(seed: int, sample: int, position: int) -> int: ...
def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]: ...
def scan(stops: StopStrings, tokens: list[int]) -> tuple[bool, list[int]]: ...
