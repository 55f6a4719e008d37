"""The writing program as a user sees it, on a screen that nobody sees."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PySide6.QtTest", reason="PySide6 is not installed", exc_type=ImportError)
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from event_loop import Heart, run_until, wait
from PySide6.QtCore import QMimeData, QPointF, QSettings, Qt, QUrl
from PySide6.QtGui import QAction, QColor, QDropEvent, QPalette
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QMessageBox, QWidget

from gpt2fast.desktop import dialogs, events, writer
from gpt2fast.desktop.app import application
from gpt2fast.desktop.colours import LEVELS
from gpt2fast.desktop.offers import Offer
from gpt2fast.desktop.preferences import Preferences
from gpt2fast.desktop.settings import Settings
from gpt2fast.desktop.window import Window

Key, Modifier = Qt.Key, Qt.KeyboardModifier
BEGINNING = "There was once a king who had"
STALL = 0.05  # seconds: longest time for which the window may not answer


def stored(tmp_path: Path) -> Preferences:
    return Preferences(QSettings(str(tmp_path / "write.ini"), QSettings.Format.IniFormat))


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Window]:
    """A window without a model; whatever it would ask is an error."""
    for question in ("model_file", "model_folder", "model_name", "text_to_open", "text_to_save"):
        monkeypatch.setattr(dialogs, question, None)
    monkeypatch.setattr(dialogs, "unsaved", lambda *_: "discard")
    application()
    window = Window(stored(tmp_path), threads=1)
    window.show()
    yield window
    window.close()
    window.deleteLater()


@pytest.fixture
def window(bare: Window) -> Window:
    """A window with the bundled model and the beginning of a story."""
    bare.open_model("tales")
    wait(bare)
    bare.editor.insertPlainText(BEGINNING)
    return bare


def press(window: Window, key: Qt.Key, modifier: Qt.KeyboardModifier = Modifier.NoModifier) -> None:
    QTest.keyClick(window.editor, key, modifier)


def ask(window: Window) -> list[str]:
    """Ask for alternatives and return what the table shows of them."""
    press(window, Key.Key_Tab)
    wait(window)
    return shown(window)


def shown(window: Window) -> list[str]:
    table = window.panel.table
    rows = [row for row in range(table.rowCount()) if not table.isRowHidden(row)]
    found = [table.item(row, 1) for row in rows]
    return [item.text() for item in found if item is not None] if window.editor.offering else []


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        ([Key.Key_1], 0),
        ([Key.Key_3], 2),
        ([(Key.Key_2, Modifier.AltModifier)], 1),
        ([Key.Key_Return], 0),
        ([Key.Key_Down, Key.Key_Return], 1),
        ([Key.Key_Up, Key.Key_Enter], 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("asks", [(Key.Key_Tab,), (Key.Key_Space, Modifier.ControlModifier)])
def test_ask_and_take(window: Window, asks: tuple[Any, ...], keys: list[Any], row: int) -> None:
    """Catches a key that takes another alternative or none, and one that is typed as well."""
    press(window, *asks)
    wait(window)
    rows = shown(window)
    assert len(rows) == 3 and all(rows)
    for key in keys:
        press(window, *(key if isinstance(key, tuple) else (key,)))
    text = window.editor.text()
    assert text.startswith(BEGINNING)
    assert text[len(BEGINNING) :].split() == rows[row].replace("\u21b5", " ").split()
    assert shown(window) == []
    window.editor.undo()
    assert window.editor.text() == BEGINNING


def test_a_click_takes(window: Window) -> None:
    """Catches a table that only the keyboard reaches."""
    rows = ask(window)
    centre = window.panel.table.visualRect(window.panel.table.model().index(1, 1)).center()
    QTest.mouseClick(window.panel.table.viewport(), Qt.MouseButton.LeftButton, pos=centre)
    assert rows[1].split()[-1] in window.editor.text()


def test_typing_puts_alternatives_away(window: Window) -> None:
    """Catches alternatives to a text that is no longer there, and a key that is swallowed."""
    assert ask(window)
    QTest.keyClicks(window.editor, ", a")
    assert shown(window) == []
    press(window, Key.Key_1)
    assert window.editor.text() == BEGINNING + ", a1"
    assert ask(window)
    press(window, Key.Key_Left)
    assert shown(window) == []
    assert ask(window)
    press(window, Key.Key_Escape)
    assert shown(window) == []
    assert window.editor.text() == BEGINNING + ", a1"


def test_tab_again_asks_for_others(window: Window) -> None:
    """Catches a second Tab that shows the same or types a tab."""
    window.controls.length.setValue(40)
    assert ask(window) != ask(window)
    assert "\t" not in window.editor.text()


def test_alternatives_in_the_middle(window: Window) -> None:
    """Catches words that land at the end of the draft, or away from a character of two units."""
    window.editor.setPlainText("A king \U0001f600 and a queen.")
    cursor = window.editor.textCursor()
    cursor.setPosition(len("A king \U0001f600") + 1)
    window.editor.setTextCursor(cursor)
    ask(window)
    press(window, Key.Key_1)
    text = window.editor.text()
    assert text.startswith("A king \U0001f600") and text.endswith(" and a queen.")
    assert len(text) > len("A king \U0001f600 and a queen.")


def test_write_on_until_esc(window: Window) -> None:
    """Catches text that does not come live, a stop that is late, and a pace that is not shown."""
    press(window, Key.Key_Return, Modifier.ControlModifier)
    run_until(lambda: len(window.editor.text()) > len(BEGINNING))
    press(window, Key.Key_Escape)
    begun = time.monotonic()
    wait(window)
    assert time.monotonic() - begun < 0.5
    text = window.editor.text()
    assert text.startswith(BEGINNING) and window.editor.textCursor().atEnd()
    QTest.qWait(100)
    assert window.editor.text() == text
    window.editor.undo()
    assert window.editor.text() == BEGINNING


def test_pace_and_context_are_shown(window: Window) -> None:
    """Catches a status that stays empty."""
    press(window, Key.Key_Return, Modifier.ControlModifier)
    wait(window)
    assert window.status.pace.text().endswith(" tokens/s")
    run_until(lambda: "the end of the draft" in window.status.context.text())
    window.editor.setPlainText("Once upon a time")
    assert window.writer.model is not None
    n = len(window.writer.model.tokenizer.encode("Once upon a time"))
    room = 512 - Settings().length
    window.editor.moveCursor(window.editor.textCursor().MoveOperation.End)
    run_until(lambda: window.status.context.text() == f"reads {n} of {room} tokens")


def test_typing_stops_writing_on(window: Window) -> None:
    """Catches two writers in one line."""
    press(window, Key.Key_Return, Modifier.ControlModifier)
    run_until(lambda: len(window.editor.text()) > len(BEGINNING))
    QTest.keyClicks(window.editor, "#")
    text = window.editor.text()
    QTest.qWait(100)
    assert window.editor.text() == text and text.endswith("#")


def test_the_window_answers_while_the_model_writes(window: Window) -> None:
    """Catches work on the window's thread: in the best of three runs it answers all the time."""
    gaps = []
    for _ in range(3):
        window.editor.setPlainText(BEGINNING)
        heart = Heart()
        press(window, Key.Key_Return, Modifier.ControlModifier)
        wait(window)
        for _ in range(5):
            press(window, Key.Key_Tab)
            wait(window)
        gaps.append(heart.longest())
        assert heart.beats > 20
        if gaps[-1] <= STALL:
            return
    raise AssertionError(f"it did not answer for {min(gaps):.3f} s")


