"""The draft as a file: opened, saved, and never lost without a question."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QObject, Signal

from gpt2fast.desktop import dialogs
from gpt2fast.desktop.editor import Editor
from gpt2fast.desktop.textfile import Form, read_text, write_text


class Draft(QObject):
    """What the editor holds and the file it belongs to, if any."""

    renamed = Signal()

    def __init__(self, editor: Editor) -> None:
        super().__init__(editor)
        self._editor = editor
        self._form = Form()
        self.path: Path | None = None

    @property
    def name(self) -> str:
        """The name for the title of the window."""
        return self.path.name if self.path else "Untitled"

    def new(self) -> None:
        """Begin another draft, if this one may go."""
        if self.may_go():
            self._replace("", Form(), None)

    def open(self, path: str = "") -> None:
        """Open a text, by default the one that is chosen, if this draft may go."""
        if not self.may_go():
            return
        chosen = path or dialogs.text_to_open(self._editor, self._folder)
        if not chosen:
            return
        try:
            text, form = read_text(Path(chosen))
        except (OSError, ValueError) as error:
            dialogs.failure(self._editor, f"open {Path(chosen).name}", str(error))
        else:
            self._replace(text, form, Path(chosen))

    def save(self) -> bool:
        """Save to the draft's file, or where the answer says; return whether it was saved."""
        return self._write(self.path) if self.path else self.save_as()

    def save_as(self) -> bool:
        """Save where the answer says; return whether it was saved."""
        chosen = dialogs.text_to_save(self._editor, str(self.path or "Untitled.txt"))
        return bool(chosen) and self._write(Path(chosen))

    def may_go(self) -> bool:
        """Ask what becomes of changes, if there are any; return whether to go on."""
        if not self._editor.document().isModified():
            return True
        answer = dialogs.unsaved(self._editor, self.name)
        return answer == "discard" or (answer == "save" and self.save())

    @property
    def _folder(self) -> str:
        return str(self.path.parent) if self.path else ""

    def _write(self, path: Path) -> bool:
        try:
            write_text(path, self._editor.text(), self._form)
        except OSError as error:
            dialogs.failure(self._editor, f"save {path.name}", str(error))
            return False
        self.path = path
        self._editor.document().setModified(False)
        self.renamed.emit()
        return True

    def _replace(self, text: str, form: Form, path: Path | None) -> None:
        self._editor.setPlainText(text)
        self._form, self.path = form, path
        self.renamed.emit()
