"""Coverage-guided fuzzing of the readers of torch.save's files, by atheris.

    python tests/fuzz/fuzz_torch_files.py [options of libFuzzer, such as -max_total_time=300]

The first byte of an input says what the others are: a whole file, the pickle of an archive or of
the old format (checksums, sizes and storages right), the pickle of nanoGPT's `model_args`, numbers
that a tensor is made of, or changes to the records and the end of a sound archive. What is found
becomes a case of tests/test_pickles.py or tests/test_torch_hostile.py.

While an input is read, whatever runs code, starts a process, imports or writes ends the run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["gpt2fast"]):
    from gpt2fast.checkpoints.nanogpt import NanoGPTCheckpoint
    from gpt2fast.checkpoints.torch_files import TorchFile
    from gpt2fast.config import CheckpointError, Config

import pickletools  # noqa: F401  (what an error message imports is imported before)

from nanogpt_files import ARGUMENTS, nanogpt_file, state_dict
from torch_payloads import dormant, payloads
from torch_refusals import NUMBERS, ONE, ONE_LEGACY, SOUND, SOUND_LEGACY, as_legacy, as_zip
from torch_save_files import pickled, plain, storage, tensor, zip_file, zip_records

SECONDS = 1.0
EDGES = [0, 1, 2, 11, 12, 13, 48, 64, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 61, (1 << 64) - 1]
HARMLESS = {"open", "os.listdir", "os.scandir", "marshal.loads", "code.__new__"}
FIELDS = ["crc", "flags", "method", "size", "packed", "header"]
ENDS = ["count", "size", "start", "disk", "comment"]
KINDS = {"Float": 4, "Half": 2, "BFloat16": 2, "Double": 8, "Bool": 1, "Q": 1}
SMALL = {**ARGUMENTS, "n_layer": 1, "n_head": 1, "n_embd": 2, "block_size": 3, "vocab_size": 5}
SHAPES = Config(n_layer=1, n_head=1, n_embd=2, n_ctx=3, n_vocab=5, n_inner=8).tensor_shapes()
MODEL = state_dict({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})


def number(provider: atheris.FuzzedDataProvider, bits: int) -> int:
    """Return an unsigned integer, often one at an edge."""
    limit = (1 << bits) - 1
    if provider.ConsumeBool():
        return int(provider.PickValueInList(EDGES)) & limit
    return int(provider.ConsumeIntInRange(0, limit))


def changed_archive(data: bytes) -> bytes:
    """Return a sound archive with some of its headers' fields changed."""
    provider = atheris.FuzzedDataProvider(data)
    records = zip_records(pickled(ONE), {"0": NUMBERS})
    end = {}
    for _ in range(provider.ConsumeIntInRange(1, 3)):
        record = provider.PickValueInList(records)
        what = provider.ConsumeIntInRange(0, 8)
        if what < len(FIELDS):
            bits = 16 if FIELDS[what] in ("flags", "method") else 32
            setattr(record, FIELDS[what], number(provider, bits))
        elif what == 6:
            record.extra = provider.ConsumeBytes(40)
        elif what == 7:
            record.name = provider.ConsumeUnicodeNoSurrogates(12)
        else:
            name = provider.PickValueInList(ENDS)
            end[name] = number(provider, 16 if name in ("disk", "comment", "count") else 32)
    return zip_file(records, end=end, zip64=provider.ConsumeBool())


def made_tensors(data: bytes) -> bytes:
    """Return an archive of tensors made of numbers, which often fit."""
    provider = atheris.FuzzedDataProvider(data)
    kind = provider.PickValueInList(list(KINDS))
    count, offset = number(provider, 8), provider.ConsumeIntInRange(0, 3)
    tensors = {}
    for name in "xy"[: provider.ConsumeIntInRange(1, 2)]:
        bits = provider.PickValueInList([2, 3, 4, 64])
        rank = provider.ConsumeIntInRange(0, 4)
        shape = tuple(number(provider, bits) for _ in range(rank))
        stride = tuple(number(provider, bits) for _ in range(rank))
        tensors[name] = tensor(storage("0", count, kind), offset, shape, stride)
    surplus = provider.PickValueInList([0, 0, 0, 1])
    return as_zip(pickled(tensors), bytes(count * KINDS[kind] + surplus))


def made_nanogpt(data: bytes) -> bytes:
    """Return a checkpoint of nanoGPT with these opcodes for its arguments."""
    return nanogpt_file(MODEL, data)


WRITERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"F": bytes,
    b"Z": as_zip,
    b"L": as_legacy,
    b"A": changed_archive,
    b"T": made_tensors,
    b"N": made_nanogpt,
}


class Target:
    """The file that inputs are written to, and the test of one input."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input.pt"
        self._reading = False
        sys.addaudithook(self._audit)

    def __call__(self, data: bytes) -> None:
        kind, rest = data[:1], data[1:]
        if kind not in WRITERS:
            return
        self._path.write_bytes(WRITERS[kind](rest))
        started = time.process_time()
        self._reading = True
        try:
            self._read(kind)
        except CheckpointError as error:
            message = str(error)
            if str(self._path) not in message or len(message) > 2000:
                raise AssertionError("the message does not name the file, or is long") from error
        finally:
            self._reading = False
        assert time.process_time() - started < SECONDS

    def _read(self, kind: bytes) -> None:
        """Open the file and read all of it: a CheckpointError, or tensors as they are described."""
        if kind == b"N":
            with NanoGPTCheckpoint(self._path) as checkpoint:
                checkpoint.check_tensors()
            return
        file = TorchFile(self._path)
        try:
            assert sum(map(file.nbytes, file.names())) <= 2 * self._path.stat().st_size
            for name in file.names():
                values = file.read(name)
                assert values.shape == file.shape(name) and values.flags.c_contiguous
        finally:
            file.close()

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if (
            self._reading
            and not (event in HARMLESS and (event != "open" or arguments[0] == str(self._path)))
            and not event.startswith("object.")
        ):
            self._reading = False
            raise AssertionError(f"{event} {arguments!r}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (corpus := folder / "corpus").mkdir()
        seeds = {
            "F1": SOUND,
            "F2": SOUND_LEGACY,
            "F3": zip_file(zip_records(pickled(ONE), {"0": NUMBERS}), zip64=True),
            "Z1": pickled(ONE),
            "L1": pickled(ONE_LEGACY),
            "N1": plain(SMALL),
            "A1": bytes(40),
            "T1": bytes(60),
        }
        for case, opcodes in (payloads("x") | dormant("x")).items():
            seeds[f"Z-{case}".replace("/", "")] = pickled({"x": opcodes}, 4)
        for case, seed in seeds.items():
            (corpus / case).write_bytes(case[:1].encode() + seed)
        atheris.Setup([*sys.argv, str(corpus), "-max_len=3000"], Target(folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
