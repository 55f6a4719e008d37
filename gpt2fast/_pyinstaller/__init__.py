"""What PyInstaller needs to freeze a program that uses gpt2fast; it finds this by itself."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return where the hooks lie, as PyInstaller's entry point `pyinstaller40` asks."""
    return [str(Path(__file__).parent)]
