"""What a model takes: catches a wrong estimate, a limit that is late, memory that is not shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_files
from checkpoint_files import hf_config, random_tensors, write_checkpoint, write_tokenizer
from gguf_files import small_file
from packed_files import FIXTURES
from torch_save_files import torch_file

import gpt2fast
from gpt2fast import loading
from gpt2fast.checkpoints.layout import encode_packed_header, layout
from gpt2fast.checkpoints.packed import open_packed
from gpt2fast.checkpoints.receipt import Receipt
from gpt2fast.config import Config
from gpt2fast.memory import parse_size

XL = Config(48, 25, 1600, 1024, 50257, 6400)
linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="reads what Linux says of a process"
)


def make(directory: Path, *, tokenizer: bool = True, **changes: Any) -> Path:
    config = hf_config(**changes)
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(directory, config, tensors)
    if tokenizer:
        write_tokenizer(source)
    return source


def sparse(path: Path, dtype: str = "float32", config: Config = XL) -> Path:
    """Write a packed 1.5B that takes no disk: a header, and a hole."""
    entries = layout(config, dtype, {})
    receipt = Receipt("none", (), dtype, {})
    header = encode_packed_header(config, dtype, "xl", entries, "0" * 64, receipt)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + max(entry.stored.end for entry in entries.values()))
    return path


@pytest.mark.parametrize("tokenizer", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_estimate_is_exact(dtype: str, tokenizer: bool, tmp_path: Path) -> None:
    """Catches an estimate that is not the size of the file that convert writes."""
    source = make(tmp_path / "s", tokenizer=tokenizer, n_embd=75, tie_word_embeddings=tokenizer)
    before = gpt2fast.estimate(source, dtype=dtype)
    path = tmp_path / "packed.safetensors"
    gpt2fast.convert(source, path, dtype=dtype)
    assert before.file == path.stat().st_size
    assert gpt2fast.estimate(path) == gpt2fast.estimate(path, dtype=dtype) == before
    with gpt2fast.load(path) as model:
        memory = model.memory
        assert (before.weights, before.cache, before.cache_per_token) == (
            memory.weights,
            memory.cache,
            memory.cache_per_token,
        )
        assert before.workspace == gpt2fast.estimate(path, threads=model.threads).workspace
        assert before.memory == memory.weights + memory.cache + memory.workspace


@pytest.mark.parametrize("kind", ["gguf", "bin", "legacy bin", "tensorflow"])
def test_estimate_for_every_reader(kind: str, tmp_path: Path) -> None:
    """Catches a source that load takes and estimate does not, or not exactly."""
    source = tmp_path / "source"
    config = hf_config(n_inner=None)
    tensors = random_tensors(Config.from_huggingface(config).tensor_shapes())
    if kind == "gguf":
        source.write_bytes(small_file().bytes())
    elif kind == "tensorflow":
        hparams = {key: config[key] for key in ("n_embd", "n_head", "n_layer")}
        hparams |= {"n_ctx": config["n_positions"], "n_vocab": config["vocab_size"]}
        tensorflow_files.write(source, hparams, tensorflow_files.openai_names(tensors))
    else:
        source.mkdir()
        (source / "config.json").write_text(json.dumps(config))
        content = torch_file(tensors, legacy=kind == "legacy bin")
        (source / "pytorch_model.bin").write_bytes(content)
    found = gpt2fast.estimate(source)
    gpt2fast.convert(source, tmp_path / "packed.safetensors")
    assert found == gpt2fast.estimate(tmp_path / "packed.safetensors")


@pytest.mark.parametrize("cache_dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    ("source", "n_ctx"),
    [
        ("tales", 1),
        ("tales", 64),
        ("tales", 65),
        ("tales", 512),
        (FIXTURES / "v1-int8.safetensors", 9),
    ],
)
def test_estimate_of_the_cache(source: Path | str, n_ctx: int, cache_dtype: str) -> None:
    """Catches a formula that is not what the core allocates, also for heads of 9 dimensions."""
    with gpt2fast.load(source, cache_dtype=cache_dtype) as model:
        cache = model._engine.new_cache()
        model._engine.core.forward([cache], [np.zeros(n_ctx, np.int32)], [1])
        found = gpt2fast.estimate(source, n_ctx=n_ctx, cache_dtype=cache_dtype)
        assert (found.n_ctx, found.cache) == (n_ctx, cache.nbytes)
        assert model.memory.caches == cache.nbytes


def test_estimate_reads_headers_only(tmp_path: Path) -> None:
    """Catches an estimate that reads weights: those of these files are not even there."""
    start = time.perf_counter()
    packed = gpt2fast.estimate(sparse(tmp_path / "xl.safetensors"))
    assert packed.file > packed.weights > 6_200_000_000
    source = make(tmp_path / "s", tokenizer=False)
    weights = source / "model.safetensors"
    header = weights.read_bytes()[: 8 + int.from_bytes(weights.read_bytes()[:8], "little")]
    size = weights.stat().st_size
    weights.write_bytes(header)
    os.truncate(weights, size)
    found = gpt2fast.estimate(source)
    assert 1000 < found.file - found.weights < 20_000
    assert time.perf_counter() - start < 2


LOADED = """
import sys, gpt2fast
def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])
gpt2fast.load().close()
before = peak()
for i in range(5):
    model = gpt2fast.load(sys.argv[1] + str(i))
    assert model.memory.weights == gpt2fast.estimate(sys.argv[1] + str(i)).weights
