from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _core

POLL_SECONDS: float

class CancelFlag:
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def is_set(self) -> bool: ...
    def _follower(self) -> CancelFlag: ...
    def capsule(self) -> object: ...

class StopStrings:
    def __new__(cls, strings: list[bytes], table: bytes, offsets: bytes) -> StopStrings: ...

class Matching:
    def __new__(cls, stops: StopStrings, before: Matching | None = None) -> Matching: ...
    def after(self, token: int, too_early: bool) -> Matching: ...
    @property
    def found(self) -> bool: ...
    @property
    def visible(self) -> int: ...

class Workspace:
    def __new__(cls, n_vocab: int) -> Workspace: ...

class Rules:
    def __new__(
        cls,
        n_vocab: int,
        *,
        bias_tokens: NDArray[np.int32],
        biases: NDArray[np.float32],
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        penalty_window: int,
        dry_multiplier: float,
        dry_base: float,
        dry_allowed_length: int,
        dry_breakers: NDArray[np.uint8],
        no_repeat_ngram: int,
        bad_tokens: NDArray[np.int32],
        bad_starts: NDArray[np.int32],
        min_new_tokens: int,
        forced_tokens: NDArray[np.int32],
    ) -> Rules: ...

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
        typical_p: float = 1.0,
        mirostat_tau: float = 0.0,
        mirostat_eta: float = 0.0,
        seed: int,
        sample: int,
        start: int = 0,
        stride: int = 0,
        rules: Rules | None = None,
        processor: Callable[[int, memoryview], object] | None = None,
        logprobs: NDArray[np.float32] | None = None,
        top_tokens: NDArray[np.int32] | None = None,
        top_logprobs: NDArray[np.float32] | None = None,
    ) -> Sequence: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def finish_reason(self) -> Any: ...
    @property
    def mu(self) -> float: ...
    @property
    def seconds(self) -> tuple[float, float]: ...

def window_start(n_tokens: int, n_ctx: int, stride: int) -> int: ...
def now() -> float: ...
def run(
    model: _core.Model,
    sequences: list[Sequence],
    workspace: Workspace,
    *,
    threads: int,
    prompt_threads: int,
    seconds: float,
    chunk: int = 0,
    cancel: CancelFlag | None = None,
    deadline: float = 0.0,
) -> None: ...
def forward(
    model: _core.Model,
    caches: list[_core.Cache],
    tokens: list[NDArray[np.int32]],
    logits: list[NDArray[np.float32]],
    hidden: list[NDArray[np.float32] | None],
    *,
    threads: int,
    prompt_threads: int,
    chunk: int = 0,
    cancel: CancelFlag | None = None,
    deadline: float = 0.0,
) -> Literal["cancelled", "deadline"] | None: ...
def continuations(
    logits: NDArray[np.float32],
    k: int,
    workspace: Workspace,
    tokens: NDArray[np.int32],
    n_new: int,
    *,
    stop_tokens: NDArray[np.int32],
    rules: Rules | None = None,
    processor: Callable[[int, memoryview], object] | None = None,
    of_logprobs: bool = True,
) -> list[tuple[int, float]]: ...
def token_logprob(
    logits: NDArray[np.float32], token: int, n_top: int, workspace: Workspace
) -> tuple[float, list[tuple[int, float]]]: ...
def contrast(
    hidden: NDArray[np.float32],
    logprobs: NDArray[np.float32],
    context: NDArray[np.float32],
    n_context: int,
    alpha: float,
) -> list[float]: ...
def normalise_rows(hidden: NDArray[np.float32]) -> None: ...
def filtered(logits: NDArray[np.float32], **options: float) -> dict[int, int]: ...
def sample(
    logits: NDArray[np.float32],
    random: int,
    workspace: Workspace | None = None,
    **options: float,
) -> int: ...
def adjusted(
    logits: NDArray[np.float32],
    rules: Rules,
    tokens: NDArray[np.int32],
    n_new: int,
    stop_tokens: NDArray[np.int32],
) -> list[float]: ...
def likeliest(logits: NDArray[np.float32], k: int) -> list[int]: ...
def random(seed: int, sample: int, position: int) -> int: ...
def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]: ...
def scan(stops: StopStrings, tokens: list[int], n_early: int = 0) -> tuple[bool, list[int]]: ...
