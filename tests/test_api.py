"""The public names: what importing costs, what a model tells, threads, closing, no tokenizer."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint

import gpt2fast
from gpt2fast import _core, _generate, generation
from gpt2fast.threads import MAX_THREADS, available_cpus, thread_count


def test_import_is_light() -> None:
    """Catches an import that takes long or brings in what only some calls need."""
    code = (
        "import time; start = time.perf_counter(); import gpt2fast, sys\n"
        "took = time.perf_counter() - start\n"
        "heavy = {'torch', 'transformers', 'numpy', 'regex', 'gpt2fast._core'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(took)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert min(times) < 0.15


def test_public_names() -> None:
    """Catches a name that is promised and missing, or a module in the place of a function."""
    for name in gpt2fast.__all__:
        assert callable(getattr(gpt2fast, name))
    assert set(gpt2fast.__all__) <= set(dir(gpt2fast))
    assert inspect.isfunction(gpt2fast.convert)
    with pytest.raises(AttributeError, match="nothing"):
        _ = gpt2fast.nothing  # type: ignore[attr-defined]


def test_stub_of_the_loop_has_its_names() -> None:
    """Catches a stub that promises what the module does not have, or hides what it has."""
    stub = ast.parse(Path(gpt2fast.__file__).with_name("_generate.pyi").read_text())
    defined = (ast.ClassDef, ast.FunctionDef)
    promised = {node.name: node for node in stub.body if isinstance(node, defined)}
    public = {
        name
        for name, value in vars(_generate).items()
        if name[0] != "_" and getattr(value, "__module__", None) == "gpt2fast._generate"
    }
    assert set(promised) == public
    for name, node in promised.items():
        for member in node.body:
            if isinstance(member, ast.FunctionDef):
                assert hasattr(getattr(_generate, name), member.name)


def test_model_tells_what_it_is() -> None:
    """Catches wrong shapes of logits or hidden states, and wrong facts."""
    with gpt2fast.load("tales", threads=1, prompt_threads=2) as model:
        config = model.config
        tokens = model.tokenizer.encode("Once upon a time")
        logits = model.logits(tokens)
        assert logits.shape == (len(tokens), config.n_vocab)
        assert logits.dtype == np.float32
        assert np.array_equal(model.logits(tokens, last_only=True), logits[-1])
        states = model.hidden_states(tokens)
        assert states.shape == (config.n_layer + 1, len(tokens), config.n_embd)
        assert (model.dtype, model.threads, model.prompt_threads) == ("int8", 1, 2)
        assert len(model.fingerprint) == 64
        assert model.memory.weights > 4_000_000
        assert model.memory.cache == model.memory.cache_per_token * config.n_ctx
        session = model.session()
        session.append([5] * 64)
        assert session.logits.size
        assert session._cache.nbytes == 64 * model.memory.cache_per_token
        with pytest.raises(ValueError, match="513 tokens"):
            model.logits([5] * 513)


@pytest.mark.parametrize("cache_dtype", ["float16", "float32"])
def test_memory_of_odd_heads(cache_dtype: str, tmp_path: Path) -> None:
    """Catches a cache said to be larger than it is where a head is no multiple of 16."""
    config = hf_config(n_embd=60, n_head=3, n_positions=130)
    tensors = random_tensors(gpt2fast.Config.from_huggingface(config).tensor_shapes())
    with gpt2fast.load(
        write_checkpoint(tmp_path, config, tensors), cache_dtype=cache_dtype
    ) as model:
        session = model.session()
        for n in (64, 128, 130):
            session.append([5] * (n - len(session.tokens)))
            assert session.logits.size
            pages = -(-n // 64)
            assert session._cache.nbytes == 64 * pages * model.memory.cache_per_token
        assert session._cache.nbytes == model.memory.cache


def test_cache_dtype() -> None:
    """Catches a cache_dtype that is ignored, and a wrong one that is taken."""
    with gpt2fast.load("tales", cache_dtype="float32") as wide, gpt2fast.load("tales") as model:
        assert wide.memory.cache == 2 * model.memory.cache
        assert not np.array_equal(wide.logits([1, 2, 3]), model.logits([1, 2, 3]))
        difference = wide.logits([1, 2, 3]) - model.logits([1, 2, 3])
        assert difference.std() < 0.05 * model.logits([1, 2, 3]).std()
    with pytest.raises(ValueError, match="cache_dtype is 'int8'; allowed: float16, float32"):
        gpt2fast.load("tales", cache_dtype="int8")


def test_closed_model_says_so() -> None:
    """Catches a crash, or an obscure error, on use after close."""
    model = gpt2fast.load("tales")
    session = model.session()
    session.append([1])
    model.close()
    model.close()
    for call in (
        lambda: model.generate([1]),
        lambda: model.generate("text"),
        lambda: model.logits([1]),
        lambda: model.hidden_states([1]),
        lambda: model.stream([1]),
        lambda: model.alternatives([1], 2),
        lambda: model.restore("there"),
        lambda: model.tokenizer,
        lambda: session.logits,
        lambda: session.generate(),
        model.session,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert model.config.n_layer == 4


def test_what_runs_goes_on_after_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a text cut short, or without its characters, because another thread closed."""
    with gpt2fast.load("tales") as model:
        expected = model.generate([5], seed=1, max_new_tokens=30)
    model = gpt2fast.load("tales")
    session = model.session()
    session.append([5])
    streams = [model.stream([5], seed=1, max_new_tokens=30)]
    streams.append(session.stream(seed=1, max_new_tokens=30))
    model.close()
    for stream in streams:
        assert "".join(map(str, stream)) == expected.text
        assert stream.completion == expected
    model = gpt2fast.load("tales")

    def closing(*arguments: Any, **options: Any) -> None:
        model.close()
        _generate.run(*arguments, **options)

    monkeypatch.setattr(generation, "run", closing)
    assert model.generate([[5]] * 20, seed=1, max_new_tokens=30) == [expected] * 20