print(peak() - before)
"""


@linux_only
def test_published_sizes(tmp_path: Path) -> None:
    """Catches a 1.5B of int8 above 1.63 GB, and a load that takes memory for the weights."""
    for i, (n_layer, n_head) in enumerate(((6, 12), (12, 12), (24, 16), (36, 20), (48, 25))):
        config = Config(n_layer, n_head, 64 * n_head, 1024, 50257, 256 * n_head)
        path = sparse(tmp_path / str(i), "int8", config)
    assert path.stat().st_size < 1_630_000_000 - 3_000_000  # less the tokenizer
    assert int(output(LOADED, f"{tmp_path}/")) < 8_000_000


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("tales", {"n_ctx": 0}, "n_ctx is 0; allowed: an integer from 1 to 512"),
        ("tales", {"n_ctx": 513}, "n_ctx is 513; allowed"),
        ("tales", {"dtype": "float32"}, "packed as int8: dtype must be 'int8' or None, got 'float"),
        ("tales", {"dtype": "int3"}, "dtype must be one of"),
        ("tales", {"cache_dtype": "int8"}, "cache_dtype is 'int8'; allowed: float16, float32"),
        ("tales", {"threads": 0}, "threads is 0; allowed"),
        ("no/such/file.safetensors", {}, "is neither a bundled model"),
    ],
)
def test_bad_estimate(source: str, options: Any, message: str) -> None:
    """Catches an option that is guessed at."""
    with pytest.raises(ValueError, match=message):
        gpt2fast.estimate(source, **options)


@pytest.mark.parametrize("kind", ["packed", "read", "in memory", "cached"])
def test_limit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a limit that is off by a byte, or that one way of loading does not keep."""
    source = make(tmp_path / "source")
    cache = tmp_path / "cache"
    if kind in ("packed", "read"):
        gpt2fast.convert(source, tmp_path / "p.safetensors")
        source = tmp_path / "p.safetensors"
    if kind == "cached":
        monkeypatch.setattr(loading, "IN_MEMORY_BELOW", 0)
    takes = gpt2fast.estimate(source, threads=1).memory
    options: Any = {"threads": 1, "cache_dir": cache, "mmap": kind != "read"}
    with pytest.raises(MemoryError, match=r"(source|p\.safetensors) as int8 takes .*max_memory"):
        gpt2fast.load(source, max_memory=takes - 1, **options)
    assert not cache.exists()
    for _ in range(2):
        gpt2fast.load(source, max_memory=takes, **options).close()
    assert cache.exists() == (kind == "cached")
    with pytest.raises(MemoryError):
        gpt2fast.load(source, max_memory=takes - 1, **options)


@pytest.mark.parametrize(
    "options", [{"threads": 9}, {"prompt_threads": 9}, {"cache_dtype": "float32"}]
)
def test_limit_depends_on_options(options: Any) -> None:
    """Catches a limit that looks at other threads or another cache than those asked for."""
    takes = gpt2fast.estimate("tales", threads=1).memory
    gpt2fast.load(threads=1, max_memory=takes).close()
    with pytest.raises(MemoryError):
        gpt2fast.load(max_memory=takes, **{"threads": 1, **options})


@pytest.mark.parametrize("mmap", [True, False])
def test_limit_comes_first(mmap: bool, tmp_path: Path) -> None:
    """Catches a model that is read, or looked through by verify, before it is refused."""
    path = sparse(tmp_path / "xl.safetensors")
    start = time.perf_counter()
    with pytest.raises(MemoryError, match=r"as float32 takes 6,8\d\d\.\d MB .*is 2,000\.0 MB"):
        gpt2fast.load(path, max_memory="2GB", mmap=mmap, verify=True)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1, 1),
        (1 << 40, 1 << 40),
        ("7B", 7),
        ("500MB", 500_000_000),
        ("500 kB", 500_000),
        ("500 KB", 500_000),
        ("1.5GiB", 3 << 29),
        (" 2 GB ", 2_000_000_000),
        ("0.5TB", 500_000_000_000),
        ("1KiB", 1024),
    ],
)
def test_sizes(text: int | str, expected: int) -> None:
    """Catches a unit that means something else."""
    assert parse_size("max_memory", text) == expected


