"""PyInstaller's hook: modules that are imported by name or from compiled code, and the data.

The command line, the desktop app and the evaluation harness come along only if the program
imports them.
"""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

_APART = ("_pyinstaller", "bench", "cli", "desktop", "lm_eval", "__main__")


def _library(name: str) -> bool:
    return not name.removeprefix("gpt2fast.").startswith(_APART)


hiddenimports = collect_submodules("gpt2fast", filter=_library)
datas = collect_data_files("gpt2fast", includes=["models/*.safetensors", "golden/*.npz"])
