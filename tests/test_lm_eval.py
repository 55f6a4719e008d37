"""lm-evaluation-harness: the numbers of its own `hf` backend, whatever comes together."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import checkpoint_files
import pytest

from gpt2fast.config import Config
from gpt2fast.model import load

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it depends on is not ours to mend
    from lm_eval.api.instance import Instance

    from gpt2fast.lm_eval import HarnessModel
    from gpt2fast.lm_eval.generation import Manner

N_CTX, N_TOKENS = 40, 300
EOT = "<|endoftext|>"
LONG = "The king said to the queen! " * 4

PAIRS = {
    "plain": ("Once upon", " a time"),
    "spaces at the end of the context": ("Once upon  ", "a time"),
    "any white space": ("Once\t\n", " x"),
    "no context": ("", "Once"),
    "no context, and it begins with the prefix": ("", EOT + "Once"),
    "special tokens are special": ("a" + EOT + "b", EOT),
    "beyond ASCII": ("caf\u00e9 \u2014 ", "\u65e5\u672c \U0001f600"),
    "a token across the border": ("a!", "!b"),
    "as long as the context": ("abcd", "x" * (N_CTX - 3)),
    "one more": ("abcd", "x" * (N_CTX - 2)),
    "a long context": (LONG, " king"),
    "a long continuation": ("Once", "x" * N_CTX),
    "both long": (LONG, "x" * (N_CTX - 1)),
}
TEXTS = ["", "a", EOT + "a", *("ab" * (N_CTX // 2) + "c" * n for n in range(3)), LONG * 3]
ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "no stop string": ("Once", {"max_gen_toks": 20}),
    "stop strings": ("Once upon", {"until": ["e", "\u00e9", "("], "max_gen_toks": 30}),
    "one as a string": ("Once", {"until": "a", "max_gen_toks": 30}),
    "a long context": (LONG, {"max_gen_toks": 9}),
    "as long as can be": (LONG, {"max_gen_toks": N_CTX - 1}),
    "greedy in so many words": ("a", {"do_sample": False, "temperature": 0.7, "max_gen_toks": 9}),
    "penalty": ("aaaa", {"repetition_penalty": 1.5, "max_gen_toks": 20}),
    "no repeats": ("aaaa", {"no_repeat_ngram_size": 2, "max_new_tokens": 20}),
    "special tokens": (EOT + "Once", {"max_gen_toks": 9}),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with a tokenizer that has merges."""
    directory = tmp_path_factory.mktemp("harness") / "model"
    end = N_TOKENS - 1
    config = checkpoint_files.hf_config(
        n_positions=N_CTX, vocab_size=N_TOKENS, bos_token_id=end, eos_token_id=end
    )
    shapes = Config.from_huggingface(config).tensor_shapes()
    tensors = {name: 4 * array for name, array in checkpoint_files.random_tensors(shapes).items()}
    checkpoint_files.write_checkpoint(directory, config, tensors)
    checkpoint_files.write_tokenizer(directory, N_TOKENS)
    return directory


@pytest.fixture(scope="module")
def ours(checkpoint: Path) -> HarnessModel:
    return HarnessModel(str(checkpoint), dtype="float32", threads=1)


