"""The bar above the page: what can be asked for, and how the model is to write."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QSizePolicy,
    QSpinBox,
    QToolBar,
    QWidget,
)

from gpt2fast.desktop.settings import (
    LENGTH_MAX,
    TEMPERATURE_MAX,
    Settings,
    preset_temperature,
)
from gpt2fast.presets import PRESETS


class Controls(QToolBar):
    """Actions on the left, settings on the right; `changed` tells of new settings."""

    changed = Signal(Settings)

    def __init__(self, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__("Controls", parent)
        self.setMovable(False)
        self.ask = self._action("Alternatives", "Tab", "Three ways to go on")
        self.more = self._action("Write on", "Ctrl+Enter", "Write until it is stopped")
        self.stop = self._action("Stop", "Esc", "Stop at once; put the alternatives away")
        self.colours = self._action(
            "Colours", "Ctrl+L", "Show how probable each word is to the model"
        )
        self.colours.setShortcut(QKeySequence("Ctrl+L"))
        self.colours.setCheckable(True)
        gap = QWidget()
        gap.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.addWidget(gap)
        self.preset, self.temperature, self.length = QComboBox(), QDoubleSpinBox(), QSpinBox()
        self.preset.addItems(list(PRESETS))
        self.temperature.setRange(0, TEMPERATURE_MAX)
        self.temperature.setSingleStep(0.1)
        self.temperature.setDecimals(2)
        self.length.setRange(1, LENGTH_MAX)
        self.length.setSuffix(" tokens")
        self._add("Preset", self.preset, "A set of options for how words are chosen")
        self._add("Temperature", self.temperature, "Low is predictable, high is adventurous")
        self._add("Length", self.length, "Of each alternative")
        self._show(settings)
        self.preset.currentTextChanged.connect(self._choose_preset)
        self.temperature.valueChanged.connect(self._tell)
        self.length.valueChanged.connect(self._tell)

    @property
    def settings(self) -> Settings:
        """The settings as they are shown."""
        return Settings(self.preset.currentText(), self.temperature.value(), self.length.value())

    def _action(self, text: str, key: str, tip: str) -> QAction:
        action = self.addAction(text)
        action.setToolTip(f"{tip} ({key})")
        button = self.widgetForAction(action)
        button.setAccessibleName(text)
        button.setAccessibleDescription(f"{tip}; key {key}")
        return action

    def _add(self, name: str, widget: QWidget, tip: str) -> None:
        label = QLabel(f"  {name} ")
        widget.setAccessibleName(name)
        widget.setToolTip(tip)
        self.addWidget(label)
        self.addWidget(widget)

    def _show(self, settings: Settings) -> None:
        self.preset.setCurrentText(settings.preset)
        self.temperature.setValue(settings.temperature)
        self.length.setValue(settings.length)

    def _choose_preset(self, preset: str) -> None:
        self.temperature.setValue(preset_temperature(preset))
        self._tell()

    def _tell(self) -> None:
        self.changed.emit(self.settings)
