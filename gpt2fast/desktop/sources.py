"""Telling models from texts by their names."""

from __future__ import annotations

from pathlib import Path

MODEL_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".index")


def is_model(path: Path) -> bool:
    """Tell whether a path is to be opened as a model: a folder, or a file of that kind."""
    return path.is_dir() or path.suffix.lower() in MODEL_SUFFIXES