BAD_SIZES = [
    0,
    -1,
    True,
    2.5,
    "",
    "2",
    "2 G",
    "GB",
    "-1GB",
    "1e9B",
    "2GBs",
    "0B",
    "0.1B",
    "2iB",
    [],
]


@pytest.mark.parametrize("value", BAD_SIZES)
def test_bad_sizes(value: Any) -> None:
    """Catches a size that is guessed at."""
    with pytest.raises(ValueError, match=r"max_memory is .*; allowed: a number of bytes >= 1"):
        gpt2fast.load(max_memory=value)


def test_caches_alive() -> None:
    """Catches a text whose memory is not counted, or counted after it went away."""
    with gpt2fast.load(threads=1) as model:
        page = 64 * model.memory.cache_per_token
        assert model.memory.caches == 0
        session = model.session()
        session.append([7] * 65)
        assert model.memory.caches == 0  # nothing was processed yet
        _ = session.logits
        fork = session.fork()
        assert model.memory.caches == 4 * page
        session.truncate(3)
        del fork
        assert model.memory.caches == page
        stream = model.stream([7] * 64, max_new_tokens=5, ignore_eot=True)
        next(stream)
        assert model.memory.caches == 2 * page
        stream.close()
        del stream, session
        model.generate([[7] * 3, [8]], max_new_tokens=3)
        assert model.memory.caches == 0


def test_memory_while_others_write() -> None:
    """Catches an error, or a negative or absurd number, while caches come and go."""
    with gpt2fast.load(threads=1) as model:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                model.generate([7], max_new_tokens=2)

        threads = [threading.Thread(target=write) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            found = [model.memory.caches for _ in range(2000)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert min(found) >= 0 and max(found) <= 3 * 64 * model.memory.cache_per_token


def test_mapped() -> None:
    """Catches memory of one's own that is told as shared."""
    path = FIXTURES / "v1-int8.safetensors"
    assert gpt2fast.load(path).memory.mapped
    assert not gpt2fast.load(path, mmap=False).memory.mapped


WORKSPACE = """
import sys, gpt2fast
def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])
with gpt2fast.load(sys.argv[1], threads=2, mmap=False) as model:
    model.logits([1], last_only=True)
    before = peak()
    model.logits([1] * 512, last_only=True)
    print(peak() - before, model.memory.workspace, model.memory.cache)
"""


@linux_only
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_workspace_is_what_a_prompt_takes(dtype: str, tmp_path: Path) -> None:
    """Catches a formula of the work buffers that has nothing to do with them."""
    shape = {"n_layer": 1, "n_embd": 64, "n_head": 1, "n_inner": 40_000, "n_positions": 512}
    source = make(tmp_path / "wide", tokenizer=False, **shape)
    path = tmp_path / "wide.safetensors"
    gpt2fast.convert(source, path, dtype=dtype)
    took, workspace, cache = map(int, output(WORKSPACE, path).split())
    assert 0.9 * workspace < took < 1.1 * (workspace + cache) + 2_000_000


PSS = """
import sys, gpt2fast
model = gpt2fast.load(sys.argv[1], threads=1)
model.logits([7, 8], last_only=True)
print("ready", flush=True)
sys.stdin.readline()
found, inside = {"Rss": 0, "Pss": 0}, False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        inside = line.rstrip().endswith(sys.argv[1])
    elif inside and line.split(":")[0] in found:
        found[line.split(":")[0]] += 1024 * int(line.split()[1])
print(found["Rss"], found["Pss"], flush=True)
sys.stdin.readline()
"""


@linux_only
def test_processes_share_the_weights(tmp_path: Path) -> None:
    """Catches weights that are copied or written to, so that each process has its own."""
    path = tmp_path / "tales.safetensors"
    path.write_bytes((Path(loading.__file__).parent / "models/tales-int8.safetensors").read_bytes())
    command = [sys.executable, "-c", PSS, str(path)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: list[Any] = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            rss, pss = map(int, process.stdout.readline().split())
            assert rss > 0.7 * open_packed(path).nbytes  # of the token table, a part is not touched
            assert pss < 0.51 * rss
    finally:
        for process in processes:
            process.communicate("end\n", timeout=240)


NO_ROOM = """
import resource, sys, gpt2fast
from gpt2fast import _core
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), -1))
for mmap in (True, False):
    try:
        gpt2fast.load(sys.argv[1], mmap=mmap)
    except MemoryError as error:
        print("refused")
print(gpt2fast.load().generate("Once", max_new_tokens=2).finish_reason)
"""


@linux_only
def test_no_room(tmp_path: Path) -> None:
    """Catches an abort, or an error of another kind, where the system has no room."""
    assert output(NO_ROOM, sparse(tmp_path / "xl.safetensors")).split() == ["refused"] * 2 + [
        "length"
    ]


def output(code: str, path: Path | str) -> str:
    """Return what a program prints that gets a path."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