def test_colours(window: Window) -> None:
    """Catches colours on the wrong words, those that stay, and a page that counts as changed."""
    window.editor.setPlainText("Once upon a time there lived a zebra \U0001f600 in the wood.")
    window.editor.document().setModified(False)
    window.controls.colours.setChecked(True)
    wait(window, lambda: bool(window.editor.extraSelections()))
    found = {
        selection.cursor.selectedText(): selection.format.background().color().name()
        for selection in window.editor.extraSelections()
    }
    shades = {shade.colour(window.editor.is_dark()) for shade in LEVELS}
    assert set(found.values()) <= shades
    assert "time" not in found and "\U0001f600" in found
    assert not window.editor.document().isModified()
    assert window.status.legend.isVisible() and "surprising" in window.status.legend.text()
    window.controls.colours.setChecked(False)
    assert window.editor.extraSelections() == [] and not window.status.legend.isVisible()


def test_a_dark_page(window: Window) -> None:
    """Catches colours made for a light page on a dark one."""
    assert not window.editor.is_dark()
    window.controls.colours.setChecked(True)
    wait(window, lambda: bool(window.editor.extraSelections()))
    palette = QPalette(QColor("#303030"))
    palette.setColor(QPalette.ColorRole.Base, QColor("#202020"))
    window.setPalette(palette)
    wait(window, lambda: bool(window.editor.extraSelections()))
    assert window.editor.is_dark()
    shades = {s.format.background().color().name() for s in window.editor.extraSelections()}
    assert shades <= {shade.dark for shade in LEVELS}
    assert window.editor.palette().window().color() == QColor("#202020")


