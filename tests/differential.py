"""Texts against transformers' generate, token for token, in float32.

    GPT2FAST_TEST_DATA=... python tests/differential.py [--prompts 50] [--new 24]

runs every mode below on the trained model and on a random one of 124M, 50 prompts each: prompts of
five lengths in one batch of ours, beside theirs of one length at a time, and without rules also of
all lengths, with padding on the left. Prints which texts differ, and where: a first difference is
excused where torch's own margin is below 1e-4, in one text of 50.

The margin of a greedy step is that of the two best scores. A beam search depends on many
comparisons at each step: which texts go on, which of those that end count, and their order in the
end. `Replay` does it again from the scores that transformers reports, must come to the same texts
unless two are equal, and keeps the least difference that a step turned on.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpt2fast

MARGIN = 1e-4
TIE = 1e-5  # scores of hundreds in float32: torch's order of equal ones is not told
LENGTHS = (3, 7, 12, 20, 33)
BEAMS = {"num_beams": 4}
RULES = ("", "repetition_penalty", "no_repeat_ngram", "min_new_tokens", "bad_tokens")
MODES = (*(f"greedy {rule}".strip() for rule in RULES), *(f"beam {rule}".strip() for rule in RULES))
PENALISED = ("beam length_penalty 2", "beam length_penalty -1")

Step = tuple[list[list[int]], NDArray[np.float32]]  # new tokens of each text, scores of the next


def prompts_of(model: gpt2fast.Model, folder: Path, n: int) -> list[list[int]]:
    """Beginnings of paragraphs that `tales` was not trained on, in five lengths."""
    books = sorted((folder / "data" / "stories-valid").glob("*.txt"))
    lines = [line for path in books for line in path.read_text(encoding="utf-8").splitlines()]
    long = [line[:400] for line in lines if len(line) >= 200]
    ids = [model.tokenizer.encode(line) for line in long[:: len(long) // n][:n]]
    return [tokens[: LENGTHS[i % len(LENGTHS)]] for i, tokens in enumerate(ids)]


def options(
    mode: str, eot: int, liked: list[list[int]], n_new: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and theirs; what is ruled out is what greedy likes, or nothing would change."""
    kind, _, rule = mode.partition(" ")
    often = Counter(token for tokens in liked for token in tokens).most_common(1)[0][0]
    bad = [[tokens[0]] for tokens in liked[:10]] + [tokens[3:6] for tokens in liked[:10]]
    least = n_new * 5 // 8
    every: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "": ({}, {}),
        "repetition_penalty": ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        "no_repeat_ngram": ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        "min_new_tokens": (
            {"min_new_tokens": least, "stop_tokens": [often]},
            {"min_new_tokens": least, "eos_token_id": [eot, often]},
        ),
        "bad_tokens": ({"bad_tokens": bad}, {"bad_words_ids": bad}),
    }
    if rule.startswith("length_penalty"):
        penalty = {"length_penalty": float(rule.split()[1])}
        every[rule] = (
            {"stop_tokens": [often]} | penalty,
            {"eos_token_id": [eot, often]} | penalty,
        )
    ours, theirs = every[rule]
    if kind == "greedy":
        return {"temperature": 0} | ours, theirs
    return BEAMS | {"n": 4} | ours, BEAMS | {"num_return_sequences": 4} | theirs


