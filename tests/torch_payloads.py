"""Pickles that would run code: what the advisories on scanners and safe loaders describe.

Each would create the file `sentinel` where its functions exist and pickle.loads is used. The names
come from the advisories of fickling, picklescan, torch (weights_only) and Hugging Face's hub.
"""

from __future__ import annotations

import marshal
import struct

from torch_save_files import ORDERED_DICT, REBUILD, call, glob, pickled, plain, text, tuple_of

SYSTEM = glob("os", "system")


def payloads(sentinel: str) -> dict[str, bytes]:
    """Return the opcodes of payloads that work with the pickle of this Python on POSIX."""
    command, code = plain(f"touch {sentinel}"), plain(f"open({sentinel!r}, 'w').close()")
    words = plain(["touch", sentinel])
    system = call(glob("importlib", "import_module"), text("os"))
    compiled = marshal.dumps(compile(f"open({sentinel!r}, 'w').close()", "x", "exec"))
    function = call(
        glob("types", "FunctionType"),
        call(glob("marshal", "loads"), _bytes(compiled)),
        b"}",
    )
    return {
        "os.system": call(SYSTEM, command),
        "posix.system": call(glob("posix", "system"), command),
        "subprocess.Popen": call(glob("subprocess", "Popen"), words),
        "subprocess.check_output": call(glob("subprocess", "check_output"), words),
        "builtins.exec": call(glob("builtins", "exec"), code),
        "builtins.eval": call(glob("builtins", "eval"), code),
        "builtins.open": call(glob("builtins", "open"), text(sentinel), text("w")),
        "getattr": call(call(glob("builtins", "getattr"), system, text("system")), command),
        "attrgetter": call(
            call(call(glob("operator", "attrgetter"), text("system")), system), command
        ),
        "methodcaller": call(
            call(glob("operator", "methodcaller"), text("system"), command), system
        ),
        "partial": call(call(glob("functools", "partial"), SYSTEM, command)),
        "map": call(
            glob("builtins", "list"), call(glob("builtins", "map"), SYSTEM, plain([command]))
        ),
        "pkgutil.resolve_name": call(
            call(glob("pkgutil", "resolve_name"), text("os:system")), command
        ),
        "runpy": call(glob("runpy", "_run_code"), code, b"}"),
        "timeit": call(
            glob("timeit", "timeit"), code, text("pass"), glob("time", "perf_counter"), b"K\1"
        ),
        "cProfile": call(glob("cProfile", "run"), code),
        "pty.spawn": call(glob("pty", "spawn"), words),
        "InteractiveInterpreter": call(
            call(glob("operator", "methodcaller"), text("runsource"), code),
            call(glob("code", "InteractiveInterpreter")),
        ),
        "uuid": call(glob("uuid", "_get_command_stdout"), text("touch"), text(sentinel)),
        "pathlib": call(
            call(glob("operator", "methodcaller"), text("touch")),
            call(glob("pathlib", "Path"), text(sentinel)),
        ),
        "logging": call(glob("logging", "FileHandler"), text(sentinel)),
        "zipfile": call(glob("zipfile", "ZipFile"), text(sentinel), text("w")),
        "numpy": call(glob("numpy.testing._private.utils", "runstring"), code, b"}"),
        "code object": call(function),
        "nested pickle": call(
            glob("pickle", "loads"), _bytes(pickled(call(SYSTEM, command)))
        ),
        "name from the memo": call(
            text("os") + b"q\0" + text("system") + b"q\1h\0h\1\x93", command
        ),
        "dotted name": call(text("subprocess") + text("os.system") + b"\x93", command),
        "INST": b"(" + command + b"ios\nsystem\n",
        "OBJ": b"(" + SYSTEM + command + b"o",
        "text opcodes": b"cos\nsystem\n(S'touch " + sentinel.encode() + b"'\ntR",
    }  # fmt: skip


def dormant(sentinel: str) -> dict[str, bytes]:
    """Return the opcodes of payloads that need another library, version, system or loader."""
    command = plain(f"touch {sentinel}")
    names = {
        "nt.system": ("nt", "system"),
        "webbrowser": ("webbrowser", "open"),
        "asyncio": ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
        "idlelib": ("idlelib.pyshell", "ModifiedInterpreter.runcommand"),
        "ensurepip": ("ensurepip", "_run_pip"),
        "lib2to3": ("lib2to3.pgen2.pgen", "ParserGenerator.make_label"),
        "bdb": ("bdb", "Bdb.run"),
        "f2py": ("numpy.f2py.crackfortran", "getlincoef"),
        "torch.load": ("torch", "load"),
        "torch.serialization": ("torch.serialization", "load"),
        "collect_env": ("torch.utils.collect_env", "run"),
        "bottleneck": ("torch.utils.bottleneck.__main__", "run_cprofile"),
        "config_module": ("torch.utils._config_module", "ConfigModule.load_config"),
        "execWrapper": ("torch.jit.unsupported_tensor_ops", "execWrapper"),
        "GuardBuilder": ("torch._dynamo.guards", "GuardBuilder.get"),
        "ShapeEnv": ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards"),
        "torch.hub": ("torch.hub", "load"),
        "tensor subclass": ("torch._tensor", "_rebuild_from_type_v2"),
        "wrapped": ("torch._utils", "_rebuild_wrapper_subclass"),
        "beyond the function": ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        "beyond the class": ("collections", "OrderedDict.__init__"),
        "storage of a module": ("torch.FloatStorage", "__class__"),
        "space": ("collections ", "OrderedDict"),
        "homoglyph": ("collections", "OrderedD\u0456ct"),
        "Python 2's names": ("__builtin__", "getattr"),
        "a model": ("transformers.models.gpt2.modeling_gpt2", "GPT2LMHeadModel"),
        "a dataclass": ("__main__", "GPTConfig"),
    }
    return {case: call(glob(*name), command) for case, name in names.items()} | {
        "extension registry": b"\x82\x01" + tuple_of(command) + b"R",
        "extension registry, wide": b"\x84\x01\0\0\0" + tuple_of(command) + b"R",
        "persistent id as text": b"Pstorage\n",
        "persistent id of a module": plain(("module", SYSTEM, "x.py", "import os")) + b"Q",
        "persistent id of a function": plain(("storage", SYSTEM, "0", "cpu", 1)) + b"Q",
        "call of a storage class": call(glob("torch", "FloatStorage"), b"K\1"),
        "call of a string": call(text("os.system"), command),
        "call without a tuple": ORDERED_DICT + plain([command]) + b"R",
        "attributes of a class": ORDERED_DICT + plain({"__setattr__": 1}) + b"b",
        "attributes of a list": b"]" + plain({"append": None}) + b"b",
        "tensor of a function": call(REBUILD, SYSTEM, *[plain(0)] * 5),
        "NEWOBJ": glob("subprocess", "Popen") + tuple_of(command) + b"\x81",
        "NEWOBJ_EX": glob("subprocess", "Popen") + tuple_of(command) + b"}\x92",
        "buffers out of band": b"\x97",
    }


def _bytes(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value
