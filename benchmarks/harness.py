"""lm-evaluation-harness with gpt2fast and with its own `hf` backend: the numbers, and the time.

    pip install "gpt2fast[lm-eval]" torch transformers accelerate
    GPT2FAST_TEST_DATA=... python -m benchmarks.harness [--model CHECKPOINT] [--passages 500]

Four tasks, made of local text and written down as the harness wants them: the last word of LAMBADA
passages, which of four paragraphs of a book comes next, perplexity of WikiText-2 articles, and how
a passage goes on when the likeliest tokens are taken. Each backend runs them in a process of its
own, in float32. Printed are the numbers of all, the largest difference from `hf` with batches of
one, of the numbers (relative above 1) and of the answers to single requests, and the seconds that
the requests took.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

LAST_WORD = "{{text.rsplit(' ', 1)[0]}}"
METRICS: dict[str, list[str]] = {
    "last_word": ["perplexity", "acc"],
    "next_paragraph": ["acc", "acc_norm"],
    "articles": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "going_on": ["exact_match"],
}
TASKS: dict[str, dict[str, Any]] = {
    "last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": LAST_WORD,
        "doc_to_target": "{{' ' + text.rsplit(' ', 1)[1]}}",
    },
    "next_paragraph": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "\n\n",
    },
    "articles": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
    },
    "going_on": {
        "output_type": "generate_until",
        "doc_to_text": LAST_WORD,
        "doc_to_target": "{{text.rsplit(' ', 1)[1]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 32},
    },
}
SIZES = {"passages": 500, "questions": 200, "articles": 20, "texts": 40}
REQUESTS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


class Run(NamedTuple):
    """What a backend made of one task: its numbers, its answers, and the seconds they took."""

    numbers: dict[str, float]
    answers: list[Any]  # of each request, in order
    seconds: float


def passages(data: Path, n: int) -> Iterator[dict[str, Any]]:
    """Yield {"text"} of the first passages of LAMBADA."""
    with (data / "eval" / "lambada_test.jsonl").open(encoding="utf-8") as file:
        for line, _ in zip(file, range(n), strict=False):
            yield {"text": json.loads(line)["text"]}


def questions(data: Path, n: int) -> Iterator[dict[str, Any]]:
    """Yield {"text", "choices", "answer"}: two paragraphs, and four of which one comes next."""
    for path in sorted((data / "stories-valid").glob("*.txt")):
        found = [part for part in path.read_text().split("\n\n") if 80 < len(part) < 400]
        for i in range(0, len(found) - 30, 3):
            if n == 0:
                return
            choices = [found[i + 2], *(found[i + step] for step in (9, 17, 29))]
            answer = i % 4
            choices[0], choices[answer] = choices[answer], choices[0]
            text = "\n\n".join(found[i : i + 2])
            yield {"text": text, "choices": choices, "answer": answer}
            n -= 1


def articles(data: Path, n: int) -> Iterator[dict[str, Any]]:
    """Yield {"text"} of the first articles of WikiText-2's test set."""
    whole = (data / "eval" / "wiki.test.raw").read_text(encoding="utf-8")
    for text, _ in zip(re.split(r"\n (?== [^=])", whole)[1:], range(n), strict=False):
        yield {"text": text}


def write_tasks(folder: Path, data: Path, sizes: dict[str, int]) -> None:
    """Write each task and its documents."""
    documents = {
        "last_word": passages(data, sizes["passages"]),
        "next_paragraph": questions(data, sizes["questions"]),
        "articles": articles(data, sizes["articles"]),
        "going_on": passages(data, sizes["texts"]),
    }
    for name, task in TASKS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(document) + "\n" for document in documents[name]))
        content = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}},
            "test_split": "test",
            "metric_list": [{"metric": metric} for metric in METRICS[name]],
            **task,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML


def evaluate(backend: str, model: str, folder: str) -> dict[str, Run]:
    """Run the tasks of a folder with "gpt2fast", or with "hf:" and a batch size."""
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    os.environ |= dict.fromkeys(offline, "1") | {"HF_DATASETS_CACHE": f"{folder}/cache"}
    from lm_eval import simple_evaluate
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    import gpt2fast.lm_eval  # noqa: F401

    name, _, batch_size = backend.partition(":")
    arguments = {"pretrained": model, "dtype": "float32"}
    common = {"batch_size": batch_size or None, "device": "cpu"}
    lm = get_model(name).create_from_arg_obj(arguments, common)
    seconds: list[float] = []
    for kind in REQUESTS:
        setattr(lm, kind, timed(getattr(lm, kind), seconds))
    tasks = TaskManager(include_path=folder, include_defaults=False)
    found = {}
    for task in TASKS:
        result = simple_evaluate(lm, tasks=[task], task_manager=tasks, bootstrap_iters=0)
        numbers = {
            key.removesuffix(",none"): value
            for key, value in result["results"][task].items()
            if isinstance(value, float)
        }
        samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
        answers = [answer for sample in samples for [answer] in sample["resps"]]
        found[task] = Run(numbers, answers, seconds.pop())
    return found


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return the function; the seconds of each call are added to the list."""

    def timing(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        result = function(*arguments, **options)
        seconds.append(time.perf_counter() - begin)
        return result

    return timing


def difference(one: Any, other: Any) -> float:
    """Return by how much two answers or numbers differ, relative above 1; infinity for texts."""
    if isinstance(one, tuple):
        return max(map(difference, one, other))
    if isinstance(one, float):
        return float(abs(one - other) / max(abs(other), 1.0))
    return 0.0 if one == other else float("inf")


def print_table(runs: dict[str, dict[str, Run]]) -> None:
    """Print the numbers, the largest differences from the first backend, and the seconds."""
    first = next(iter(runs))
    print("| task |", " | ".join(runs), "|", end="")
    print("\n|---|" + "---|" * len(runs))
    for task in TASKS:
        reference = runs[first][task]
        for number in reference.numbers:
            values = (f"{of_tasks[task].numbers[number]:.6f}" for of_tasks in runs.values())
            print(f"| {task} {number} |", " | ".join(values), "|")
        of_numbers, of_answers = [], []
        for of_tasks in runs.values():
            run = of_tasks[task]
            gaps = [difference(run.numbers[key], reference.numbers[key]) for key in run.numbers]
            of_numbers.append(f"{max(gaps):.1e}")
            gaps = list(map(difference, run.answers, reference.answers))
            of_answers.append(f"{max(gaps):.1e}")
        print("| largest difference of numbers |", " | ".join(of_numbers), "|")
        print(f"| of {len(reference.answers)} answers |", " | ".join(of_answers), "|")
        print("| seconds |", " | ".join(f"{it[task].seconds:.1f}" for it in runs.values()), "|")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", help="default: models/tales of the test data")
    parser.add_argument("--backends", default="hf:1,hf:16,gpt2fast")
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size, metavar="N")
    options = parser.parse_args(arguments)
    data = Path(os.environ["GPT2FAST_TEST_DATA"])
    model = options.model or str(data / "models" / "tales")
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder), data / "data", {name: getattr(options, name) for name in SIZES})
        for backend in options.backends.split(","):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                runs[backend] = process.submit(evaluate, backend, model, folder).result()
    print_table(runs)


if __name__ == "__main__":
    main()
