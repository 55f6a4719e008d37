"""Loading the model that the stand-in of the Hub offers."""

from __future__ import annotations

from typing import Any

from hub_server import REPO

from gpt2fast.checkpoints.packed import PackedModel
from gpt2fast.hub import Access
from gpt2fast.loading import load_packed


class Seen:
    """A progress that remembers the stages and what was said in each."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: dict[str, list[tuple[int, int]]] = {}

    def stage(self, stage: str) -> None:
        self.stages.append(stage.partition(" ")[0])

    def __call__(self, done: int, total: int) -> None:
        self.steps.setdefault(self.stages[-1], []).append((done, total))

    @property
    def packed(self) -> bool:
        return "packing" in self.steps


def load(name: str = REPO, **access: Any) -> tuple[PackedModel, Seen]:
    seen = Seen()
    return load_packed(name, progress=seen, access=Access(**access)), seen
