"""The command `gpt2fast verify`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from gpt2fast.cli.terminal import PROGRAM, UsageError, megabytes, note, progress_line


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=verify)
    command.add_argument("files", nargs="+", metavar="FILE", help="a packed file")
    command.add_argument(
        "--golden",
        action="store_true",
        help="compare a GPT-2 124M, from any source, with logits that others published of it",
    )
    command.add_argument(
        "--dtype", help="with --golden, of a checkpoint: float32, float16 or int8; default: int8"
    )
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")


def verify(arguments: argparse.Namespace) -> int:
    """Check each file and say on stdout what was found; return 1 if one is not sound, or differs.

    With several files, an error of one goes to stderr and the others are checked all the same.
    """
    from gpt2fast.config import CheckpointError

    if arguments.dtype is not None and not arguments.golden:
        raise UsageError("--dtype is for --golden: a packed file has its own")
    status = 0
    for source in arguments.files:
        progress = None if arguments.quiet else progress_line(f"verifying {source}")
        try:
            if arguments.golden:
                status |= _compare(source, arguments.dtype, progress)
            else:
                _check(source, progress)
        except (CheckpointError, OSError) as error:
            if len(arguments.files) == 1:
                raise
            note(f"{PROGRAM}: error: {' '.join(str(error).split())}")
            status = 1
    return status


def _check(source: str, progress: Callable[[int, int], None] | None) -> None:
    from gpt2fast.checkpoints.packed import open_packed
    from gpt2fast.config import CheckpointError
    from gpt2fast.sources import local_path

    path = local_path(source)
    if path is None:
        raise CheckpointError(f"{source}: no such file")
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a directory; verify checks a packed file, as {PROGRAM} convert writes it"
        )
    model = open_packed(path, verify=True, progress=progress)
    print(
        f"{source}: sound: {model.dtype}, {megabytes(model.nbytes)}, fingerprint "
        f"{model.fingerprint}",
        flush=True,
    )


def _compare(source: str, dtype: str | None, progress: Callable[[int, int], None] | None) -> int:
    from gpt2fast.loading import load_packed
    from gpt2fast.published import compare
    from gpt2fast.threads import thread_count

    packed = load_packed(source, dtype=dtype, progress=progress)
    rows = compare(packed, thread_count(None))
    for item in rows:
        print(
            f"{item.row.name:<14} {len(item.row.tokens):>6} logits, {item.activation}: "
            f"{item.measure} {item.difference:.5f}, at most {item.bound} allowed"
            f"{'' if item.agrees else ': differs'}"
        )
    agrees = all(item.agrees for item in rows)
    print(
        f"{source}: {packed.dtype} {'agrees with' if agrees else 'differs from'} the published "
        "logits of GPT-2 124M",
        flush=True,
    )
    return 0 if agrees else 1
