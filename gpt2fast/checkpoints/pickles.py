"""Unpickling that executes nothing: a machine of our own for the opcodes that torch.save writes.

It builds None, booleans, numbers, strings, tuples, lists and dicts. A global name is only looked
up in the table that the caller gives; any other is refused, and so is every opcode that torch.save
has no use for. Nothing is imported, no attribute is read or set, nothing is called but the table's
own constructors. There is no second way to load what is refused here.

Memory and time are bounded by the input: every length is checked against the bytes that are there
before anything is made, memo entries are kept by number (so a large number costs nothing), and the
number of opcodes is limited. Keys of dicts are strings and integers: tuples nested by reference
would take exponential time to hash.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from gpt2fast.config import CheckpointError, quote

MAX_OPCODES = 300_000  # a 1.5B checkpoint with its optimizer has 75,000
_MAX_NAME = 512
_PROTOCOLS = range(2, 6)
_PROTO, _STOP = 0x80, ord(".")


@dataclass(frozen=True, slots=True)
class Constructor:
    """A global that a pickle may call: `build` takes the arguments and raises ValueError."""

    build: Callable[[tuple[Any, ...]], Any]


class Unpickler:
    """Unpickles values that stand one after the other in `data`.

    `names` maps the allowed globals, as "module.name", to what they stand for; `persistent` turns a
    persistent id into a value, or raises ValueError. `what` begins every message.
    """

    def __init__(
        self,
        data: bytes,
        names: Mapping[str, object],
        persistent: Callable[[Any], object],
        what: str,
    ) -> None:
        self.position = 0
        self._data = data
        self._names = names
        self._persistent = persistent
        self._what = what
        self._opcodes = 0

    def load(self) -> Any:
        """Return the value whose pickle begins at `position`, and move behind it.

        Raises CheckpointError for what is damaged, not allowed or beyond the limits.
        """
        if self._take(1)[0] != _PROTO or self._take(1)[0] not in _PROTOCOLS:
            self._refuse(f"is not a pickle of protocol {_PROTOCOLS[0]} to {_PROTOCOLS[-1]}")
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._floor = 0  # the stack's length at the last mark
        self._memo: dict[int, Any] = {}
        while (opcode := self._take(1)[0]) != _STOP:
            self._opcodes += 1
            if self._opcodes > MAX_OPCODES:
                self._refuse(f"has more than {MAX_OPCODES} opcodes")
            action = _ACTIONS.get(opcode)
            if action is None:
                self._refuse(f"uses the opcode {_opcode_name(opcode)}, which torch.save does not")
            action(self)
        value = self._pop()
        if self._stack or self._marks:
            self._refuse("is damaged: values are left over at its end")
        return value

    def _refuse(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self._what}: the pickle at byte {self.position} {reason}")

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            self._refuse("is truncated or too long")
        piece = self._data[self.position : end]
        self.position = end
        return piece

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _pop(self) -> Any:
        if len(self._stack) <= self._floor:
            self._refuse("is damaged: a value is missing")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            self._refuse("is damaged: a mark is missing")
        start = self._marks.pop()
        self._floor = self._marks[-1] if self._marks else 0
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        """Return the uppermost value, which stays: only a `kind` can be changed in place."""
        if len(self._stack) <= self._floor or type(self._stack[-1]) is not kind:
            self._refuse(f"is damaged: a {kind.__name__} is missing")
        return self._stack[-1]

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._floor = len(self._stack)
        self._marks.append(self._floor)

    def _frame(self) -> None:
        if self._number(8) > len(self._data) - self.position:
            self._refuse("is truncated: a frame is longer than the rest")

    def _text(self, size: int) -> None:
        """Push a string of `size` bytes; a str of Python 2 has opcodes of its own."""
        try:
            self._push(self._take(size).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            self._refuse("is damaged: a string is not UTF-8")

    def _tuple(self, size: int) -> None:
        values = [self._pop() for _ in range(size)]
        self._push(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            self._refuse("is damaged: a key without value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                self._refuse(f"has the dict key {quote(key)}: only str and int are allowed")
            if key in target:
                self._refuse(f"has the dict key {quote(key)} twice")
            target[key] = value

    def _set_item(self) -> None:
        value = self._pop()
        self._set_items([self._pop(), value])

    def _put(self, index: int) -> None:
        if len(self._stack) <= self._floor:
            self._refuse("is damaged: a value is missing")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            self._refuse(f"is damaged: memo {index} is empty")
        self._push(self._memo[index])

    def _global(self) -> None:
        end = self._data.find(b"\n", self.position, self.position + _MAX_NAME)
        end = self._data.find(b"\n", end + 1, end + _MAX_NAME) if end >= 0 else -1
        if end < 0:
            self._refuse("is damaged: a global name does not end")
        module, name = self._take(end + 1 - self.position).split(b"\n")[:2]
        self._look_up(module.decode("utf-8", "replace"), name.decode("utf-8", "replace"))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            self._refuse("is damaged: a global name is not a string")
        self._look_up(module, name)

    def _look_up(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self._names:
            self._refuse(
                f"names {quote(full)}: a file of weights may hold tensors, dicts, lists, strings "
                "and numbers only (torch.save(model.state_dict(), ...)); nothing was executed"
            )
        self._push(self._names[full])

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Constructor) or type(arguments) is not tuple:
            self._refuse(f"calls {quote(function)}, which is not a constructor of tensors")
        self._make(function.build, arguments)

    def _build(self) -> None:
        """Drop the attributes of an ordered dict (torch notes versions of modules there)."""
        state = self._pop()
        self._top(dict)
        if type(state) is not dict:
            self._refuse("is damaged: attributes are not a dict")

    def _persistent_id(self) -> None:
        self._make(self._persistent, self._pop())

    def _make(self, maker: Callable[[Any], object], given: object) -> None:
        try:
            self._push(maker(given))
        except ValueError as error:
            self._refuse(str(error))


def _opcode_name(opcode: int) -> str:
    import pickletools

    names = (known.name for known in pickletools.opcodes if known.code == chr(opcode))
    return next(names, f"{opcode:#04x}")


_ACTIONS: dict[int, Callable[[Unpickler], object]] = {
    ord("("): Unpickler._mark,
    0x95: Unpickler._frame,
    ord("N"): lambda machine: machine._push(None),
    0x88: lambda machine: machine._push(True),
    0x89: lambda machine: machine._push(False),
    ord("K"): lambda machine: machine._push(machine._number(1)),
    ord("M"): lambda machine: machine._push(machine._number(2)),
    ord("J"): lambda machine: machine._push(*struct.unpack("<i", machine._take(4))),
    0x8A: lambda machine: machine._push(
        int.from_bytes(machine._take(machine._number(1)), "little", signed=True)
    ),
    ord("G"): lambda machine: machine._push(*struct.unpack(">d", machine._take(8))),
    ord("X"): lambda machine: machine._text(machine._number(4)),
    0x8C: lambda machine: machine._text(machine._number(1)),
    0x8D: lambda machine: machine._text(machine._number(8)),
    ord("U"): lambda machine: machine._text(machine._number(1)),
    ord("T"): lambda machine: machine._text(machine._number(4)),
    ord(")"): lambda machine: machine._push(()),
    0x85: lambda machine: machine._tuple(1),
    0x86: lambda machine: machine._tuple(2),
    0x87: lambda machine: machine._tuple(3),
    ord("t"): lambda machine: machine._push(tuple(machine._pop_mark())),
    ord("]"): lambda machine: machine._push([]),
    ord("a"): lambda machine: machine._append([machine._pop()]),
    ord("e"): lambda machine: machine._append(machine._pop_mark()),
    ord("}"): lambda machine: machine._push({}),
    ord("s"): Unpickler._set_item,
    ord("u"): lambda machine: machine._set_items(machine._pop_mark()),
    ord("q"): lambda machine: machine._put(machine._number(1)),
    ord("r"): lambda machine: machine._put(machine._number(4)),
    0x94: lambda machine: machine._put(len(machine._memo)),
    ord("h"): lambda machine: machine._get(machine._number(1)),
    ord("j"): lambda machine: machine._get(machine._number(4)),
    ord("c"): Unpickler._global,
    0x93: Unpickler._stack_global,
    ord("R"): Unpickler._reduce,
    ord("b"): Unpickler._build,
    ord("Q"): Unpickler._persistent_id,
}
