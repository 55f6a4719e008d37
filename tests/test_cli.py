"""The command line, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpt2fast
from gpt2fast import cli
from gpt2fast.cli.terminal import READER_GONE

COMMAND = [sys.executable, "-m", "gpt2fast"]
PROMPT = "Once upon a time"


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], input=stdin, capture_output=True, check=False)


def test_generate_writes_the_text(capfd: pytest.CaptureFixture[str]) -> None:
    """Catches text that differs from the library's, and a summary that is not one line."""
    arguments = ["--seed", "3", "--max-new-tokens", "40", "--temperature", "0.7", "--top-k", "50"]
    assert cli.main(["generate", PROMPT, *arguments, "--top-p", "0.95", "--min-p", "0.01"]) == 0
    out, err = capfd.readouterr()
    with gpt2fast.load() as model:
        expected = model.generate(
            PROMPT, seed=3, max_new_tokens=40, temperature=0.7, top_k=50, top_p=0.95, min_p=0.01
        )
    assert out == expected.text + "\n"
    assert len(err.splitlines()) == 1
    for part in ("prompt 4 tokens", "generated 40 tokens", "length", "seed 3", "peak memory"):
        assert part in err


def test_prompts_from_stdin_and_file(tmp_path: Path) -> None:
    """Catches a prompt that depends on where it comes from, or that keeps the shell's newline."""
    options = ("--seed", "1", "--max-new-tokens", "5", "--quiet")
    expected = run("generate", PROMPT, *options)
    assert expected.stderr == b""
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT + "\n")
    for other in (
        run("generate", "-", *options, stdin=PROMPT.encode()),
        run("generate", *options, stdin=PROMPT.encode() + b"\n"),
        run("generate", "--file", str(path), *options),
    ):
        assert (other.returncode, other.stdout) == (0, expected.stdout)
    echoed = run("generate", PROMPT, "--echo", *options)
    assert echoed.stdout == PROMPT.encode() + expected.stdout