class Replay:
    """A beam search of one prompt, from what transformers had before it at each step."""

    def __init__(
        self, steps: list[Step], stop_tokens: set[int], n_new: int, penalty: float
    ) -> None:
        """Search; a step has the texts that go on, in order, and (num_beams, n_vocab) scores."""
        self._stop_tokens, self._n_new, self._penalty = stop_tokens, n_new, penalty
        self._width = len(steps[0][1])
        self._running: list[tuple[np.float32, list[int]]] = [(np.float32(0), [])]
        self.results: list[tuple[float, list[int]]] = []
        self.margins: list[float] = []
        for texts, scores in steps:
            known = {tuple(text): score for score, text in self._running}
            going = list(dict.fromkeys(map(tuple, texts)))  # the first step has one text n times
            self._running = [(known[text], list(text)) for text in going]
            self.margins.append(self._advance(scores))
            if self._is_over():
                break
        ranked = [score for score, _ in self.results]
        self.margins[-1] = min(self.margins[-1], *-np.diff(ranked), math.inf)

    def _advance(self, step: NDArray[np.float32]) -> float:
        running = np.array([score for score, _ in self._running], np.float32)
        sums = (step[: len(running)] + running[:, None]).ravel()
        considered = max(2, 1 + len(self._stop_tokens)) * self._width
        best = np.argsort(-sums, kind="stable")[: considered + self._width]
        going: list[tuple[np.float32, list[int]]] = []
        margin, length = math.inf, len(self._running[0][1]) + 1
        for place, at in enumerate(best):
            before = self._running[at // step.shape[1]][1]
            token = int(at % step.shape[1])
            ends = token in self._stop_tokens or length == self._n_new
            if place in (self._width - 1, self._width) and ends:
                margin = min(margin, float(sums[best[self._width - 1]] - sums[best[self._width]]))
            if ends and place < self._width:
                score = float(sums[at]) / length**self._penalty
                self.results.append((score, [*before, token]))
            elif not ends:
                going.append((sums[at], [*before, token]))
        if len(going) > self._width:
            margin = min(margin, float(going[self._width - 1][0] - going[self._width][0]))
        self._running = going  # more than go on: between equal ones the next step tells which do
        self.results.sort(key=lambda result: -result[0])
        if len(self.results) > self._width:
            margin = min(margin, self.results[self._width - 1][0] - self.results[self._width][0])
        del self.results[self._width :]
        return margin

    def _is_over(self) -> bool:
        if not self._running:
            return True
        if len(self.results) < self._width:
            return False
        best = float(self._running[0][0]) / len(self._running[0][1]) ** self._penalty
        self.margins[-1] = min(self.margins[-1], abs(best - self.results[-1][0]))
        return bool(best <= self.results[-1][0])


class Recorder:
    """A logits processor that changes nothing and keeps what it sees."""

    def __init__(self, n_prompt: int) -> None:
        self._n_prompt = n_prompt
        self.steps: list[Step] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.steps.append((input_ids[:, self._n_prompt :].tolist(), scores.numpy().copy()))
        return scores


class Theirs:
    """The texts of transformers for some prompts, and by which margins they came about."""

    def __init__(self, model: Any, settings: dict[str, Any], n_new: int) -> None:
        self._model, self._settings, self._n_new = model, settings, n_new
        eos = settings["eos_token_id"]
        self._stop_tokens = set(eos) if isinstance(eos, list) else {eos}
        self.texts: dict[int, list[list[int]]] = {}  # the best first; one if it is no beam search
        self.margins: dict[int, list[float]] = {}  # of each step
        self.scores: dict[int, list[float]] = {}  # of each text of a beam search

    def write(self, prompts: dict[int, list[int]]) -> None:
        """Write them as one batch, with padding on the left if their lengths differ."""
        import torch

        longest = max(map(len, prompts.values()))
        pad = self._settings["pad_token_id"]
        rows = [[pad] * (longest - len(ids)) + ids for ids in prompts.values()]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts.values()]
        recorder = Recorder(longest)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = self._model.generate(
                torch.tensor(rows),
                attention_mask=torch.tensor(mask),
                do_sample=False,
                max_new_tokens=self._n_new,
                return_dict_in_generate=True,
                output_scores=True,
                logits_processor=[recorder],
                **self._settings,
            )
        width = self._settings.get("num_beams", 1)
        new = done.sequences[:, longest:].tolist()
        for row, i in enumerate(prompts):
            part = slice(row * width, (row + 1) * width)
            steps = [(texts[part], scores[part]) for texts, scores in recorder.steps]
            self.texts[i] = [self._cut(tokens) for tokens in new[part]]
            if width == 1:
                best = [np.sort(scores[0])[-2:] for _, scores in steps]
                self.margins[i] = [float(first - second) for second, first in best]
                continue
            self.scores[i] = done.sequences_scores[part].tolist()
            penalty = self._settings.get("length_penalty", 1.0)
            replay = Replay(steps, self._stop_tokens, self._n_new, penalty)
            same = [tokens for _, tokens in replay.results] == self.texts[i]
            assert same or min(replay.margins) < TIE, (i, replay.margins)
            self.margins[i] = replay.margins

    def _cut(self, tokens: list[int]) -> list[int]:
        """Return the tokens up to the first that ends the text; what follows is padding."""
        ends = [at for at, token in enumerate(tokens) if token in self._stop_tokens]
        return tokens[: ends[0] + 1] if ends else tokens


