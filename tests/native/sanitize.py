"""Run the native checker on a small model under the address, undefined-behaviour and thread
sanitizers; they exit with an error at the first finding.

    cd tests && python -m native.sanitize
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from random_checkpoints import ODD, random_tensors, random_tokens
from reference_formats import pack_model

from native import build, manifest

KINDS = ("address,undefined", "thread")
THREADS = 3


def main() -> None:
    tensors, tokens = random_tensors(ODD), random_tokens(ODD, 270)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in KINDS:
            flags = [f"-fsanitize={kind}", "-fno-sanitize-recover=all", "-g", "-O0", "-Wno-tsan"]
            program = build.build("g++", folder, flags, link="-rdynamic")
            for dtype in ("float32", "float16", "int8"):
                packed = pack_model(ODD, tensors, dtype)
                files = manifest.write(
                    folder, ODD, dtype, packed, tokens, threads=THREADS, chunk=200
                )
                # Without randomised addresses, where the thread sanitizer finds its shadow taken.
                command = ["setarch", "-R", str(program), *map(str, files)]
                print(f"{kind}, {dtype}, {THREADS} threads", flush=True)
                subprocess.run(command, check=True, timeout=600)


if __name__ == "__main__":
    main()
