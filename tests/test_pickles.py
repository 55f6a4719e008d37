"""The unpickler: catches code that runs, and opcodes that take memory or time.

Each case is a CheckpointError that names the file, within a second, and leaves nothing behind.
"""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from torch_payloads import SYSTEM, dormant, payloads
from torch_refusals import CONTAINERS, ONE, ONE_LEGACY, SOUND, SOUND_LEGACY, read_all, refused
from torch_save_files import ORDERED_DICT, call, pickled, plain, text, tuple_of

from gpt2fast.checkpoints.pickles import MAX_OPCODES
from gpt2fast.checkpoints.torch_files import TorchFile
from gpt2fast.config import CheckpointError

LIVE, DORMANT = list(payloads("")), list(dormant(""))
REASONS = ("names '", "the opcode", "calls ", "names no storage", "is missing", "makes a tensor")


@pytest.mark.parametrize("case", [*LIVE, *DORMANT])
def test_payload(case: str, tmp_path: Path) -> None:
    """Catches a payload that runs, or is refused for another reason than what it does."""
    sentinel = str(tmp_path / "sentinel")
    opcodes = (payloads(sentinel) | dormant(sentinel))[case]
    for container in CONTAINERS.values():
        found = refused(tmp_path, container(pickled({"x": opcodes}, 4)))
        assert any(reason in found for reason in REASONS)


@pytest.mark.skipif(sys.platform == "win32", reason="the payloads are for POSIX")
def test_payloads_are_live(tmp_path: Path) -> None:
    """Catches payloads that would do no harm anywhere, and so prove nothing."""
    for number, case in enumerate(LIVE):
        opcodes = payloads(str(tmp_path / f"{number}.sentinel"))[case]
        (tmp_path / f"{number}.pickle").write_bytes(pickled({"x": opcodes}, 4))
    program = (
        "import pickle, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        value = pickle.load(open(path, 'rb'))['x']\n"
        "        getattr(value, 'wait', int)()\n"
        "    except BaseException:\n"
        "        pass\n"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, tmp_path.glob("*.pickle"))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=True,
    )
    made = {int(path.stem) for path in tmp_path.glob("*.sentinel")}
    assert [case for number, case in enumerate(LIVE) if number not in made] == []


def test_second_pickle(tmp_path: Path) -> None:
    """Catches what follows the first pickle: no reader of ours may ever come to it."""
    command = pickled(call(SYSTEM, plain("true")))
    refused(tmp_path, CONTAINERS["zip"](pickled(ONE) + command), "goes on after its end")
    refused(tmp_path, CONTAINERS["legacy"](pickled(ONE_LEGACY) + command), r"names 'os\.system'")


