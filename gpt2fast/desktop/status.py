"""The line below the page: what happens, how fast, how much the model can still read."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QLabel, QProgressBar, QStatusBar, QToolButton, QWidget

from gpt2fast.desktop.colours import LEVELS


class Status(QStatusBar):
    """Labels for the pace, the context and the model, and a bar for loading one."""

    stopped = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.legend, self.pace, self.context = QLabel(), QLabel(), QLabel()
        self.model = QToolButton()
        self.model.setAutoRaise(True)
        self.model.setText("no model")
        self.bar, self.bar_stop = QProgressBar(), QToolButton()
        self.bar.setFixedWidth(160)
        self.bar_stop.setText("\u2715")
        self.bar_stop.setAutoRaise(True)
        self.bar_stop.clicked.connect(self.stopped)
        for label in (self.legend, self.pace, self.context):
            label.setContentsMargins(6, 0, 6, 0)
        self.legend.hide()
        for widget, name in (
            (self.legend, "Colours"),
            (self.pace, "Pace"),
            (self.context, "Context"),
            (self.bar, "Loading"),
            (self.bar_stop, "Stop loading"),
            (self.model, "Model"),
        ):
            widget.setAccessibleName(name)
            self.addPermanentWidget(widget)
        self.loaded()

    def loading(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage of loading is; it only moves where nothing is known."""
        self.showMessage(stage)
        self.bar.setRange(0, 1000 if total else 0)
        self.bar.setValue(1000 * done // max(total, 1))
        self.bar.show()
        self.bar_stop.show()

    def loaded(self) -> None:
        """Take the bar away."""
        self.clearMessage()
        self.bar.hide()
        self.bar_stop.hide()

    def show_legend(self, shown: bool, *, dark: bool) -> None:
        """Explain the colours, or do not."""
        shades = [(level.name, level.colour(dark)) for level in LEVELS]
        self.legend.setText(
            " ".join(
                f'<span style="background-color: {colour}">&nbsp;{name}&nbsp;</span>'
                for name, colour in shades
                if colour is not None
            )
        )
        self.legend.setVisible(shown)
