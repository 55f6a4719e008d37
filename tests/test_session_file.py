"""Sessions saved and restored: the same text goes on, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint
from hostile_sessions import SESSION
from packed_files import FIXTURES, take_apart

import gpt2fast
from gpt2fast.checkpoints.session_file import MAX_TOKENS
from gpt2fast.session import Session

MODEL = FIXTURES / "v1-int8.safetensors"
OPTIONS: dict[str, Any] = {"seed": 5, "max_new_tokens": 20, "logprobs": 1, "ignore_eot": True}


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load("tales", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def small() -> Iterator[gpt2fast.Model]:
    with gpt2fast.load(MODEL, threads=1) as loaded:
        yield loaded


def story(model: gpt2fast.Model, **options: Any) -> Session:
    session = model.session(**options)
    session.append("Once upon a time there was")
    session.generate(seed=1, max_new_tokens=8, ignore_eot=True)
    return session


@pytest.mark.parametrize("state", ["finished", "pending", "processed", "unprocessed", "empty"])
def test_goes_on_as_if_never_saved(model: gpt2fast.Model, state: str, tmp_path: Path) -> None:
    """Catches tokens or positions lost, logits of another token, a session changed by saving."""
    session = model.session() if state in ("empty", "unprocessed") else story(model)
    if state == "pending":
        session.append(" and a king")
    if state == "processed":
        assert session.logits.size
    if state == "unprocessed":
        session.append("The king")
    path = tmp_path / "a story.safetensors"
    session.save(path)
    restored = model.restore(str(path))
    assert restored.tokens == session.tokens
    kept = restored._cache.length
    assert kept == max(min(session._cache.length, len(session.tokens) - 1), 0)
    if state == "empty":
        session.append("a")
        restored.append("a")
    forked = restored.fork()
    assert np.array_equal(session.fork().logits, restored.fork().logits)
    expected = session.generate(**OPTIONS)
    assert restored.generate(**OPTIONS) == expected
    stream = forked.stream(**OPTIONS)
    assert [chunk.token for chunk in stream] == expected.tokens
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("cache_dtype", ["float16", "float32"])
@pytest.mark.parametrize("options", [{"overflow": "truncate"}, {"overflow": "stride", "stride": 5}])
def test_a_text_that_outgrew_the_context(
    options: dict[str, Any], cache_dtype: str, tmp_path: Path
) -> None:
    """Catches a window that is forgotten, and keys or values in another order or type."""
    config = hf_config()
    tensors = random_tensors(gpt2fast.Config.from_huggingface(config).tensor_shapes())
    source = write_checkpoint(tmp_path / "model", config, tensors)
    with gpt2fast.load(source, threads=1, cache_dtype=cache_dtype) as narrow:
        session = narrow.session(**options)
        session.append(list(range(40)))
        session.generate(**OPTIONS)
        session.save(tmp_path / "session")
        restored = narrow.restore(tmp_path / "session")
        assert restored.generate(**OPTIONS) == session.generate(**OPTIONS)
        assert restored.tokens == session.tokens
        assert np.array_equal(restored.logits, session.logits)


def test_loaded_as_a_model(small: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a message that asks for the configuration of what is no checkpoint."""
    path = tmp_path / "session.safetensors"
    small.session().save(path)
    for open_it in (gpt2fast.load, gpt2fast.estimate):
        with pytest.raises(gpt2fast.CheckpointError, match=r"holds a session, not a model"):
            open_it(path)