CALLS: dict[str, Callable[[gpt2fast.Model, Any], object]] = {
    "samples": lambda it, close: it.generate([5], n=20, seed=1, logits_processor=close),
    "alternatives": lambda it, close: it.alternatives([5], 20, seed=1, logits_processor=close),
    "beams": lambda it, close: it.generate(
        [[5], [6]], num_beams=9, max_new_tokens=5, seed=1, logits_processor=close
    ),
    "contrastive": lambda it, close: it.generate(
        [[5], [6]], penalty_alpha=0.5, top_k=9, max_new_tokens=5, seed=1, logits_processor=close
    ),
    "perplexity": lambda it, close: it.perplexity(list(range(600)), progress=close),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_several_parts_go_on_after_close(name: str) -> None:
    """Catches a call that asks for the model again, in its midst, when it has been closed."""

    def nothing(*_: object) -> None:
        pass

    with gpt2fast.load("tales", threads=1) as model:
        expected = CALLS[name](model, nothing)
    model = gpt2fast.load("tales", threads=1)
    assert CALLS[name](model, lambda *_: model.close()) == expected
    with pytest.raises(ValueError, match="closed"):
        CALLS[name](model, nothing)


def test_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    """Catches a file with a bad tokenizer table blamed on the options, or not named at all."""
    source = Path(gpt2fast.__file__).parent / "models" / "tales-int8.safetensors"
    content = bytearray(source.read_bytes())
    at = content.index(b"gpt2bpe\0")
    for offset, value, message in ((0, b"x", "do not begin"), (8, b"9", "version 57")):
        damaged = tmp_path / f"damaged{offset}.safetensors"
        damaged.write_bytes(content[: at + offset] + value + content[at + offset + 1 :])
        with gpt2fast.load(damaged) as model:
            assert model.logits([1, 2]).size
            for call in (lambda: model.tokenizer, lambda: model.generate("a")):
                with pytest.raises(gpt2fast.CheckpointError, match=f"{damaged.name}.*{message}"):
                    call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_the_tokenizer_is_made() -> None:
    """Catches a child that waits for ever for a lock that a thread of its parent held."""
    code = (
        "import os, signal, gpt2fast\n"
        "from gpt2fast.tokenizer import Tokenizer\n"
        "model, read = gpt2fast.load(), Tokenizer.from_table\n"
        "def forking(table):\n"
        "    Tokenizer.from_table = read\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.alarm(20)\n"
        "        os._exit(not model.tokenizer.encode('a'))\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    return read(table)\n"
        "Tokenizer.from_table = forking\n"
        "assert model.tokenizer.encode('a')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_without_tokenizer_takes_ids(test_data: Path, tmp_path: Path) -> None:
    """Catches a checkpoint without tokenizer files that is refused, or text taken all the same."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(test_data / "models" / "tales" / name, tmp_path)
    with gpt2fast.load(tmp_path) as model, gpt2fast.load("tales") as whole:
        got = model.generate([5, 6], seed=1, max_new_tokens=20)
        assert got.tokens == whole.generate([5, 6], seed=1, max_new_tokens=20).tokens
        assert got.text == ""
        assert "".join(chunk.text for chunk in model.stream([5], max_new_tokens=3)) == ""
        for call in (
            lambda: model.generate("text"),
            lambda: model.tokenizer,
            lambda: model.generate([5], stop="x"),
        ):
            with pytest.raises(ValueError, match="no tokenizer"):
                call()


@pytest.mark.parametrize("value", [0, -1, 257, 1.5, "2", True])
def test_bad_thread_counts(value: object) -> None:
    """Catches a number of threads that cannot be."""
    for name in ("threads", "prompt_threads"):
        with pytest.raises(ValueError, match=f"{name} is .*; allowed: an integer from 1 to 256"):
            gpt2fast.load("tales", **{name: value})  # type: ignore[arg-type]


def test_most_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a limit that is not the core's, and a large machine whose default is refused."""
    assert MAX_THREADS == _core.MAX_THREADS
    monkeypatch.setattr("gpt2fast.threads.available_cpus", lambda: 300)
    assert thread_count(None, {}) == MAX_THREADS
    with gpt2fast.load("tales", threads=MAX_THREADS) as model:
        assert model.generate([5], max_new_tokens=2).tokens


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": []},
        {"dtype": "int9"},
        {"cache_dtype": []},
        {"cache_dtype": "int8"},
        {"mmap": "no"},
        {"mmap": 1},
        {"threads": 0},
        {"prompt_threads": 0},
    ],
)
def test_options_of_load_come_first(options: dict[str, Any], tmp_path: Path) -> None:
    """Catches an option found to be bad after minutes of conversion, or with a TypeError."""
    with pytest.raises(ValueError, match=next(iter(options))) as caught:
        gpt2fast.load(tmp_path / "none", **options)
    assert not isinstance(caught.value, gpt2fast.CheckpointError)


