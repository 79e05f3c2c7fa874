"""Scores of the CTR model that the reranker is mixed with: the benchmark's own training of the served architecture.

With all of the schema's knowledge if it is there, else without any. What the benchmark trained under the same
circumstances is found and not trained again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.knowledge import FloatArray
from models.contract.lookup import IntArray
from offline.config import BenchmarkConfig, JobConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from research.quality.plan import OURS, WITHOUT_KNOWLEDGE, Training
from research.quality.run import Bench, run


@dataclass(frozen=True, slots=True, eq=False)
class CtrScores:
    """Probabilities of the validation and the test samples, by log row. ``model`` names who gave them."""

    model: str
    circumstances: str
    _rows: IntArray
    _score: FloatArray

    def of(self, rows: IntArray) -> FloatArray:
        """float32 [n]; DataError for a row that was not scored."""
        at = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        if not np.array_equal(self._rows[at], rows):
            raise DataError("the CTR model has scored other samples")
        return self._score[at]


def ctr_scores(
    config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, folder: Path, seed: int = 1
) -> CtrScores:
    """Of the model trained with ``seed``; trained now unless its answers lie in ``folder``."""
    whole = {spec.name for spec in config.feature_schema.knowledge} <= set(knowledge.produced)
    name, reads = (OURS, tuple(knowledge.produced)) if whole and knowledge.produced else (WITHOUT_KNOWLEDGE, ())
    # a log may have grown beyond the published data set, whose number of samples only the benchmark insists on
    free = config.model_copy(update={"benchmark": BenchmarkConfig()})
    bench = Bench(free, catalogue, log, knowledge, folder)
    (trained,) = run(bench, [Training(name, "ours", seed, producers=reads)])
    order = np.argsort(trained.rows)
    return CtrScores(f"{name}, seed {seed}", trained.circumstances, trained.rows[order], trained.score[order])
