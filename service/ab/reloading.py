"""The experiments file while the service runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.contract.experiments import DEFAULT, ExperimentsError, parse_experiments
from models.contract.schema import FeatureSchema
from service.ab.assignment import FileExperiments
from service.reloading import ReloadingFile


class ReloadingExperiments(ReloadingFile[FileExperiments]):
    """The experiments in force. Without a file everybody is in the default arm."""

    name, failure = "experiments file", ExperimentsError

    def __init__(self, path: Path | None, poll_seconds: float, *, reranks: bool) -> None:
        """ExperimentsError if the file cannot be read, is not valid, or has an arm that reranks where nothing does."""
        self._reranks = reranks
        super().__init__(path, poll_seconds, FileExperiments(DEFAULT))

    def parse(self, raw: bytes) -> FileExperiments:
        experiments = FileExperiments(parse_experiments(raw))
        if experiments.asks_for_reranking and not self._reranks:
            raise ExperimentsError("an arm sets rerank_top_n, but no reranker is configured")
        return experiments

    def status(self, schema: FeatureSchema | None = None) -> dict[str, Any]:
        """For ``/v1/status``. ``schema`` is that of the live release."""
        return {
            "file": None if self.path is None else str(self.path),
            "digest": self.digest,
            "loaded_at": self.loaded_at,
            "error": self.error or None,
            "without_effect": [] if schema is None else self.current.without_effect(schema),
            "layers": {
                layer.name: [experiment.name for experiment in layer.experiments] for layer in self.current.file.layers
            },
        }
