"""The menus."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QMessageBox

from gpt2fast.desktop import dialogs

if TYPE_CHECKING:
    from gpt2fast.desktop.window import Window

KEYS = """\
Tab, Ctrl+Space: three ways to go on; again: three others
1, 2, 3, or the arrows and Enter: take one
Esc: stop at once; once more: put the alternatives away
Ctrl+Enter: write on until Esc
Ctrl+L: colour words by how probable they are to the model
Shift+Tab: from the page to the controls
A model or a text that is dropped on the page is opened.
"""


def add_menus(window: Window) -> QMenu:
    """Fill the menu bar; return the menu of models."""
    bar, draft, controls = window.menuBar(), window.draft, window.controls
    standard = QKeySequence.StandardKey
    file = bar.addMenu("&File")
    _add(file, "&New", draft.new, standard.New)
    _add(file, "&Open\u2026", draft.open, standard.Open)
    _add(file, "&Save", draft.save, standard.Save)
    _add(file, "Save &As\u2026", draft.save_as, standard.SaveAs)
    file.addSeparator()
    _add(file, "&Quit", window.close, standard.Quit)
    write = bar.addMenu("&Write")
    write.addActions([controls.ask, controls.more, controls.stop, controls.colours])
    models = bar.addMenu("&Model")
    _add(models, "Open a model &file\u2026", lambda: window.open_model(dialogs.model_file(window)))
    _add(models, "Open a f&older\u2026", lambda: window.open_model(dialogs.model_folder(window)))
    _add(models, "From the &Hub\u2026", lambda: window.open_model(dialogs.model_name(window)))
    _add(models, "The one in the &package", lambda: window.open_model("tales"))
    _add(bar.addMenu("&Help"), "&Keys", lambda: _show_keys(window), standard.HelpContents)
    return models


def _add(
    menu: QMenu,
    text: str,
    run: Callable[[], object],
    key: QKeySequence.StandardKey | None = None,
) -> QAction:
    action = menu.addAction(text)
    action.triggered.connect(lambda: run())
    if key is not None:
        action.setShortcuts(key)
    return action


def _show_keys(window: Window) -> None:
    box = QMessageBox(QMessageBox.Icon.NoIcon, "Keys", KEYS, parent=window)
    box.open()
