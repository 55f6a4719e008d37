"""The page: a plain text editor that knows the keys of the writing model."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QMargins, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QDragEnterEvent,
    QDropEvent,
    QFontDatabase,
    QKeyEvent,
    QPalette,
    QResizeEvent,
    QTextCharFormat,
    QTextCursor,
)
from PySide6.QtWidgets import QPlainTextEdit, QTextEdit, QWidget

from gpt2fast.desktop.colours import LEVELS, level
from gpt2fast.desktop.spans import Span

MEASURE = 68  # widest line, in average characters
SERIFS = ("Charter", "Iowan Old Style", "Georgia", "Cambria", "Noto Serif", "DejaVu Serif")
_PARAGRAPH = "\u2029"  # what QTextCursor says where a line ends
_DIGITS = (Qt.Key.Key_1, Qt.Key.Key_2, Qt.Key.Key_3)


class Editor(QPlainTextEdit):
    """Text, and signals for the keys that are about the model.

    While `offering`, the keys 1 to 3, the arrows up and down and Enter are about the alternatives.
    """

    asked = Signal()  # Tab, Ctrl+Space
    wanted_more = Signal()  # Ctrl+Enter
    stopped = Signal()  # Esc
    taken = Signal(int)  # the alternative of this row; -1: the one that is selected
    moved = Signal(int)  # one alternative up or down
    typed = Signal()  # anything else that changes the text
    dropped = Signal(str)  # a file

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.offering = False
        self.setAccessibleName("Draft")
        self.setAccessibleDescription("Tab asks for three alternatives, Ctrl+Enter writes on")
        self.setPlaceholderText("Write something, then press Tab")
        self.setFrameStyle(0)
        self.setAutoFillBackground(True)  # the margins are part of the page
        self.setAcceptDrops(True)
        self.setCursorWidth(2)
        font = self.font()
        families = [name for name in SERIFS if name in QFontDatabase.families()]
        font.setFamilies([*families, "serif"])
        font.setPointSizeF(font.pointSizeF() * 1.35)
        self.setFont(font)

    def text(self) -> str:
        """Return the draft, its lines ended by "\\n"."""
        return self.document().toRawText().replace(_PARAGRAPH, "\n")

    def boundary(self, position: int) -> int:
        """Return the position, or the next one if that is between the halves of a character."""
        return position + ("\udc00" <= self.document().characterAt(position) <= "\udfff")

    def text_between(self, start: int, end: int) -> str:
        """Return the text between two positions, in UTF-16 units."""
        cursor = QTextCursor(self.document())
        cursor.setPosition(start)
        cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
        return cursor.selectedText().replace(_PARAGRAPH, "\n")

    def insert(self, text: str, at: QTextCursor, *, joined: bool = False) -> None:
        """Insert text; one step of undo, together with the insertion before it if `joined`."""
        (at.joinPreviousEditBlock if joined else at.beginEditBlock)()
        at.insertText(text)
        at.endEditBlock()
        self.ensureCursorVisible()

    def colour(self, spans: Sequence[Span], start: int, *, dark: bool) -> None:
        """Lay the colours of probability under the text, whose spans begin at `start`."""
        found, formats = [], {shade: _background(shade.colour(dark)) for shade in LEVELS}
        cursor = QTextCursor(self.document())
        for span in spans:
            background = formats[level(span.probability)]
            if background is not None:
                selection = QTextEdit.ExtraSelection()
                cursor.setPosition(start + span.start)
                cursor.setPosition(start + span.end, QTextCursor.MoveMode.KeepAnchor)
                selection.cursor, selection.format = cursor, background  # copies of them
                found.append(selection)
        self.setExtraSelections(found)

    def is_dark(self) -> bool:
        """Tell whether the page is dark."""
        return self.palette().color(QPalette.ColorRole.Base).lightness() < 128

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Take the keys that are about the model; leave the rest to the editor."""
        if not self._take(event):
            before = self.document().revision()
            super().keyPressEvent(event)
            if self.document().revision() != before:
                self.typed.emit()

    def _take(self, event: QKeyEvent) -> bool:
        key, modifiers = (
            Qt.Key(event.key()),
            event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier,
        )
        plain = modifiers == Qt.KeyboardModifier.NoModifier
        control = modifiers == Qt.KeyboardModifier.ControlModifier
        alt = modifiers == Qt.KeyboardModifier.AltModifier
        enter = key in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        if (plain and key == Qt.Key.Key_Tab) or (control and key == Qt.Key.Key_Space):
            self.asked.emit()
        elif control and enter:
            self.wanted_more.emit()
        elif key == Qt.Key.Key_Escape:
            self.stopped.emit()
        elif not self.offering:
            return False
        elif key in _DIGITS and (plain or alt):
            self.taken.emit(_DIGITS.index(key))
        elif plain and enter:
            self.taken.emit(-1)
        elif plain and key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self.moved.emit(1 if key == Qt.Key.Key_Down else -1)
        else:
            return False
        return True

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Keep lines at a length that is read with ease, in the middle of the window."""
        width = self.fontMetrics().averageCharWidth() * MEASURE
        side = max(24, (self.width() - width) // 2)
        margins = QMargins(side, 20, side, 8)
        if margins != self.viewportMargins():
            self.setViewportMargins(margins)
        super().resizeEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        """Welcome a file as well as text."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()
        else:
            super().dragEnterEvent(event)

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        """Tell of a file; text goes where it is dropped."""
        files = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if files:
            event.acceptProposedAction()
            self.dropped.emit(files[0])
        else:
            super().dropEvent(event)


def _background(colour: str | None) -> QTextCharFormat | None:
    if colour is None:
        return None
    background = QTextCharFormat()
    background.setBackground(QColor(colour))
    return background