def test_default_threads_of_the_environment() -> None:
    """Catches an environment variable that is ignored, or a bad one that is taken."""
    assert thread_count(None, {"GPT2FAST_THREADS": "7"}) == 7
    assert thread_count(3, {"GPT2FAST_THREADS": "7"}) == 3
    assert thread_count(None, {"GPT2FAST_THREADS": ""}) == thread_count(None, {})
    for bad in ("0", "-2", "many", "1.5", "9999"):
        with pytest.raises(ValueError, match=r"GPT2FAST_THREADS is .*; allowed"):
            thread_count(None, {"GPT2FAST_THREADS": bad})


CGROUPS: dict[str, tuple[dict[str, str], float]] = {
    "none": ({}, 99),
    "v2": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "v2 rounds up": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "110000 100000"}, 2),
    "v2 no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 99),
    "v2 parent": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
        },
        1,
    ),
    "v1": (
        {
            "proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/x\n",
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
        },
        1,
    ),
    "v1 no limit": (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        99,
    ),
    "nonsense": ({"proc/self/cgroup": "x\n\n0::/\n", "sys/fs/cgroup/cpu.max": "a b c"}, 99),
    "zero period": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1 0"}, 99),
}


@pytest.mark.parametrize("name", CGROUPS)
def test_containers_limit_the_threads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a quota of cgroup v1 or v2 that is overlooked, or one that is misread."""
    files, expected = CGROUPS[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    for function in ("process_cpu_count", "cpu_count"):
        monkeypatch.setattr(os, function, lambda: 99, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(99), raising=False)
    assert available_cpus(tmp_path) == expected