def test_a_stride_of_numpy(small: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a number that the session takes and its file cannot hold."""
    session = small.session(overflow="stride", stride=np.int64(5))  # type: ignore[arg-type]
    session.append([5])
    session.save(tmp_path / "session")
    assert small.restore(tmp_path / "session")._overflow == {"overflow": "stride", "stride": 5}


def test_the_file_is_what_is_specified(model: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a file that other readers cannot open, or that differs from SESSION.md."""
    session = story(model)
    session.save(tmp_path / "session")
    header, data = take_apart(tmp_path / "session")
    metadata = header["__metadata__"]
    assert metadata["sha256"] == hashlib.sha256(data).hexdigest()
    assert metadata["fingerprint"] == model.fingerprint
    safetensors = pytest.importorskip("safetensors.numpy", reason="the oracle needs safetensors")
    tensors = safetensors.load_file(tmp_path / "session")
    assert tensors["tokens"].tolist() == session.tokens
    names = [f"h.{layer}.{name}" for layer in range(4) for name in "kv"]
    assert list(header) == ["__metadata__", "tokens", *names]
    for layer in range(4):
        for name, expected in zip("kv", session._cache.read(layer), strict=True):
            assert np.array_equal(tensors[f"h.{layer}.{name}"], expected)


def test_version_1_is_read(small: gpt2fast.Model) -> None:
    """Catches a release that can no longer read what an earlier one wrote."""
    session = small.restore(SESSION)
    assert session.tokens == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert session._cache.length == 7
    assert np.array_equal(session.logits, small.logits(session.tokens, last_only=True))


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing", "a model"])
def test_what_is_no_file_of_a_session(kind: str, small: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a restore that hangs on a pipe, or takes a model for a session and the reverse."""
    path = tmp_path / "there"
    if kind == "directory":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    expected = FileNotFoundError if kind == "missing" else gpt2fast.CheckpointError
    with pytest.raises(expected):
        small.restore(MODEL if kind == "a model" else path)
    with pytest.raises(gpt2fast.CheckpointError):
        gpt2fast.load(SESSION)


def test_saving_leaves_the_old_file_or_the_new_one(
    model: gpt2fast.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a half-written session, and a session that is lost with it."""
    session, path = story(model), tmp_path / "session"
    session.save(path)
    before = path.read_bytes()
    session.append("more")
    with monkeypatch.context() as patch:
        patch.setattr("gpt2fast.checkpoints.session_file.encode_header", lambda *_: bytes(64))
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(OSError, match="the disk is full"):
            session.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    session.save(path)
    assert model.restore(path).tokens == session.tokens
    with pytest.raises(FileNotFoundError, match="does not exist"):
        session.save(tmp_path / "nowhere" / "session")
    with pytest.raises(FileExistsError, match="not a regular file"):
        session.save(tmp_path)


def test_busy_and_closed(tmp_path: Path) -> None:
    """Catches a session saved while it changes, or used without its model."""
    loaded = gpt2fast.load("tales", threads=1)
    session = story(loaded)
    session.save(tmp_path / "session")
    stream = session.stream(max_new_tokens=5)
    with pytest.raises(RuntimeError, match="the session is in use"):
        session.save(tmp_path / "session")
    stream.close()
    loaded.close()
    for call in (session.save, loaded.restore):
        with pytest.raises(ValueError, match="the model is closed"):
            call(tmp_path / "session")


def test_another_cache_dtype(model: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches keys and values that are cut or widened on the way."""
    story(model).save(tmp_path / "session")
    with gpt2fast.load("tales", threads=1, cache_dtype="float32") as wide:
        expected = "cache_dtype is 'float16', this one's is 'float32'"
        with pytest.raises(gpt2fast.CheckpointError, match=expected):
            wide.restore(tmp_path / "session")


def test_as_many_tokens_as_a_file_may_have(
    small: gpt2fast.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Catches a session that is saved and cannot be restored."""
    assert MAX_TOKENS == 16_777_216  # as SESSION.md says
    monkeypatch.setattr("gpt2fast.checkpoints.session_file.MAX_TOKENS", 20)
    session = small.session(overflow="stride")
    session.append([5] * 20)
    session.save(tmp_path / "session")
    assert small.restore(tmp_path / "session").tokens == [5] * 20
    session.append([5])
    with pytest.raises(ValueError, match="21 tokens; allowed in a file: 20"):
        session.save(tmp_path / "session")
    monkeypatch.undo()
    session.save(tmp_path / "long")
    monkeypatch.setattr("gpt2fast.checkpoints.session_file.MAX_TOKENS", 20)
    with pytest.raises(gpt2fast.CheckpointError, match="of 21 tokens"):
        small.restore(tmp_path / "long")


def test_memory_of_saving_and_restoring(model: gpt2fast.Model, tmp_path: Path) -> None:
    """Catches a second copy of all keys and values in memory."""
    import tracemalloc

    session = model.session()
    session.append([7] * 500)
    assert session.logits.size
    tracemalloc.start()
    session.save(tmp_path / "session")
    restored = model.restore(tmp_path / "session")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    layer = 2 * 500 * model.config.n_embd * 2
    assert peak < 3 * layer + (200 << 10) < restored._cache.nbytes
