"""The experiments file while the service runs: read again when it changes. A file that is wrong changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from pathlib import Path
from typing import Any

from models.contract.experiments import DEFAULT, ExperimentsError, parse_experiments
from models.contract.schema import FeatureSchema
from service.ab.assignment import FileExperiments

log = logging.getLogger(__name__)


class ReloadingExperiments:
    """The experiments of a file that may change, or of none. ``current`` are those in force; a request asks for them
    once, so that it is not split by two files."""

    def __init__(self, path: Path | None, poll_seconds: float, *, reranks: bool) -> None:
        """ExperimentsError if the file cannot be read, is not valid, or has an arm that reranks where nothing does."""
        self._path = path
        self._reranks = reranks
        self._poll_seconds = poll_seconds
        self._digest = b""
        self._loaded_at = time.time()
        self.error = ""
        self.current = FileExperiments(DEFAULT)
        if path is not None:
            self.current = self._read(path) or self.current

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        while self._path is not None:
            await asyncio.sleep(self._poll_seconds)
            await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Read the file again if it changed. One that is wrong or gone changes nothing; ``error`` says why."""
        if self._path is None:
            return
        try:
            current = self._read(self._path)
        except Exception as error:  # noqa: BLE001 - whatever the file holds, the next one must be looked at
            text = str(error) if isinstance(error, ExperimentsError) else f"{type(error).__name__}: {error}"
            if text != self.error:
                log.error("experiments stay as they were: %s", text)
            self.error = text
            return
        if current is not None:
            self.current, self.error, self._loaded_at = current, "", time.time()
            log.info("experiments of %s are in force", self._path)

    def status(self, schema: FeatureSchema | None = None) -> dict[str, Any]:
        """For ``/v1/status``. ``schema`` is that of the live release."""
        return {
            "file": None if self._path is None else str(self._path),
            "digest": self._digest.hex()[:12],
            "loaded_at": self._loaded_at,
            "error": self.error or None,
            "without_effect": [] if schema is None else self.current.without_effect(schema),
            "layers": {
                layer.name: [experiment.name for experiment in layer.experiments] for layer in self.current.file.layers
            },
        }

    def _read(self, path: Path) -> FileExperiments | None:
        """The experiments of the file; None if it is as it was when it was last right."""
        try:
            raw = path.read_bytes()
            digest = hashlib.sha256(raw).digest()
            if digest == self._digest and not self.error:
                return None
            experiments = FileExperiments(parse_experiments(raw))
            if experiments.asks_for_reranking and not self._reranks:
                raise ExperimentsError("an arm sets rerank_top_n, but no reranker is configured")
        except (OSError, ExperimentsError) as error:
            raise ExperimentsError(f"experiments file {path}: {error}") from error
        self._digest = digest
        return experiments
