"""What a pickle of torch.save may hold besides plain values: tensors, as views of storages.

The functions here take the place of torch's own in the pickle, and only note what they are given:
no number is read. That a tensor lies inside its storage is checked where a tensor is used, so that
the message can name it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gpt2fast.checkpoints.pickles import Constructor
from gpt2fast.config import quote

_MAX_RANK = 32
_MAX_SPREAD = 16  # numbers read for one that is used, as in a slice of columns


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class of torch: a dtype in the words of safetensors."""

    dtype: str
    itemsize: int


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers that tensors are views of."""

    key: str
    type: StorageType
    count: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.count * self.type.itemsize


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage; `offset` and `stride` count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes, without the gaps between its numbers."""
        return math.prod(self.shape) * self.storage.type.itemsize

    @property
    def span(self) -> int:
        """Count of numbers from the first of the tensor to its last."""
        pairs = zip(self.shape, self.stride, strict=True)
        return 1 + sum((size - 1) * step for size, step in pairs)

    def problem(self) -> str | None:
        """Say what forbids to read the tensor, or None."""
        count = math.prod(self.shape)
        if count == 0:
            return "has no numbers"
        if self.offset + self.span > self.storage.count or count > self.storage.count:
            return (
                f"of shape {quote(self.shape)}, strides {quote(self.stride)} and offset "
                f"{self.offset} does not lie in the {self.storage.count} numbers of its storage"
            )
        if self.span > _MAX_SPREAD * count:
            return f"has {count} numbers spread over {self.span}"
        return None


def storage(persistent_id: Any) -> Storage:
    """Return what a persistent id names: ("storage", type, key, device, count[, None]).

    Raises ValueError.
    """
    if type(persistent_id) is tuple and len(persistent_id) in (5, 6):
        word, kind, key, device, count, *view = persistent_id
        texts = isinstance(word, str) and isinstance(key, str) and isinstance(device, str)
        whole = not view or view[0] is None  # torch before 0.4 could save views of storages
        if texts and word == "storage" and type(kind) is StorageType and _is_size(count) and whole:
            return Storage(key, kind, count)
    raise ValueError(f"has the persistent id {quote(persistent_id)}, which names no storage")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """Do as torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, ...)."""
    if len(arguments) in (6, 7):
        stored, offset, shape, stride = arguments[:4]
        tuples = type(shape) is tuple and type(stride) is tuple
        if (
            type(stored) is Storage
            and tuples
            and len(shape) == len(stride) <= _MAX_RANK
            and all(map(_is_size, (offset, *shape, *stride)))
        ):
            return StoredTensor(stored, offset, shape, stride)
    raise ValueError(f"makes a tensor of {quote(arguments)}, not storage, offset, size, stride")


def _parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    """Do as torch._utils._rebuild_parameter(data, ...): a parameter is its tensor."""
    if len(arguments) == 3 and type(arguments[0]) is StoredTensor:
        return arguments[0]
    raise ValueError(f"makes a parameter of {quote(arguments)}")


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[str, object]:
    """Do as OrderedDict: empty, to be filled; Python 2 gave it its items as a list of lists."""
    items = arguments[0] if len(arguments) == 1 else []
    if len(arguments) > 1 or type(items) is not list or not all(map(_is_item, items)):
        raise ValueError(f"makes an ordered dict of {quote(arguments)}")
    return dict(items)


def _is_item(item: object) -> bool:
    return type(item) is list and len(item) == 2 and type(item[0]) is str


NAMES: dict[str, object] = {
    "collections.OrderedDict": Constructor(_ordered_dict),
    "torch._utils._rebuild_tensor_v2": Constructor(_tensor),
    "torch._utils._rebuild_parameter": Constructor(_parameter),
    "torch.FloatStorage": StorageType("F32", 4),
    "torch.HalfStorage": StorageType("F16", 2),
    "torch.BFloat16Storage": StorageType("BF16", 2),
    "torch.DoubleStorage": StorageType("F64", 8),
    "torch.LongStorage": StorageType("I64", 8),
    "torch.IntStorage": StorageType("I32", 4),
    "torch.ShortStorage": StorageType("I16", 2),
    "torch.CharStorage": StorageType("I8", 1),
    "torch.ByteStorage": StorageType("U8", 1),
    "torch.BoolStorage": StorageType("BOOL", 1),
}
