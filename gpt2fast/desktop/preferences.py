"""What the window remembers from one day to the next."""

from __future__ import annotations

from contextlib import suppress

from PySide6.QtCore import QByteArray, QSettings

from gpt2fast.desktop.settings import Settings


class Preferences:
    """Values in the place where the system keeps those of programs; a damaged one is forgotten."""

    def __init__(self, stored: QSettings | None = None) -> None:
        self._stored = QSettings("gpt2fast", "write") if stored is None else stored

    @property
    def settings(self) -> Settings:
        """How the model is to write."""
        found = Settings()
        with suppress(ValueError, TypeError):
            found = Settings(
                str(self._stored.value("preset", found.preset)),
                float(str(self._stored.value("temperature", found.temperature))),
                int(str(self._stored.value("length", found.length))),
            )
        return found

    @settings.setter
    def settings(self, chosen: Settings) -> None:
        self._stored.setValue("preset", chosen.preset)
        self._stored.setValue("temperature", chosen.temperature)
        self._stored.setValue("length", chosen.length)

    @property
    def model(self) -> str:
        """The model that was opened last."""
        return str(self._stored.value("model", "") or "tales")

    @model.setter
    def model(self, source: str) -> None:
        self._stored.setValue("model", source)

    @property
    def geometry(self) -> QByteArray | None:
        """Where the window was."""
        found = self._stored.value("geometry")
        return found if isinstance(found, QByteArray) else None

    @geometry.setter
    def geometry(self, geometry: QByteArray) -> None:
        self._stored.setValue("geometry", geometry)
