"""The window: a page, the alternatives under it, and the writer behind it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QCloseEvent, QPalette, QTextCursor
from PySide6.QtWidgets import QFrame, QMainWindow, QVBoxLayout, QWidget

from gpt2fast.desktop import dialogs, events
from gpt2fast.desktop.controls import Controls
from gpt2fast.desktop.draft import Draft
from gpt2fast.desktop.editor import Editor
from gpt2fast.desktop.menus import add_menus
from gpt2fast.desktop.offers import Offer
from gpt2fast.desktop.pace import Pace
from gpt2fast.desktop.panel import Panel
from gpt2fast.desktop.preferences import Preferences
from gpt2fast.desktop.prompt import prompt_of, reach
from gpt2fast.desktop.sources import is_model
from gpt2fast.desktop.status import Status
from gpt2fast.desktop.writer import Writer

BUNDLED = "tales"
PAUSE = 250  # milliseconds after the last key, before the draft is counted and coloured


class Window(QMainWindow):
    """A draft, and a model that goes on with it.

    `idle` tells that a job of the writer has ended and what it did is on the screen.
    """

    idle = Signal()
    _told = Signal(object)

    def __init__(self, preferences: Preferences, **load_options: Any) -> None:
        super().__init__()
        self._preferences = preferences
        self.editor, self.panel, self.status = Editor(), Panel(), Status()
        self.controls = Controls(preferences.settings)
        self.draft = Draft(self.editor)
        self._pace = Pace()
        self._job = 0  # the one whose events count
        self._source = ""  # of the model that was asked for last
        self._kind = ""  # "open", "offer", "more" or "score" while it runs
        self._offers: list[Offer] = []
        self._at = QTextCursor(self.editor.document())  # where the new text goes
        self._written = False  # whether the job has put in text
        self._pause = QTimer(self, singleShot=True, interval=PAUSE)
        self._told.connect(self._handle, Qt.ConnectionType.QueuedConnection)
        self.writer = Writer(self._told.emit, **load_options)
        self._lay_out()
        self._connect()
        self._retitle()

    def _lay_out(self) -> None:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.editor, 1)
        column.addWidget(QFrame(frameShape=QFrame.Shape.HLine, frameShadow=QFrame.Shadow.Sunken))
        column.addWidget(self.panel)
        self.setCentralWidget(page)
        self.addToolBar(self.controls)
        self.setStatusBar(self.status)
        self.resize(900, 640)
        if self._preferences.geometry is not None:
            self.restoreGeometry(self._preferences.geometry)
        self._match_page()
        self.editor.setFocus()

    def _connect(self) -> None:
        editor, controls = self.editor, self.controls
        editor.asked.connect(self.ask)
        editor.wanted_more.connect(self.write_on)
        editor.stopped.connect(self.stop)
        editor.taken.connect(self.take)
        editor.moved.connect(self.panel.table.move_selection)
        editor.typed.connect(self._dismiss)
        editor.dropped.connect(self.open_dropped)
        editor.cursorPositionChanged.connect(self._follow_cursor)
        editor.textChanged.connect(self._pause.start)
        editor.document().modificationChanged.connect(self.setWindowModified)
        self.panel.table.taken.connect(self.take)
        self.draft.renamed.connect(self._retitle)
        self.status.stopped.connect(self.stop)
        controls.ask.triggered.connect(self.ask)
        controls.more.triggered.connect(self.write_on)
        controls.stop.triggered.connect(self.stop)
        controls.colours.toggled.connect(self._show_colours)
        controls.changed.connect(self._pause.start)
        self._pause.timeout.connect(self._look_again)
        self.status.model.setMenu(add_menus(self))
        self.status.model.setPopupMode(self.status.model.ToolButtonPopupMode.InstantPopup)

    @property
    def busy(self) -> bool:
        """Whether a job of the writer runs."""
        return bool(self._kind)

    # What the user asks for.

    def open_model(self, source: str) -> None:
        """Load a model in the background."""
        if source:
            self._dismiss()
            self._source = source
            self._begin("open", self.writer.open(source))
            self.status.loading(f"opening {Path(source).name}", 0, 0)

    @Slot()
    def ask(self) -> None:
        """Ask for alternatives at the cursor; others, if some are shown."""
        if self._may_write():
            text = self._text_before_cursor()
            self._begin("offer", self.writer.offer(text, self.controls.settings))

    @Slot()
    def write_on(self) -> None:
        """Let the model write at the cursor until it is stopped."""
        if self._may_write():
            self._dismiss()
            text = self._text_before_cursor()
            self._written = False
            self._begin("more", self.writer.go_on(text, self.controls.settings))

    @Slot()
    def stop(self) -> None:
        """Stop what runs and keep what there is; with nothing to stop, put alternatives away."""
        if self._kind:
            self.writer.stop()
        else:
            self._dismiss()

    @Slot(int)
    def take(self, row: int) -> None:
        """Put an alternative into the text; -1 is the selected one."""
        chosen = self.panel.table.currentRow() if row < 0 else row
        if 0 <= chosen < len(self._offers):
            text = self._offers[chosen].text
            self._dismiss()
            self.editor.insert(text, self._at)

    def open_dropped(self, path: str) -> None:
        """Open a file that was dropped on the window: a model, or else a text."""
        if is_model(Path(path)):
            self.open_model(path)
        else:
            self.draft.open(path)

    # What happens.

    def _begin(self, kind: str, job: int) -> None:
        self._job, self._kind = job, kind
        if kind in ("offer", "more"):
            self._pace = Pace()

    @Slot(object)
    def _handle(self, event: events.Event) -> None:
        """Show an event of the writer's thread."""
        if isinstance(event, events.Opened):
            self._opened(event)
        if event.job != self._job or not self._kind:
            return
        match event:
            case events.Loading():
                self.status.loading(event.stage, event.done, event.total)
            case events.Offered():
                self._count(event.n_tokens)
                self._show_offers(event.offers)
            case events.Wrote():
                self._count(event.n_tokens)
                self.editor.insert(event.text, self._at, joined=self._written)
                self._written = True
            case events.Scored():
                self.editor.colour(event.spans, event.start, dark=self.editor.is_dark())
            case events.Failed():
                dialogs.failure(self, event.what, event.why)
        if isinstance(event, events.Ended | events.Failed):
            self._end()

    def _opened(self, event: events.Opened) -> None:
        self._preferences.model = event.source
        self.status.model.setText(event.name)
        self.status.model.setToolTip(event.facts)
        self._pause.start()

    def _end(self) -> None:
        kind, self._kind = self._kind, ""
        if kind == "open":
            self.status.loaded()
            if self.writer.model is None and self._source != BUNDLED:
                self.open_model(BUNDLED)
                return
        if kind in ("offer", "more") and self.controls.colours.isChecked():
            self._pause.start()
        self.idle.emit()

    def _count(self, n_tokens: int) -> None:
        self._pace.add(n_tokens, time.monotonic())
        self.status.pace.setText(self._pace.shown)

    def _show_offers(self, offers: list[Offer]) -> None:
        self._offers = offers
        self.editor.offering = bool(offers)
        self.panel.show_offers(offers)

    @Slot()
    def _dismiss(self) -> None:
        """Put the alternatives away, and stop what writes; loading goes on."""
        if self._kind in ("offer", "more"):
            self._kind = ""
            self.writer.stop()
        self._show_offers([])

    @Slot()
    def _follow_cursor(self) -> None:
        if self._offers and self.editor.textCursor().position() != self._at.position():
            self._dismiss()

    # What the model reads.

    def _may_write(self) -> bool:
        if self._kind == "open":
            self.status.showMessage("A model is being loaded; Esc stops that", 4000)
        return self._kind != "open" and self.writer.model is not None

    def _text_before_cursor(self) -> str:
        """Return what the model may need of the text before the cursor, where new text goes."""
        cursor = self.editor.textCursor()
        cursor.setPosition(cursor.selectionEnd())
        self.editor.setTextCursor(cursor)
        self._at = cursor
        return self.editor.text_between(self._start(cursor.position()), cursor.position())

    def _start(self, position: int) -> int:
        assert self.writer.model is not None
        return self.editor.boundary(reach(position, self.writer.model.config.n_ctx))

    @Slot()
    def _look_again(self) -> None:
        """Count the draft's tokens and colour it, now that nobody types."""
        model = self.writer.model
        if model is None:
            return
        position = self.editor.textCursor().position()
        start, n_ctx = self._start(position), model.config.n_ctx
        room = self.controls.settings.room(n_ctx)
        text = self.editor.text_between(start, position)
        prompt = prompt_of(text, model.tokenizer.encode, n_ctx, room)
        cut = " (the end of the draft)" if prompt.n_dropped or start else ""
        self.status.context.setText(f"reads {len(prompt.tokens)} of {n_ctx - room} tokens{cut}")
        if self.controls.colours.isChecked() and not self._kind:
            block = self.editor.textCursor().block()
            end = block.position() + block.length() - 1
            text = self.editor.text_between(start, end)
            self._begin("score", self.writer.score(text, start))

    @Slot(bool)
    def _show_colours(self, shown: bool) -> None:
        self.status.show_legend(shown, dark=self.editor.is_dark())
        if shown:
            self._pause.start(0)
        else:
            self.editor.setExtraSelections([])

    # The window itself.

    @Slot()
    def _retitle(self) -> None:
        self.setWindowTitle(f"{self.draft.name}[*] \u2013 gpt2fast write")
        self.setWindowModified(self.editor.document().isModified())

    def _match_page(self) -> None:
        """Give the margins of the page the colour of the page."""
        palette = QPalette(self.palette())
        palette.setColor(QPalette.ColorRole.Window, palette.color(QPalette.ColorRole.Base))
        self.editor.setPalette(palette)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        """Follow the system from light to dark and back."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "status"):
            self._match_page()
            self._show_colours(self.controls.colours.isChecked())

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """Ask about changes; then end the writer and remember the settings."""
        if not self.draft.may_go():
            event.ignore()
            return
        self._kind = ""
        self.writer.close()
        self._preferences.geometry = self.saveGeometry()
        self._preferences.settings = self.controls.settings
        event.accept()
