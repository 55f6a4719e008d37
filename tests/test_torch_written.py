"""Files that torch itself wrote: catches a format of torch.save that is refused or misread.

The same weights must give the same logits, bit for bit, whichever file brought them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config
from numpy.typing import NDArray

import gpt2fast
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.torch_files import TorchFile
from gpt2fast.config import CheckpointError

torch: Any = pytest.importorskip("torch", reason="torch is not installed")
TOKENS = [1, 5, 299, 0, 77, 5]


def logits(source: Path) -> NDArray[np.uint32]:
    """Return the bits of the float32 logits."""
    with gpt2fast.load(source, dtype="float32") as model:
        return model.logits(TOKENS).view(np.uint32)


@pytest.fixture(scope="module", params=["tied", "untied", "body"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model of transformers, with the logits that its safetensors file gives."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(1)
    tied = request.param != "untied"
    config = transformers.GPT2Config(
        **hf_config(tie_word_embeddings=tied), bos_token_id=None, eos_token_id=None
    )
    kind = transformers.GPT2Model if request.param == "body" else transformers.GPT2LMHeadModel
    made = kind(config)
    with torch.no_grad():
        for values in made.parameters():
            values += 0.1 * torch.randn_like(values)
    directory = tmp_path_factory.mktemp("safetensors")
    made.save_pretrained(directory)
    assert (directory / "model.safetensors").exists()
    return made, directory, logits(directory)


def save_bin(state: dict[str, Any], directory: Path) -> None:
    torch.save(state, directory / "pytorch_model.bin")


def save_legacy(state: dict[str, Any], directory: Path) -> None:
    path = directory / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_protocol_5(state: dict[str, Any], directory: Path) -> None:
    torch.save(state, directory / "pytorch_model.bin", pickle_protocol=5)


def save_with_old_masks(state: dict[str, Any], directory: Path) -> None:
    masks = {
        f"transformer.h.{layer}.attn.{name}": value
        for layer in range(2)
        for name, value in (
            ("bias", torch.ones(13, 13).tril().to(torch.uint8)[None, None]),
            ("masked_bias", torch.tensor(-1e4)),
        )
    }
    save_legacy({**state, **masks}, directory)


def save_parameters(state: dict[str, Any], directory: Path) -> None:
    save_bin({name: torch.nn.Parameter(value) for name, value in state.items()}, directory)


def save_strided(state: dict[str, Any], directory: Path) -> None:
    """Save views: matrices transposed in memory, vectors out of one storage."""
    vectors = torch.cat([value for value in state.values() if value.ndim == 1])
    views, position = {}, 0
    for name, value in state.items():
        if value.ndim == 1:
            views[name] = vectors[position : position + len(value)]
            position += len(value)
        else:
            views[name] = value.t().contiguous().t()
    save_bin(views, directory)


def save_shards(state: dict[str, Any], directory: Path) -> None:
    hub: Any = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    hub.save_torch_state_dict(state, directory, max_shard_size="20KB", safe_serialization=False)
    assert len(list(directory.glob("*-of-*.bin"))) > 2


WRITERS = (
    save_bin,
    save_legacy,
    save_protocol_5,
    save_with_old_masks,
    save_parameters,
    save_strided,
    save_shards,
)


@pytest.mark.parametrize("save", WRITERS)
def test_same_logits(
    save: Callable[[dict[str, Any], Path], None], model: Any, tmp_path: Path
) -> None:
    """Catches a weight that differs by one bit from that of the safetensors file."""
    made, directory, expected = model
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    save(made.state_dict(), tmp_path)
    assert np.array_equal(logits(tmp_path), expected)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor(dtype: str, legacy: bool, model: Any, tmp_path: Path) -> None:
    """Catches a value, shape or name that is read otherwise than torch wrote it."""
    made, directory, _ = model
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    kind = getattr(torch, dtype)
    state = {name: value.to(kind, copy=True) for name, value in made.state_dict().items()}
    (save_legacy if legacy else save_bin)(state, tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        names = {name.removeprefix("transformer."): name for name in state}
        assert sorted(checkpoint.names()) == sorted(names)
        for name, own in names.items():
            assert np.array_equal(checkpoint.read(name), state[own].float().numpy())


def test_without_crc(tmp_path: Path) -> None:
    """Catches files refused whose writer was told not to compute checksums."""
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.arange(5.0)}, tmp_path / "x.bin")
    finally:
        torch.serialization.set_crc32_options(computed)
    file = TorchFile(tmp_path / "x.bin")
    assert file.read("x").tolist() == [0, 1, 2, 3, 4]
    file.close()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_whole_model_is_refused(legacy: bool, model: Any, tmp_path: Path) -> None:
    """Catches a pickled module: it names classes, which only code could restore."""
    path = tmp_path / "pytorch_model.bin"
    torch.save(model[0], path, _use_new_zipfile_serialization=not legacy)
    (tmp_path / "config.json").write_text(json.dumps(hf_config()), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"names 'transformers\.models\.gpt2") as caught:
        open_checkpoint(tmp_path)
    assert str(path) in str(caught.value) and "model.state_dict()" in str(caught.value)