def test_no_other_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a way back to a loader that executes, for sound and for refused files."""
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    monkeypatch.setitem(sys.modules, "torch", None)
    for content in (SOUND, SOUND_LEGACY):
        (tmp_path / "sound.bin").write_bytes(content)
        read_all(tmp_path / "sound.bin")
    command = pickled({"x": call(SYSTEM, plain("true"))})
    refused(tmp_path, CONTAINERS["zip"](command), r"names 'os\.system'")


def repeated(opcodes: bytes, count: int) -> bytes:
    """Return a pickle that repeats opcodes and ends with None."""
    return b"\x80\x02" + opcodes * count + b"N."


DOUBLED = b")q\0" + b"h\0\x86q\0" * 100  # a tuple of 2^100 empty tuples, by reference
BOMBS = {
    "string of 2^63 bytes": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63), "truncated or too"),
    "string of 4 GB": (b"\x80\x02X\xff\xff\xff\xff", "truncated or too long"),
    "frame of 2^63 bytes": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 63), "a frame is longer"),
    "memo 2^32-1": (b"\x80\x02Nr\xff\xff\xff\xff" + b"0.", "opcode POP"),
    "memo that is empty": (b"\x80\x02j\xff\xff\xff\xff.", "memo 4294967295 is empty"),
    "bytes of 2^63": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 63), "opcode BINBYTES8"),
    "integer of 2 GB": (b"\x80\x02\x8b\xff\xff\xff\x7f", "opcode LONG4"),
    "integer of 4,000 digits": (b"\x80\x02I" + b"9" * 5000 + b"\n.", "opcode INT"),
    "name that does not end": (b"\x80\x02c" + b"a" * 100_000, "a global name does not end"),
    "deep tuples as a key": (b"\x80\x02}" + DOUBLED + b"Ns.", "has the dict key"),
    "deep tuples in a message": (b"\x80\x02" + DOUBLED + b"Q.", "names no storage"),
    "deep tuples as a tensor": (b"\x80\x02}" + text("x") + DOUBLED + b"s.", "'x' of the state"),
    "dict inside itself": (b"\x80\x02}q\0" + text("x") + b"h\0s.", "'x' of the state dict is"),
    "lists in lists": (b"\x80\x02" + b"]" * 140_000 + b"a" * 139_999 + b".", "no state dict|end"),
    "tuples in tuples": (b"\x80\x02)" + b"\x85" * 250_000 + b".", "no state dict|its end"),
    "marks": (repeated(b"(", 250_000), "values are left over"),
    "many opcodes": (repeated(b"}", MAX_OPCODES), f"more than {MAX_OPCODES} opcodes"),
    "many lists": (repeated(b"]", MAX_OPCODES - 2), "values are left over"),
    "key twice": (pickled(b"}(" + text("a") + b"N" + text("a") + b"Nu"), "dict key 'a' twice"),
    "key None": (pickled(b"}NNs"), "has the dict key None"),
    "key without value": (pickled(b"}(Nu"), "a key without value"),
    "list for a dict": (pickled(b"]" + text("a") + b"Ns"), "a dict is missing"),
    "dict for a list": (pickled(b"}Na"), "a list is missing"),
    "tuple for a list": (pickled(b")Na"), "a list is missing"),
    "nothing to append to": (pickled(b"Na"), "a list is missing"),
    "below the mark": (pickled(b"]N(a"), "a value is missing"),
    "no mark": (pickled(b"t"), "a mark is missing"),
    "nothing to remember": (pickled(b"(q\0"), "a value is missing"),
    "empty pickle": (b"\x80\x02.", "a value is missing"),
    "no end": (b"\x80\x02N", "truncated or too long"),
    "protocol 0": (b"N.", "not a file of torch.save|is not a pickle of protocol"),
    "protocol 6": (b"\x80\x06N.", "is not a pickle of protocol 2 to 5"),
    "protocol again": (b"\x80\x02\x80\x02N.", "opcode PROTO"),
    "unknown opcode": (b"\x80\x02\xff.", "opcode 0xff"),
    "not UTF-8": (b"\x80\x02U\x01\xff.", "a string is not UTF-8"),
    "ordered dict of a string": (pickled(call(ORDERED_DICT, text("ab"))), "makes an ordered dict"),
    "ordered dict of deep tuples": (
        pickled(ORDERED_DICT + b"](](" + DOUBLED + b"Nee\x85R"), "makes an ordered dict"
    ),
    "name of a number": (pickled(b"K\1K\1\x93"), "a global name is not a string"),
    "parameter of a string": (
        pickled(call(b"ctorch._utils\n_rebuild_parameter\n", text("x"), b"N", b"N")), "a parameter"
    ),
    "parameter of no tensor": (
        pickled(call(b"ctorch._utils\n_rebuild_parameter\n")), "makes a parameter"
    ),
    "tensor without arguments": (
        pickled(b"ctorch._utils\n_rebuild_tensor_v2\n" + tuple_of() + b"R"), "makes a tensor"
    ),
    "persistent id of six": (pickled(plain(("storage",) * 6) + b"Q"), "names no storage"),
    "persistent id of two": (pickled(plain(("storage", "0")) + b"Q"), "names no storage"),
    "attributes not a dict": (pickled(b"}Nb"), "attributes are not a dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_hostile_pickle(case: str, tmp_path: Path) -> None:
    """Catches an opcode that allocates what it says, recurses, or takes what is not there."""
    content, message = BOMBS[case]
    refused(tmp_path, CONTAINERS["zip"](content), message)
    refused(tmp_path, content)


@pytest.mark.parametrize("case", [case for case in BOMBS if " of " in case or "memo" in case])
def test_memory(case: str, tmp_path: Path) -> None:
    """Catches an allocation that follows a number of the file."""
    path = tmp_path / "bomb.bin"
    path.write_bytes(CONTAINERS["zip"](BOMBS[case][0]))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            TorchFile(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
