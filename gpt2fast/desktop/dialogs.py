"""The questions that the window asks; each in its own function, so that a test can answer it."""

from __future__ import annotations

from typing import Literal

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QInputDialog, QMessageBox, QWidget

MODELS = "Models (*.safetensors *.gguf *.bin *.pt *.index);;All files (*)"
TEXTS = "Texts (*.txt *.md);;All files (*)"


def model_file(parent: QWidget) -> str:
    """Ask for a model file; "" if there is none."""
    return QFileDialog.getOpenFileName(parent, "Open a model", "", MODELS)[0]


def model_folder(parent: QWidget) -> str:
    """Ask for the folder of a checkpoint; "" if there is none."""
    return QFileDialog.getExistingDirectory(parent, "Open a checkpoint's folder")


def model_name(parent: QWidget) -> str:
    """Ask for the name of a model of the Hub; "" if there is none."""
    label = "gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2 or ORGANISATION/NAME"
    name, given = QInputDialog.getText(parent, "A model of the Hugging Face Hub", label)
    return name.strip() if given else ""


def text_to_open(parent: QWidget, folder: str) -> str:
    """Ask for a text; "" if there is none."""
    return QFileDialog.getOpenFileName(parent, "Open a text", folder, TEXTS)[0]


def text_to_save(parent: QWidget, path: str) -> str:
    """Ask where to save the text; "" for nowhere."""
    return QFileDialog.getSaveFileName(parent, "Save the text", path, TEXTS)[0]


def unsaved(parent: QWidget, name: str) -> Literal["save", "discard", "cancel"]:
    """Ask what becomes of changes."""
    buttons = QMessageBox.StandardButton
    answer = QMessageBox.question(
        parent,
        "Unsaved changes",
        f"Save the changes to {name}?",
        buttons.Save | buttons.Discard | buttons.Cancel,
        buttons.Save,
    )
    if answer == buttons.Save:
        return "save"
    return "discard" if answer == buttons.Discard else "cancel"


def failure(parent: QWidget, what: str, why: str) -> None:
    """Say what went wrong; the window goes on meanwhile."""
    box = QMessageBox(
        QMessageBox.Icon.Warning, "gpt2fast write", f"Could not {what}.", parent=parent
    )
    box.setInformativeText(why)
    box.setTextFormat(Qt.TextFormat.PlainText)  # whatever a file is called, it is no markup
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.open()
