"""GGUF files of architecture gpt2: catches a weight, a name or a token that is read wrongly."""

from __future__ import annotations

import hashlib
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import hf_config, random_tensors, write_checkpoint
from gguf_files import (
    N_ROWS,
    SMALL,
    TYPES,
    Tensor,
    f32,
    small_file,
    stored_shapes,
)
from numpy.typing import NDArray

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.gguf import GGUFCheckpoint
from gpt2fast.checkpoints.gguf_blocks import BLOCK_TYPES, dequantize
from gpt2fast.config import CheckpointError, Config
from gpt2fast.conversion.convert import convert
from gpt2fast.conversion.packing import pack

CONFIG = hf_config(n_embd=96, n_head=3, n_inner=256, n_positions=64, vocab_size=N_ROWS)
SHAPES = Config.from_huggingface(CONFIG).tensor_shapes()
TENSORS = random_tensors(SHAPES)


def write_by_package(path: Path, quantization: str = "F32", head: str | None = None) -> Path:
    """Write TENSORS with the gguf package, named by its own table, as the converter does."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    kind = gguf.GGMLQuantizationType[quantization]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, CONFIG["n_layer"])
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(CONFIG["n_layer"])
    writer.add_context_length(CONFIG["n_positions"])
    writer.add_embedding_length(CONFIG["n_embd"])
    writer.add_feed_forward_length(CONFIG["n_inner"])
    writer.add_head_count(CONFIG["n_head"])
    writer.add_layer_norm_eps(1e-5)
    for name, values in {**TENSORS, **({head: TENSORS["wte.weight"]} if head else {})}.items():
        stored = names.get_name(f"transformer.{name}", try_suffixes=(".weight", ".bias")) or name
        values = values.T if "attn.c_" in name or "mlp.c_" in name else values
        matrix = values.ndim == 2 and "wpe" not in name
        data = gguf.quants.quantize(np.ascontiguousarray(values), kind) if matrix else values
        writer.add_tensor(stored, data, raw_dtype=kind if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("head", [None, "output.weight"], ids=["tied", "repeated head"])
def test_same_bits_as_from_safetensors(head: str | None, tmp_path: Path) -> None:
    """Catches any weight or setting that the two formats do not give alike."""
    with open_checkpoint(write_checkpoint(tmp_path / "hf", CONFIG, TENSORS)) as checkpoint:
        expected = pack(checkpoint, "float32")
    with open_checkpoint(write_by_package(tmp_path / "m.gguf", head=head)) as checkpoint:
        found = pack(checkpoint, "float32")
    assert found.config == expected.config
    assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("quantization", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantized_by_the_gguf_package(quantization: str, tmp_path: Path) -> None:
    """Catches a quantized matrix that is read in another order than it was written."""
    path = write_by_package(tmp_path / "m.gguf", quantization)
    import gguf

    kind = gguf.GGMLQuantizationType[quantization]
    with open_checkpoint(path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(SHAPES)
        for name, values in TENSORS.items():
            expected = values
            if values.ndim == 2 and name != "wpe.weight":
                stored = values.T if name.startswith("h.") else values
                blocks = gguf.quants.quantize(np.ascontiguousarray(stored), kind)
                expected = gguf.quants.dequantize(blocks, kind)
                expected = expected.T if name.startswith("h.") else expected
            found = checkpoint.read(name)
            assert found.dtype == np.float32 and found.shape == checkpoint.shape(name)
            assert np.array_equal(found, expected)


def test_quantized_by_llama_cpp(tmp_path: Path) -> None:
    """Catches what only the real quantizer does: Q4_K, Q6_K and, where a row is short, Q8_0.

    The file is one layer of 256 (n_inner 288) as llama-quantize wrote it for Q4_K_M, the digest
    that of the gguf package's values of all tensors, in order of their names.
    """
    packed = Path(__file__).parent / "data" / "gguf" / "q4_k_m.gguf.xz"
    path = tmp_path / "q4_k_m.gguf"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    digest = hashlib.sha256()
    checkpoint = GGUFCheckpoint(path)
    with checkpoint:
        places = {tensor.name: name for name, tensor in checkpoint._places.items()}
        for _, name in sorted(places.items()):
            values = checkpoint.read(name)
            digest.update((values.T if name.startswith("h.") else values).tobytes())
        assert {tensor.kind.name for tensor in checkpoint._places.values()} == {
            "F32", "Q4_K", "Q6_K", "Q8_0",
        }  # fmt: skip
        assert pack(checkpoint).config.eot == N_ROWS - 1
    assert digest.hexdigest().startswith("cbf51ee22d5c6181026dd027a79dd5cb")


def stored_values(path: Path) -> dict[str, NDArray[np.float32]]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.names()}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 8, 32, 4096])
def test_versions_and_alignments(version: int, alignment: int, tmp_path: Path) -> None:
    """Catches a tensor sought at the wrong place; needs no other package."""
    file = small_file({"general.alignment": alignment})
    file.version, file.alignment = version, alignment
    found = stored_values(file.write(tmp_path / "m.gguf"))
    up = np.frombuffer(file.tensors["blk.0.ffn_up.weight"].content, np.float32)
    assert np.array_equal(found["h.0.mlp.c_fc.weight"], up.reshape(64, 32).T)
    table = np.frombuffer(file.tensors["token_embd.weight"].content, np.float32)
    assert np.array_equal(found["wte.weight"], table.reshape(N_ROWS, 32))


def test_configuration(tmp_path: Path) -> None:
    """Catches a setting that is taken from the wrong key, and 1e-5 as float32 rounded it."""
    path = small_file().write(tmp_path / "small.Q8_0.gguf")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.name == "small.Q8_0" and checkpoint.files == (path,)
        assert checkpoint.config == Config(
            n_layer=1, n_head=2, n_embd=32, n_ctx=8, n_vocab=N_ROWS, n_inner=64, eot=N_ROWS - 1
        )
        assert checkpoint.nbytes == sum(4 * int(np.prod(s)) for s in stored_shapes().values())


@pytest.mark.parametrize("number", BLOCK_TYPES, ids=lambda number: BLOCK_TYPES[number].name)
def test_every_type_in_a_file(number: int, tmp_path: Path) -> None:
    """Catches a type whose blocks a whole file does not lead to: rows of 256, random blocks."""
    sizes = {"gpt2.embedding_length": 256, "gpt2.feed_forward_length": 512}
    kind, rng = BLOCK_TYPES[number], np.random.default_rng(number)
    file = small_file(sizes)
    for name, shape in stored_shapes({**SMALL, **sizes}).items():
        size = int(np.prod(shape))
        if len(shape) == 2:
            content = rng.bytes(size // kind.n_weights * kind.n_bytes)
            file.tensors[name] = Tensor(shape, number, content)
        else:
            file.tensors[name] = f32(rng.normal(size=shape))
    found = stored_values(file.write(tmp_path / "m.gguf"))
    raw = np.frombuffer(file.tensors["blk.0.ffn_down.weight"].content, np.uint8)
    expected = dequantize(raw, kind).reshape(256, 512).T
    assert np.array_equal(found["h.0.mlp.c_proj.weight"], expected, equal_nan=True)


def test_sizes_of_one(tmp_path: Path) -> None:
    """Catches a table of one row refused: ggml leaves out trailing sizes of 1, others add them."""
    file = small_file({"gpt2.context_length": 1})
    file.tensors["position_embd.weight"] = f32(np.ones(32))
    bias = file.tensors["output_norm.bias"]
    file.tensors["output_norm.bias"] = Tensor((32, 1, 1), TYPES["F32"], bias.content)
    found = stored_values(file.write(tmp_path / "m.gguf"))
    assert found["wpe.weight"].shape == (1, 32) and found["ln_f.bias"].shape == (32,)


def with_head(content: bytes, kind: str = "F32") -> Any:
    file = small_file()
    file.tensors["output.weight"] = Tensor((32, N_ROWS), TYPES[kind], content)
    return file


@pytest.mark.parametrize("case", ["other values", "other type", "the last row"])
def test_a_head_of_its_own(case: str, tmp_path: Path) -> None:
    """Catches a head that is not the token table taken for it: also one of a finer type."""
    table = small_file().tensors["token_embd.weight"].content
    if case == "other type":
        half = np.frombuffer(table, np.float32).astype("<f2")
        file, expected = with_head(half.tobytes(), "F16"), half.astype(np.float32)
    else:
        content = table[::-1] if case == "other values" else table[:-4] + bytes(4)
        file, expected = with_head(content), np.frombuffer(content, np.float32)
    with open_checkpoint(file.write(tmp_path / "m.gguf")) as checkpoint:
        assert not checkpoint.config.tie_word_embeddings
        assert np.array_equal(checkpoint.read("lm_head.weight"), expected.reshape(N_ROWS, 32), True)


def test_a_head_that_differs_between_the_places_compared(tmp_path: Path) -> None:
    """Catches a head taken for the token table though one weight differs, far from any sample."""
    n_rows = 40_000
    table = np.random.default_rng(1).normal(size=(n_rows, 32)).astype(np.float32)
    head = table.copy()
    head[n_rows // 2 + 40] += 1
    file = small_file(tokenizer=False)
    file.tensors |= {"token_embd.weight": f32(table), "output.weight": f32(head)}
    with open_checkpoint(file.write(tmp_path / "m.gguf")) as checkpoint:
        assert checkpoint.config.tie_word_embeddings
        with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from wte\.weight"):
            pack(checkpoint)


def test_recognises(tmp_path: Path) -> None:
    """Catches a directory in which the file is overlooked, or other weights are."""
    content = small_file().bytes()
    directory = tmp_path / "one"
    directory.mkdir()
    (directory / "README.md").write_text("a model")
    (directory / "config.json").write_text("{}")
    (directory / "gpt2.Q8_0.gguf").write_bytes(content)
    with open_checkpoint(directory) as checkpoint:
        assert isinstance(checkpoint, GGUFCheckpoint) and checkpoint.name == "gpt2.Q8_0"
    (tmp_path / "magic").write_bytes(content)
    (tmp_path / "NAME.GGUF").write_bytes(b"")
    assert GGUFCheckpoint.recognises(tmp_path / "magic")
    assert GGUFCheckpoint.recognises(tmp_path / "NAME.GGUF")
    assert not GGUFCheckpoint.recognises(directory / "config.json")
    (directory / "model.safetensors").write_bytes(b"")
    assert not GGUFCheckpoint.recognises(directory)


def test_several_files(tmp_path: Path) -> None:
    """Catches one of several files chosen silently."""
    for name in ("b.gguf", "a.gguf"):
        small_file().write(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"has 2 GGUF files \('a.gguf', 'b.gguf'\): name one"):
        open_checkpoint(tmp_path)


def test_truncated_while_open(tmp_path: Path) -> None:
    """Catches a file cut after its header was read: an error, not garbage."""
    path = small_file().write(tmp_path / "m.gguf")
    with open_checkpoint(path) as checkpoint:
        os.truncate(path, path.stat().st_size - 1)
        assert checkpoint.read("ln_f.weight").shape == (32,)
        with pytest.raises(CheckpointError, match=r"output_norm\.bias: the file was truncated"):
            checkpoint.read("ln_f.bias")


def test_the_hash_of_every_tensor_is_noted(tmp_path: Path) -> None:
    """Catches a receipt that would not tell two sources apart: one call for each tensor read."""
    noted = []
    file = small_file()
    with open_checkpoint(file.write(tmp_path / "m.gguf")) as checkpoint:
        checkpoint.note_read = lambda *arguments: noted.append(arguments)  # type: ignore[method-assign]
        for name in checkpoint.names():
            checkpoint.read(name)
    assert {name: bytes(raw) for _, name, raw in noted} == {
        name: tensor.content for name, tensor in file.tensors.items()
    }


def test_replaced_while_open(tmp_path: Path) -> None:
    """Catches two files mixed into one model, and the source overwritten by its own conversion."""
    path = small_file().write(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match="belongs to the source"):
        convert(path, path)
    with open_checkpoint(path) as checkpoint:
        small_file().write(tmp_path / "new.gguf").replace(path)
        with pytest.raises(CheckpointError, match=r"m\.gguf changed while it was read"):
            pack(checkpoint)


def test_link(tmp_path: Path) -> None:
    """Catches a link refused, or named by what it leads to: the Hub's cache is made of links."""
    blob = small_file().write(tmp_path / "0123abcd")
    link = tmp_path / "m.gguf"
    link.symlink_to(blob)
    with open_checkpoint(link) as checkpoint:
        assert checkpoint.name == "m"
        assert pack(checkpoint).config.n_vocab == N_ROWS
