"""The command `gpt2fast info`."""

from __future__ import annotations

import argparse
import math

from gpt2fast.cli.terminal import MODEL_HELP, add_load_options, load_model, megabytes


def add_options(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    command.set_defaults(run=info)
    command.add_argument("model", nargs="?", default="tales", help=MODEL_HELP)
    add_load_options(command)


def info(arguments: argparse.Namespace) -> int:
    """Print what a model is, what it was made from and how it runs here."""
    from gpt2fast import _core

    with load_model(arguments) as model:
        config, memory = model.config, model.memory
        n_parameters = sum(math.prod(shape) for shape in config.tensor_shapes().values())
        rows = {
            "model": str(arguments.model),
            "dtype": model.dtype,
            "shape": f"{config.n_layer} layers, {config.n_head} heads, {config.n_embd} wide, "
            f"context {config.n_ctx}, vocabulary {config.n_vocab}",
            "parameters": f"{n_parameters:,}",
            "fingerprint": model.fingerprint,
            "target": f"{model.target} (supported: "
            + ", ".join(name for name, missing in _core.supported().items() if not missing)
            + ")",
            "threads": str(model.threads),
            "memory": f"weights {megabytes(memory.weights)}, cache "
            f"{memory.cache_per_token:,} bytes per token, {megabytes(memory.cache)} when full",
        }
        receipt = model.receipt
    for name, value in rows.items():
        print(f"{name:<12} {value}")
    print(receipt)
    return 0