def test_json_is_one_object() -> None:
    """Catches output that is not JSON, or lacks what a script needs."""
    done = run("generate", PROMPT, "--json", "--max-new-tokens", "9", "--stop", ",", "--stop", ".")
    content = json.loads(done.stdout)
    keys = {"text", "tokens", "prompt_tokens", "finish_reason", "seed", "timings"}
    assert set(content) == keys
    with gpt2fast.load() as model:
        again = model.generate(PROMPT, max_new_tokens=9, stop=[",", "."], seed=content["seed"])
    assert (content["text"], content["tokens"]) == (again.text, again.tokens)
    assert content["finish_reason"] == again.finish_reason


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("as_json", [False, True])
def test_interrupt_keeps_the_text(as_json: bool) -> None:
    """Catches Ctrl-C that waits, loses text, or leaves a traceback."""
    options = ["--max-new-tokens", "508", "--ignore-eot", "--temperature", "0.7", "--seed", "1"]
    code = (
        "import os, signal, sys, threading\n"
        "from gpt2fast import cli, stream\n"
        "seen = []\n"
        "make = stream.Chunk\n"
        "def chunk(*values):\n"
        "    seen.append(values)\n"
        "    if len(seen) == 20: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return make(*values)\n"
        "stream.Chunk = chunk\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", PROMPT, *options, *["--json"] * as_json],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 130
    assert b"Traceback" not in done.stderr
    with gpt2fast.load() as model:
        whole = model.generate(PROMPT, max_new_tokens=60, ignore_eot=True, temperature=0.7, seed=1)
    text = json.loads(done.stdout)["text"] if as_json else done.stdout.decode().removesuffix("\n")
    assert whole.text.startswith(text)
    assert len(text) > 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_interrupt_of_the_process() -> None:
    """Catches a SIGINT during native work that is not acted on."""
    process = subprocess.Popen(
        [*COMMAND, "generate", PROMPT, "--max-new-tokens", "508", "--ignore-eot"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    assert process.returncode in (130, 0), errors  # 0 if it was faster than the signal
    assert first
    assert rest.endswith(b"\n")
    assert b"Traceback" not in errors


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
def test_reader_that_goes_away() -> None:
    """Catches a traceback or a message when stdout is closed early."""
    process = subprocess.Popen(
        [*COMMAND, "generate", PROMPT, "--max-new-tokens", "500", "--ignore-eot", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=20) == READER_GONE
    assert errors == b""
    process.stderr.close()


BAD: dict[str, tuple[list[str], int, str]] = {
    "no command": ([], 2, "COMMAND"),
    "unknown option": (["generate", "x", "--bogus"], 2, "--bogus"),
    "not a number": (["generate", "x", "--top-k", "many"], 2, "--top-k"),
    "top_p": (["generate", "x", "--top-p", "2"], 2, "top_p is 2.0; allowed"),
    "temperature": (["generate", "x", "--temperature=-1"], 2, "temperature is -1.0; allowed"),
    "length": (["generate", "x", "--max-new-tokens", "0"], 2, "max_new_tokens is 0; allowed"),
    "overflow": (["generate", "x", "--max-new-tokens", "9999"], 2, "but the context has 512"),
    "threads": (["generate", "x", "--threads", "0"], 2, "threads is 0; allowed"),
    "stop": (["generate", "x", "--stop", ""], 2, "stop is"),
    "seed": (["generate", "x", "--seed=-1"], 2, "seed is -1; allowed"),
    "dtype of a file": (["generate", "x", "--dtype", "float32"], 2, "int8"),
    "no model": (["generate", "x", "--model", "/nonexistent"], 1, "/nonexistent"),
    "no file": (["generate", "--file", "/nonexistent"], 1, "/nonexistent"),
    "two prompts": (["generate", "x", "--file", "y"], 2, "not both"),
    "info": (["info", "/nonexistent"], 1, "/nonexistent"),
    "convert": (["convert", "/nonexistent", "/nonexistent2"], 1, "/nonexistent"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, a wrong exit status, or an error that does not name its cause."""
    arguments, status, named = BAD[name]
    try:
        got: object = cli.main(arguments)
    except SystemExit as exit_:  # argparse
        got = exit_.code
    assert got == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("gpt2fast: error: ")
    assert err.count("\n") == 1
    assert named in err


def test_prompt_that_is_not_utf8() -> None:
    """Catches bytes that are guessed at."""
    done = run("generate", "-", stdin=b"caf\xe9")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"gpt2fast: error: stdin is not UTF-8: byte 3\n"


CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("name", [*CLOSED, "stderr full"])
def test_streams_that_the_parent_closed(name: str) -> None:
    """Catches a traceback, a wrong status, and a summary that goes where the text belongs."""
    if name == "stderr full" and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    redirected = CLOSED.get(name, "2>/dev/full")

    def shell(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        script = f'exec "$@" {redirected}'
        command = ["sh", "-c", script, "sh", *COMMAND, *arguments]
        return subprocess.run(command, input=b"", capture_output=True, check=False)

    done = shell("generate", "--max-new-tokens", "3", "--seed", "1", "--ignore-eot")
    expected = run("generate", "", "--max-new-tokens", "3", "--seed", "1", "--ignore-eot")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (b"" if name in ("stdout", "all") else expected.stdout)
    assert done.stderr.count(b"\n") == (1 if name in ("stdin", "stdout") else 0)
    failed = shell("generate", "x", "--top-p", "2")
    assert (failed.returncode, failed.stdout) == (2, b"")


def test_info(capfd: pytest.CaptureFixture[str]) -> None:
    """Catches facts that are missing."""
    assert cli.main(["info", "--threads", "1"]) == 0
    out, _ = capfd.readouterr()
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["dtype"] == "int8"
    assert rows["threads"] == "1"
    assert rows["parameters"] == "4,339,200"
    assert {"model", "shape", "fingerprint", "target", "memory"} <= set(rows)


def test_convert_then_generate(
    test_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a packed file that the next command does not take."""
    packed = tmp_path / "tales-float32.safetensors"
    source = str(test_data / "models" / "tales")
    assert cli.main(["convert", source, str(packed), "--dtype", "float32"]) == 0
    assert packed.exists()
    assert cli.main(["generate", PROMPT, "--model", str(packed), "--max-new-tokens", "4"]) == 0
    out, _ = capfd.readouterr()
    assert out.strip()


def test_convert_into_a_directory(
    test_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches a directory that is refused, or a file whose name the user is not told."""
    source = str(test_data / "models" / "tales")
    assert cli.main(["convert", source, str(tmp_path), "--dtype", "float16"]) == 0
    [packed] = tmp_path.iterdir()
    assert packed.name == "tales-float16.safetensors"
    assert str(packed) in capfd.readouterr().err


def test_help_is_quick() -> None:
    """Catches heavy imports before the command is known."""
    code = (
        "import sys; from gpt2fast import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
