"""Keys and values taken out of a cache and put into another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from core_models import all_logits, build
from random_checkpoints import ODD, VARIANTS, random_tensors, random_tokens
from reference import layer_norm, linear

from gpt2fast import _core

LONG = VARIANTS["long"]


def filled(model: _core.Model, dtype: str, n: int) -> _core.Cache:
    cache = _core.Cache(model, dtype)
    if n:
        model.forward([cache], [random_tokens(LONG, n)], [0])
    return cache


@pytest.fixture(scope="module")
def model() -> _core.Model:
    return build(LONG, random_tensors(LONG), "float32")


@pytest.mark.parametrize("n", [1, 15, 16, 17, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_copy_goes_on_alike(model: _core.Model, dtype: str, n: int) -> None:
    """Catches a position, head or dimension that is lost at the edge of a group or page."""
    cache, copy = filled(model, dtype, n), _core.Cache(model, dtype)
    copy.write(n, [cache.read(layer) for layer in range(LONG["n_layer"])])
    assert (copy.length, copy.nbytes) == (cache.length, cache.nbytes)
    more = [random_tokens(LONG, 70, seed=1)]
    assert np.array_equal(model.forward([copy], more, [70]), model.forward([cache], more, [70]))


def test_what_is_read(model: _core.Model) -> None:
    """Catches keys for values, or an order other than head, position, dimension."""
    tensors, tokens, width = random_tensors(LONG), random_tokens(LONG, 70), LONG["n_embd"]
    k, v = filled(model, "float32", 70).read(0)
    x = tensors["wte.weight"][tokens].astype(np.float64) + tensors["wpe.weight"][:70]
    x = layer_norm(x, tensors["h.0.ln_1.weight"], tensors["h.0.ln_1.bias"], 1e-5)
    qkv = linear(x, tensors["h.0.attn.c_attn.weight"].T, tensors["h.0.attn.c_attn.bias"])
    shape = 70, LONG["n_head"], width // LONG["n_head"]
    for found, first in ((k, width), (v, 2 * width)):
        expected = qkv[:, first : first + width].reshape(shape).transpose(1, 0, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_empty_cache(model: _core.Model) -> None:
    """Catches a read of pages that are not there."""
    k, v = _core.Cache(model).read(1)
    assert k.shape == v.shape == (LONG["n_head"], 0, LONG["n_embd"] // LONG["n_head"])
    cache = _core.Cache(model)
    cache.write(0, [(k, v)] * LONG["n_layer"])
    assert cache.length == 0


def test_a_cache_that_was_used_before(model: _core.Model) -> None:
    """Catches what an earlier text left in a page and a written one then sees."""
    tokens = random_tokens(LONG, 9)
    truth = all_logits(model, tokens)
    used = filled(model, "float32", 100)
    source = filled(model, "float32", 8)
    used.truncate(0)
    used.write(8, [source.read(layer) for layer in range(LONG["n_layer"])])
    (last,) = model.forward([used], [tokens[8:]], [1])
    assert np.array_equal(last[0], truth[8])


def _raising(part: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    yield part
    raise KeyError("no more")


BAD: dict[str, tuple[type[Exception], str, Any]] = {
    "a layer too few": (ValueError, "1 layers", lambda k, v: [(k, v)]),
    "a layer too many": (ValueError, "more layers", lambda k, v: [(k, v)] * 3),
    "float64": (ValueError, "float32", lambda k, v: [(k.astype(float), v)] * 2),
    "bytes swapped": (ValueError, "float32", lambda k, v: [(k.astype(">f4"), v)] * 2),
    "half the values": (ValueError, "values", lambda k, v: [(k, v[:, :4])] * 2),
    "transposed": (ValueError, "keys", lambda k, v: [(k.transpose(2, 1, 0), v)] * 2),
    "strided": (ValueError, "values", lambda k, v: [(k, v[::-1])] * 2),
    "no pair": (ValueError, "a tuple", lambda k, _: [(k,)] * 2),
    "raises": (KeyError, "no more", lambda k, v: _raising((k, v))),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(model: _core.Model, case: str) -> None:
    """Catches a cache that is half written, or memory read past its end."""
    error, words, layers = BAD[case]
    k, v = filled(model, "float32", 5).read(0)
    cache = _core.Cache(model, "float32")
    with pytest.raises(error, match=words):
        cache.write(5, layers(k, v))
    assert cache.length == 0
    cache.write(5, [(k, v)] * 2)
    assert cache.length == 5


def test_bad_numbers(model: _core.Model) -> None:
    """Catches a layer outside the model, a negative length and a cache written over."""
    cache = filled(model, "float32", 5)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"layer is {layer}; allowed are 0 to 1"):
            cache.read(layer)
    with pytest.raises(ValueError, match="only an empty one"):
        cache.write(5, [cache.read(0)] * 2)
    for n in (-1, 2**31 - 1):
        with pytest.raises(ValueError, match=f"n is {n}; allowed are 0 to 16777216"):
            _core.Cache(model).write(n, [])


def test_read_while_writing(model: _core.Model) -> None:
    """Catches a cache that two calls use at once."""
    cache = _core.Cache(model, "float32")
    part = filled(model, "float32", 5).read(0)
    seen: list[str] = []

    def layers() -> Iterator[tuple[Any, Any]]:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="another") as caught:
                cache.read(0)
            seen.append(str(caught.value))
            yield part

    cache.write(5, layers())
    assert len(seen) == 2
    assert cache.length == 5


def test_padded_dimensions() -> None:
    """Catches a head of odd width whose padding enters the values."""
    model = build(ODD, random_tensors(ODD), "int8")
    tokens = random_tokens(ODD, 20)
    cache, copy = _core.Cache(model), _core.Cache(model)
    model.forward([cache], [tokens], [0])
    copy.write(20, (cache.read(layer) for layer in range(ODD["n_layer"])))
    one = [tokens[:1]]
    assert np.array_equal(model.forward([copy], one, [1]), model.forward([cache], one, [1]))