@pytest.fixture(scope="module")
def hf_class() -> Any:
    """The class of the `hf` backend."""
    for module in ("torch", "transformers", "accelerate"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM
    return HFLM


@pytest.fixture(scope="module")
def hf(checkpoint: Path, hf_class: Any) -> Any:
    """The `hf` backend on the same checkpoint."""
    return hf_class(str(checkpoint), dtype="float32", device="cpu")


def ask(lm: Any, kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    requests = [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]
    answers: list[Any] = getattr(lm, kind)(requests, disable_tqdm=True)
    return answers


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_loglikelihood(ours: HarnessModel, hf: Any, pair: tuple[str, str]) -> None:
    """Catches text that is split, cut or scored otherwise than by the harness itself."""
    [(got, greedy)] = ask(ours, "loglikelihood", pair)
    [(want, want_greedy)] = ask(hf, "loglikelihood", pair)
    assert got == pytest.approx(want, abs=1e-4) and greedy is want_greedy


def test_greedy(ours: HarnessModel, hf: Any) -> None:
    """Catches a continuation that is the greedy one and is not called so, or the reverse."""
    [text] = ask(ours, "generate_until", ("Once", {"max_gen_toks": 6}))
    pairs = [("Once", text), ("Once", text + "~"), ("Once", "~" + text)]
    greedy = [ask(ours, "loglikelihood", pair)[0][1] for pair in pairs]
    assert greedy == [ask(hf, "loglikelihood", pair)[0][1] for pair in pairs]
    assert greedy == [True, False, False]


@pytest.mark.parametrize("text", TEXTS, ids=map(str, range(len(TEXTS))))
def test_rolling(ours: HarnessModel, hf: Any, text: str) -> None:
    """Catches windows that overlap, leave a token out, or begin elsewhere."""
    [got] = ask(ours, "loglikelihood_rolling", (text,))
    [want] = ask(hf, "loglikelihood_rolling", (text,))
    assert got == pytest.approx(want, abs=1e-4, rel=1e-6)


@pytest.mark.parametrize("request_", ANSWERS.values(), ids=ANSWERS)
def test_generate(ours: HarnessModel, hf: Any, request_: tuple[str, dict[str, Any]]) -> None:
    """Catches an answer that is cut elsewhere, and options that mean something else."""
    assert ask(ours, "generate_until", request_) == ask(hf, "generate_until", request_)


def test_stop(ours: HarnessModel, hf: Any) -> None:
    """Catches an answer that goes on behind a stop string, or shows it or a special token."""
    [text] = ask(ours, "generate_until", ("Once", {"max_gen_toks": 20}))
    request = ("Once", {"until": ["~~", text[9:11]], "max_gen_toks": 20})
    [got] = ask(ours, "generate_until", request)
    assert [got] == ask(hf, "generate_until", request)
    assert got == text[: text.index(text[9:11])]
    tokens = [*ours.tok_encode("a" + EOT + "bc"), 10**6, *ours.tok_encode("d.e")]
    assert Manner({}, ["x", "."]).text(tokens, ours.model.tokenizer) == "abcd"


def test_nothing_before(ours: HarnessModel) -> None:
    """Catches another start than the prefix where the harness itself has no answer."""
    got, want = ask(ours, "loglikelihood", (" \n", "x"), ("", " \nx"))
    assert got == want
    answers = [ask(ours, "generate_until", (text, {"max_gen_toks": 5})) for text in ("", EOT)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("add_bos_token", [False, True])
def test_bos(checkpoint: Path, hf_class: Any, add_bos_token: bool) -> None:
    """Catches a start token that is missing, doubled, or put before continuations."""
    options: dict[str, Any] = {
        "add_bos_token": add_bos_token,
        "prefix_token_id": 3,
        "max_length": 20,
    }
    ours = HarnessModel(str(checkpoint), dtype="float32", threads=1, **options)
    theirs = hf_class(str(checkpoint), dtype="float32", device="cpu", **options)
    for text in ("Once", EOT + "Once", "$Once"):  # "$" is token 3
        assert ours.tok_encode(text) == theirs.tok_encode(text)
    for pair in PAIRS.values():
        if len(ours.tok_encode(pair[1], add_special_tokens=False)) <= 20:
            got, want = (ask(lm, "loglikelihood", pair)[0][0] for lm in (ours, theirs))
            assert got == pytest.approx(want, abs=1e-4)
    for text in TEXTS:
        got, want = (ask(lm, "loglikelihood_rolling", (text,))[0] for lm in (ours, theirs))
        assert got == pytest.approx(want, abs=1e-4, rel=1e-6)


def test_together(ours: HarnessModel) -> None:
    """Catches results that depend on what else is asked, and answers out of order."""
    context = "The cat sat on the "
    choices = [(context, choice) for choice in ("mat", "m", "ma", "mat", "dog and the cat", "d")]
    pairs = [*PAIRS.values(), *choices, *((context * 2, f"{i}") for i in range(40))]
    assert ask(ours, "loglikelihood", *pairs) == [
        ask(ours, "loglikelihood", pair)[0] for pair in pairs
    ]
    texts = [(text,) for text in TEXTS]
    assert ask(ours, "loglikelihood_rolling", *texts) == [
        ask(ours, "loglikelihood_rolling", text)[0] for text in texts
    ]
    requests = list(ANSWERS.values())
    assert ask(ours, "generate_until", *requests) == [
        ask(ours, "generate_until", request)[0] for request in requests
    ]


def test_drawn(ours: HarnessModel) -> None:
    """Catches answers that are not drawn, repeats that are one answer, and a seed that is lost."""
    request = ("Once", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12, "top_k": 0})
    answers = ask(ours, "generate_until", request, request, request)
    assert len(set(answers)) == 3
    assert answers == ask(ours, "generate_until", request, request, request)


REFUSED: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "empty": ("loglikelihood", ("a", ""), "the continuation of 'a' is empty"),
    "nothing at all": ("loglikelihood", ("", ""), "the continuation of '' is empty"),
    "no token of its own": ("loglikelihood", ("a!", "!"), "'!' of 'a!' has 0 tokens"),
    "too long": ("loglikelihood", ("a", "x" * 41), "has 41 tokens; allowed: 1 to 40"),
    "option": ("generate_until", ("a", {"foo": 1}), "generation_kwargs has 'foo'; allowed: bad_t"),
    "room": ("generate_until", ("a", {}), "max_gen_toks is 256; allowed: less than 40"),
    "value": (
        "generate_until",
        ("a", {"top_p": 7, "max_gen_toks": 3}),
        "top_p is 7; allowed: above 0 and at most 1",
    ),
    "stop": ("generate_until", ("a", {"until": [""], "max_gen_toks": 3}), "none empty"),
}


@pytest.mark.parametrize(("kind", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(ours: HarnessModel, kind: str, arguments: tuple[Any, ...], message: str) -> None:
    """Catches a request that cannot be answered and gets a number, or an unclear error."""
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(ours, kind, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtypes": "int8"}, "model_args has 'dtypes'; allowed: add_bos_token, cache_dir"),
        ({"max_length": 41}, "max_length is 41; allowed: an integer from 2 to 40"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0; allowed: an integer from 1"),
        ({"prefix_token_id": 300}, "prefix_token_id is 300; allowed: an integer from 0 to 299"),
        ({"add_bos_token": 1}, "add_bos_token is 1; allowed: True or False"),
        ({"seed": -1}, "seed is -1; allowed: an integer from 0"),
        ({"dtype": "int5"}, "dtype"),
    ],
)
def test_bad_options(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    """Catches a misspelt or impossible argument that is silently ignored."""
    with pytest.raises(ValueError, match=re.escape(message)):
        HarnessModel(str(checkpoint), **options)


def test_loaded_model(checkpoint: Path) -> None:
    """Catches options of loading that a model already loaded would ignore."""
    with load(checkpoint, dtype="float32") as model:
        assert HarnessModel(model, max_length=8).max_length == 8
        with pytest.raises(ValueError, match="threads is an option of loading"):
            HarnessModel(model, threads=1)


def test_chat_template(ours: HarnessModel) -> None:
    """Catches a template that is made up."""
    assert ours.chat_template() == ""
    with pytest.raises(ValueError, match="GPT-2 has no template"):
        ours.chat_template(True)


def test_partial_results(ours: HarnessModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches results that an interrupted evaluation loses: each is cached as the harness asks."""
    kept: dict[tuple[Any, ...], Any] = {}
    monkeypatch.setattr(
        ours.cache_hook,
        "add_partial",
        lambda kind, arguments, result: kept.update({(kind, str(arguments)): result}),
    )
    pair, text, request = ("Once", " upon"), (LONG,), ("Once", {"max_gen_toks": 3})
    asked = (("loglikelihood", pair), ("loglikelihood_rolling", text), ("generate_until", request))
    wanted = {(kind, str(each)): ask(ours, kind, each)[0] for kind, each in asked}
    assert kept == wanted


@pytest.mark.filterwarnings("ignore")
def test_command_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hf: Any
) -> None:
    """Catches a command line that does not know the model, or gets other results."""
    from lm_eval.tasks import TaskManager

    ours_alone = partial(TaskManager, include_defaults=False)  # not the thousands it knows
    monkeypatch.setattr("lm_eval.tasks.TaskManager", ours_alone)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    texts, choices = ["Once upon", "The cat", "A!"], ["!", "? no", "."]
    documents = [{"text": text, "choices": choices, "answer": 1} for text in texts]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    task = {
        "task": "choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "texts.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
    }
    (tmp_path / "choice.yaml").write_text(json.dumps(task))  # JSON is YAML
    options = {
        "model": "gpt2fast",
        "model_args": f"pretrained={checkpoint},dtype=float32",
        "tasks": "choice",
        "include_path": str(tmp_path),
        "output_path": str(tmp_path / "out"),
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments, "--log_samples"])
    runpy.run_module("gpt2fast.lm_eval", run_name="__main__")
    [results] = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["config"]["model_dtype"] == "float32"
    [samples] = (tmp_path / "out").rglob("samples_*.jsonl")
    for line, text in zip(samples.read_text().splitlines(), texts, strict=True):
        pairs = [(text, f" {choice}") for choice in choices]
        found = [float(answer) for [[answer, _]] in json.loads(line)["resps"]]
        want = [ask(hf, "loglikelihood", pair)[0][0] for pair in pairs]
        assert found == pytest.approx(want, abs=1e-4)


def test_missing_harness() -> None:
    """Catches a missing package that is not named, or without the command that installs it."""
    code = "import sys; sys.modules['lm_eval'] = None; import gpt2fast.lm_eval"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "gpt2fast[lm-eval]"' in done.stderr.splitlines()[-1]
