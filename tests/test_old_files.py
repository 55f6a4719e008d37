"""Committed packed files of every format version: catches a release that can no longer read one.

`tests/data/packed/expected.json` says what each file must give; `v1` is what 0.1.0 wrote first,
`v1-fidelity` has the receipt with a comparison with float32. A change of the format adds files here
and leaves these as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed_files import FIXTURES, take_apart

import gpt2fast
from gpt2fast import _core
from gpt2fast.checkpoints import layout
from gpt2fast.checkpoints.layout import FORMAT_VERSION
from gpt2fast.config import Config

EXPECTED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "expected.json").read_text())


def test_every_version_and_dtype_is_there() -> None:
    """Catches a format version or dtype without a committed file, and a file nobody reads."""
    assert {path.name for path in FIXTURES.glob("*.safetensors")} == set(EXPECTED)
    for dtype in ("float32", "float16", "int8"):
        assert f"v{FORMAT_VERSION}-{dtype}.safetensors" in EXPECTED


@pytest.mark.parametrize("name", EXPECTED)
def test_opens_verifies_and_predicts(name: str, target: str) -> None:
    """Catches an old file that is refused, or that gives other logits than when it was written."""
    expected = EXPECTED[name]
    with gpt2fast.load(FIXTURES / name, verify=True, threads=1) as model:
        assert (model.dtype, model.fingerprint) == (expected["dtype"], expected["fingerprint"])
        assert model.target == target
        assert (model.receipt.fidelity is not None) == ("fidelity" in name)
        logits = model.logits(expected["tokens"])
        assert (
            hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()
            == (expected["logits_sha256"])
        )
        if "text" in expected:
            assert model.tokenizer.encode(expected["text"]) == expected["ids"]


@pytest.mark.parametrize("name", EXPECTED)
def test_safetensors_opens_it(name: str) -> None:
    """Catches a file that the safetensors package refuses or sees other tensors in."""
    safetensors = pytest.importorskip("safetensors", reason="the oracle needs safetensors")
    header, data = take_apart(FIXTURES / name)
    metadata = header.pop("__metadata__")
    with safetensors.safe_open(FIXTURES / name, framework="numpy") as file:
        assert file.metadata() == metadata
        assert set(file.keys()) == set(header)
        for tensor, entry in header.items():
            begin, end = entry["data_offsets"]
            values = np.ascontiguousarray(file.get_tensor(tensor))
            assert list(values.shape) == entry["shape"]
            assert values.tobytes() == bytes(data[begin:end])


def test_specification() -> None:
    """Catches a specification that leaves out a key, or names another size than the code has."""
    text = (Path(layout.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
    keys = re.search(r"\| `config` \| JSON object: `([^`]*)`", text)
    assert keys and keys[1].split() == [field.name for field in dataclasses.fields(Config)]
    header, _ = take_apart(FIXTURES / f"v{FORMAT_VERSION}-int8.safetensors")
    for key in header["__metadata__"]:
        assert f"| `{key}` |" in text
    assert list(_core.packed_shape("int8", 65, 64)) == [2, 1, 4224] and "4224]" in text
    assert list(_core.packed_shape("float16", 65, 70)) == [2, 70, 64]
    names = re.findall(r"\b(?:attn|mlp)\.c_\w+|\bln_[12f]\b|\bw[tp]e\b|\blm_head\b", text)
    kinds = {re.sub(r"h\.\d+\.|\.(weight|bias)$", "", name) for name in header}
    assert kinds - {"__metadata__"} <= {*names, *(kind for kind in kinds if "tokenizer" in kind)}
