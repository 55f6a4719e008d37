"""What stands below the page: the alternatives, or how to get them."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel, QStackedWidget, QWidget

from gpt2fast.desktop.offers import Offer
from gpt2fast.desktop.table import Table

HINT = "Tab \u2002three ways to go on \u2003 Ctrl+Enter \u2002write on \u2003 Esc \u2002stop"


class Panel(QStackedWidget):
    """As high without alternatives as with them, so that the page never jumps."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = Table()
        hint = QLabel(HINT)
        hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        hint.setEnabled(False)
        self.addWidget(hint)
        self.addWidget(self.table)
        self.setFixedHeight(self.table.height())

    def show_offers(self, offers: Sequence[Offer]) -> None:
        """Show alternatives, or the hint if there are none."""
        if offers:
            self.table.show_offers(offers)
        else:
            self.table.clear_offers()
        self.setCurrentIndex(1 if offers else 0)
