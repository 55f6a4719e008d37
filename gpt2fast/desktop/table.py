"""The alternatives, one a row: its key, its words, the probability of the first of them."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QAccessible, QAccessibleEvent, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from gpt2fast.desktop.offers import Offer
from gpt2fast.desktop.settings import ALTERNATIVES

PADDING = 6  # pixels above and below the words
LINES = 2  # of each alternative that fit without scrolling


class Table(QTableWidget):
    """Shows alternatives; a click takes one."""

    taken = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(ALTERNATIVES, 3, parent)
        self.setAccessibleName("Alternatives")
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # the keys stay with the text
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setShowGrid(False)
        self.setFrameStyle(0)
        self.setWordWrap(True)
        self.verticalHeader().hide()
        self.horizontalHeader().hide()
        for column, mode in enumerate((_FIXED, _STRETCH, _FIXED)):
            self.horizontalHeader().setSectionResizeMode(column, mode)
        for row in range(ALTERNATIVES):
            for column, alignment in enumerate((_MIDDLE, _LEFT, _MIDDLE)):
                item = QTableWidgetItem()
                item.setTextAlignment(alignment)
                self.setItem(row, column, item)
            self._cell(row, 0).setText(str(row + 1))
            self._cell(row, 2).setToolTip("How probable its first token is to the model")
        line = self.fontMetrics().lineSpacing()
        self.verticalHeader().setMinimumSectionSize(line + 2 * PADDING)
        self.setFixedHeight((line * LINES + PADDING) * ALTERNATIVES)
        self.cellClicked.connect(lambda row, _: self.taken.emit(row))

    def _cell(self, row: int, column: int) -> QTableWidgetItem:
        item = self.item(row, column)
        assert item is not None
        return item

    def show_offers(self, offers: Sequence[Offer]) -> None:
        """Show what there is of the alternatives; the selected row stays."""
        for row in range(ALTERNATIVES):
            offer = offers[row] if row < len(offers) else None
            self.setRowHidden(row, offer is None)
            if offer is not None:
                self._cell(row, 1).setText(one_line(offer.text))
                self._cell(row, 2).setText(percent(offer.probability))
        self.resizeRowsToContents()
        if self.currentRow() < 0:
            self.selectRow(0)

    def clear_offers(self) -> None:
        """Show none."""
        self.clearSelection()
        self.setCurrentCell(-1, -1)
        for row in range(ALTERNATIVES):
            self.setRowHidden(row, True)

    def move_selection(self, by: int) -> None:
        """Select the alternative above or below, past the end the one at the other end."""
        rows = [row for row in range(ALTERNATIVES) if not self.isRowHidden(row)]
        if rows:
            self.selectRow(rows[(self.currentRow() + by) % len(rows)])
            event = QAccessibleEvent(self, QAccessible.Event.Selection)
            QAccessible.updateAccessibility(event)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Wrap the words anew."""
        super().resizeEvent(event)
        width = self.fontMetrics().horizontalAdvance("100.0%") + 16
        self.setColumnWidth(0, width)
        self.setColumnWidth(2, width)
        self.resizeRowsToContents()


_FIXED, _STRETCH = QHeaderView.ResizeMode.Fixed, QHeaderView.ResizeMode.Stretch
_MIDDLE = Qt.AlignmentFlag.AlignCenter
_LEFT = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft


def one_line(text: str) -> str:
    """Return a text in one line, with an arrow for each end of a paragraph."""
    lines = [line.strip() for line in text.split("\n")]
    return " \u21b5 ".join(line for line in lines if line) or "\u21b5"


def percent(probability: float) -> str:
    """Return a probability for people."""
    share = 100 * probability
    return f"{share:.0f}%" if share >= 9.5 else f"{share:.1f}%" if share >= 0.05 else "<0.1%"