def test_open_a_model_by_dialog(
    window: Window, cached_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a choice that opens nothing, a bar that does not move, and a model that is not the
    one that writes.
    """
    monkeypatch.setattr(writer._Job, "is_due", lambda _: True)  # or a fast machine has one move
    moves: list[int] = []
    window.status.bar.valueChanged.connect(moves.append)
    monkeypatch.setattr(dialogs, "model_folder", lambda _: str(cached_source))
    menu = window.status.model.menu()
    assert menu is not None
    action(menu.actions(), "older").trigger()
    assert window.status.bar.isVisibleTo(window) and window.status.bar_stop.isVisibleTo(window)
    wait(window)
    assert not window.status.bar.isVisibleTo(window)
    assert moves[-1] == 1000 and len(moves) > 1
    assert window.status.model.text() == "little"
    assert window.writer.model is not None and window.writer.model.config.n_layer == 1
    assert ask(window) is not None
    for name in ("model_file", "model_name"):
        monkeypatch.setattr(dialogs, name, lambda _: "")
    action(menu.actions(), "&file").trigger()
    action(menu.actions(), "&Hub").trigger()
    assert window.status.model.text() == "little" and not window.status.bar.isVisibleTo(window)


def action(actions: list[QAction], part: str) -> QAction:
    (found,) = [each for each in actions if part in each.text()]
    return found


def test_a_bad_model_is_a_dialog(window: Window, tmp_path: Path) -> None:
    """Catches a crash or silence, a model that is lost, and a file name that is shown as markup."""
    bad = tmp_path / "<b>bad.safetensors"
    bad.write_bytes(b"nothing")
    drop(window, bad)
    wait(window)
    boxes = window.findChildren(QMessageBox)
    assert [box.text() for box in boxes] == ["Could not open <b>bad.safetensors."]
    assert boxes[0].textFormat() == Qt.TextFormat.PlainText and boxes[0].informativeText()
    boxes[0].close()
    assert window.status.model.text() == "tales"
    assert len(ask(window)) == 3


def drop(window: Window, path: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(5, 5),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Modifier.NoModifier,
    )
    window.editor.dropEvent(event)


def test_without_any_model(bare: Window, tmp_path: Path) -> None:
    """Catches keys that fail before a model is there, and a start that ends without one."""
    for key in (Key.Key_Tab, Key.Key_Escape, Key.Key_A):
        press(bare, key)
    press(bare, Key.Key_Return, Modifier.ControlModifier)
    assert bare.editor.text() == "a"
    bare.open_model(str(tmp_path / "gone.safetensors"))
    press(bare, Key.Key_Tab)
    wait(bare)
    assert bare.status.model.text() == "tales"
    assert [box.text() for box in bare.findChildren(QMessageBox)] == [
        "Could not open gone.safetensors."
    ]


def test_no_model_at_all(bare: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a window that tries again and again, a dialog each time."""

    def fail(source: str, **_: object) -> None:
        raise OSError(f"no {source}")

    monkeypatch.setattr("gpt2fast.desktop.writer.load", fail)
    bare.open_model("other")
    wait(bare)
    reasons = [box.informativeText() for box in bare.findChildren(QMessageBox)]
    assert reasons == ["no other", "no tales"]


def test_what_a_stopped_job_still_tells(window: Window) -> None:
    """Catches alternatives that come up after the key that put them away."""
    assert ask(window)
    old = window.writer.offer(BEGINNING, Settings())
    press(window, Key.Key_A)
    window.ask()
    window.editor.clear()
    late = events.Offered(old, [Offer([5], " late", 0.5)], 1)
    for event in (late, events.Failed(old, "write", "late")):
        window._handle(event)
    assert shown(window) == [] and window.findChildren(QMessageBox) == []
    assert window.busy


def test_files(window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a draft that is lost or changed on its way to the disk and back."""
    path = tmp_path / "draft.txt"
    monkeypatch.setattr(dialogs, "text_to_save", lambda *_: str(path))
    text = "caf\u00e9\u00a0\U0001f600\n\nTwo\tlines"
    window.editor.setPlainText("")
    window.editor.insertPlainText(text)
    assert window.isWindowModified() and window.windowTitle().startswith("Untitled")
    assert window.draft.save()
    assert path.read_text(encoding="utf-8") == text
    assert not window.isWindowModified() and window.windowTitle().startswith("draft.txt")
    window.editor.insertPlainText("!")
    monkeypatch.setattr(dialogs, "unsaved", lambda *_: "cancel")
    window.draft.new()
    assert window.editor.text() == text + "!"
    assert not window.close()
    monkeypatch.setattr(dialogs, "unsaved", lambda *_: "save")
    window.draft.new()
    assert window.editor.text() == "" and path.read_text(encoding="utf-8") == text + "!"
    drop(window, path)
    assert window.editor.text() == text + "!" and not window.isWindowModified()


def test_files_that_fail(window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a draft that goes although it could not be saved, and a page full of bytes."""
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\0\1")
    window.draft.open(str(binary))
    missing = str(tmp_path / "missing" / "draft.txt")
    monkeypatch.setattr(dialogs, "text_to_save", lambda *_: missing)
    monkeypatch.setattr(dialogs, "unsaved", lambda *_: "save")
    window.draft.new()
    assert window.editor.text() == BEGINNING
    texts = [box.text() for box in window.findChildren(QMessageBox)]
    assert texts == ["Could not open binary.txt.", "Could not save draft.txt."]
    monkeypatch.setattr(dialogs, "unsaved", lambda *_: "discard")


def test_preferences(window: Window, tmp_path: Path) -> None:
    """Catches settings that are forgotten, and a damaged file that keeps the window away."""
    window.controls.preset.setCurrentText("story")
    assert window.controls.temperature.value() == 1.0
    window.controls.temperature.setValue(0.55)
    window.controls.length.setValue(7)
    window.close()
    again = stored(tmp_path)
    assert again.settings == Settings("story", 0.55, 7)
    assert again.model == "tales" and again.geometry is not None
    (tmp_path / "write.ini").write_text("[General]\npreset=x\nlength=many\ngeometry=1\n")
    damaged = stored(tmp_path)
    assert (damaged.settings, damaged.geometry) == (Settings(), None)


def test_everything_has_a_name(window: Window) -> None:
    """Catches a control that a screen reader cannot name."""
    ask(window)
    for widget in window.findChildren(QWidget):
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus and widget.isVisibleTo(window):
            named = isinstance(widget, QAbstractButton) and widget.text()
            inner = (widget.objectName() or "").startswith("qt_")
            assert widget.accessibleName() or named or inner, widget
    for label in (window.status.pace, window.status.context, window.panel.table, window.editor):
        assert label.accessibleName()


def test_close_while_it_writes(window: Window) -> None:
    """Catches a window that hangs or crashes when it is closed in the middle of a word."""
    press(window, Key.Key_Return, Modifier.ControlModifier)
    run_until(lambda: len(window.editor.text()) > len(BEGINNING))
    begun = time.monotonic()
    assert window.close()
    assert time.monotonic() - begun < 1
    QTest.qWait(50)
