"""A file of an operator's while the service runs: read again when it changes. One that is wrong changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class ReloadingFile(ABC, Generic[T]):
    """The document of a file that may change, or of none. ``current`` is the one in force; a request asks for it once,
    so that it is not split by two files. ``error`` says why the file, as it is now, is not in force."""

    name: ClassVar[str]
    """The file's, in messages."""
    failure: ClassVar[type[ValueError]]
    """Raised for a file that cannot be read or is wrong at the start."""

    def __init__(self, path: Path | None, poll_seconds: float, without: T) -> None:
        """``without`` is in force where there is no file."""
        self.path = path
        self._poll_seconds = poll_seconds
        self._digest = b""
        self.loaded_at = time.time()
        self.error = ""
        self.current = without
        if path is not None:
            self.current = self._read(path) or self.current

    @abstractmethod
    def parse(self, raw: bytes) -> T:
        """The document of the file's bytes. ValueError if they are wrong."""

    @property
    def digest(self) -> str:
        """Of the file that is in force, twelve hexadecimal digits; empty without one."""
        return self._digest.hex()[:12]

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        while self.path is not None:
            await asyncio.sleep(self._poll_seconds)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Read the file again if it changed. One that is wrong or gone changes nothing; ``error`` says why."""
        if self.path is None:
            return
        try:
            current = self._read(self.path)
        except Exception as error:  # noqa: BLE001 - whatever the file holds, the next one must be looked at
            text = str(error) if isinstance(error, self.failure) else f"{type(error).__name__}: {error}"
            if text != self.error:
                log.error("the %s stays as it was: %s", self.name, text)
            self.error = text
            return
        if current is not None:
            self.current, self.error, self.loaded_at = current, "", time.time()
            log.info("the %s %s is in force", self.name, self.path)

    def _read(self, path: Path) -> T | None:
        """The document; None if the file is as it was when it was last right."""
        try:
            raw = path.read_bytes()
            digest = hashlib.sha256(raw).digest()
            if digest == self._digest and not self.error:
                return None
            document = self.parse(raw)
        except (OSError, ValueError) as error:
            raise self.failure(f"{self.name} {path}: {error}") from error
        self._digest = digest
        return document