def compare(ours: list[Any], theirs: Theirs) -> list[tuple[int, int, float]]:
    """Return (prompt, step, margin) of the texts that differ; raise AssertionError for one that
    differs where torch is sure.
    """
    excused = []
    for i, found in enumerate(ours):
        texts = found if isinstance(found, list) else [found]
        expected, margins = theirs.texts[i], theirs.margins[i]
        if [text.tokens for text in texts] == expected:
            for text, score in zip(texts, theirs.scores.get(i, []), strict=False):
                assert abs(text.score - score) <= 1e-4 * max(1, abs(score)), (i, text.score, score)
            continue
        step = int(np.argmin(margins))
        if i not in theirs.scores:
            pairs = zip(texts[0].tokens, expected[0], strict=False)
            step = next(k for k, (a, b) in enumerate(pairs) if a != b)
        assert margins[step] < MARGIN, (i, step, margins[step], texts[0].tokens, expected[0])
        excused.append((i, step, margins[step]))
    return excused


def differences(
    model: gpt2fast.Model,
    oracle: Any,
    prompts: list[list[int]],
    mode: str,
    n_new: int,
) -> Iterator[tuple[str, list[tuple[int, int, float]]]]:
    """Yield how their batches were made, and what was excused."""
    eot = model.config.eot
    assert eot is not None
    plain = model.generate(prompts, temperature=0, max_new_tokens=n_new)
    chosen, changes = options(mode, eot, [text.tokens for text in plain], n_new)
    ours: list[Any] = model.generate(prompts, max_new_tokens=n_new, **chosen)
    assert mode in ("greedy", "beam") or ours != plain
    settings = {"eos_token_id": eot, "pad_token_id": eot} | changes
    theirs = Theirs(oracle, settings, n_new)
    for length in LENGTHS:
        theirs.write({i: ids for i, ids in enumerate(prompts) if len(ids) == length})
    yield "by length", compare(ours, theirs)
    if mode not in ("greedy", "beam"):
        return
    padded = Theirs(oracle, settings, n_new)
    for start in range(0, len(prompts), 10):
        padded.write(dict(list(enumerate(prompts))[start : start + 10]))
    yield "padded", compare(ours, padded)


def main() -> int:
    """Print a line for each mode, model and way of batching; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--new", type=int, default=24, help="tokens of each text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", default="tales,random-124m")
    parser.add_argument("--modes", default=",".join((*MODES, *PENALISED)))
    arguments = parser.parse_args()
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(arguments.threads)
    data, status = Path(os.environ["GPT2FAST_TEST_DATA"]), 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.models.split(","):
            folder = data / "models" / name
            if name == "random-124m":
                sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
                from benchmarks.random_checkpoints import write

                folder = Path(temporary) / "gpt2"
                write("gpt2", folder, tokenizer=data / "gpt2-tokenizer")
            oracle: Any = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
            oracle.eval()
            with gpt2fast.load(folder, dtype="float32", threads=arguments.threads) as model:
                prompts = prompts_of(model, data, arguments.prompts)
                for mode in arguments.modes.split(","):
                    for way, excused in differences(model, oracle, prompts, mode, arguments.new):
                        print(f"{name}, {mode}, {way}: excused {excused}", flush=True)
                        status |= len(excused) > arguments.prompts // 50
    return status


if __name__ == "__main__":
    sys.exit(main())
