"""An evaluation as numbers: for the page, for the figures, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from offline.data.files import write_json
from offline.metrics import Reliability
from offline.training.bootstrap import Difference
from research.quality.predictions import Family, Statistics

EvaluatedSplit = Literal["validation", "test"]


def percent(share: float) -> str:
    return f"{100 * share:.4g} %"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate: a model with its statistics and its share of the training rows. Seeds are its repetitions."""

    model: str
    statistics: Statistics = "frozen"
    share: float = 1.0

    def __str__(self) -> str:
        live = ", live statistics" if self.statistics == "live" else ""
        return self.model + live + (f", {percent(self.share)} of the training rows" if self.share < 1 else "")


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over seeds, and their standard deviation; None of a single seed."""

    middle: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Lower quartile, median and upper quartile."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        low, middle, high = np.percentile(values, [25, 50, 75])
        return cls(float(low), float(middle), float(high))


@dataclass(frozen=True, slots=True)
class SliceSize:
    """Size of a slice of the split."""

    group: str
    name: str
    samples: int
    users: int


@dataclass(frozen=True, slots=True)
class SliceAuc:
    """A row's AUC on a slice, and what it is above the best peer's; None for the best peer itself and without one."""

    auc: float
    against: Difference | None


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """A candidate that saw all training rows.

    ``ms_per_500`` milliseconds of all its timings, None if it has none; ``seconds`` of training, mean over seeds;
    ``auc_against`` and ``logloss_against`` the best peer, None for itself and without one; ``slices`` by their names,
    only of our models and of the best peer, and only those that have both labels; ``reliability`` of all seeds' scores
    together.
    """

    candidate: Candidate
    family: Family
    seeds: tuple[int, ...]
    validation_auc: float | None
    auc: Spread
    logloss: Spread
    gauc: Spread
    ndcg: Spread
    ece: Spread
    ms_per_500: Quartiles | None
    parameters: int
    seconds: float
    auc_against: Difference | None
    logloss_against: Difference | None
    slices: Mapping[str, SliceAuc]
    reliability: Reliability


@dataclass(frozen=True, slots=True)
class SharePoint:
    """AUC of a model that was trained with a share of the training rows, and by how much the chosen model's is higher
    with the same share; None for that model itself, and if it has not seen this share."""

    candidate: Candidate
    family: Family
    seeds: int
    auc: Spread
    chosen_over: Difference | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All candidates of the data set ``name`` on one split.

    ``best_peer`` and ``chosen`` (of ours) are the best on the validation split among those with frozen statistics and
    all training rows. ``shares`` are of models with several, rising within each. ``test_set_uses``: how many candidates
    were ever scored on the test split, None on another; "looks" in the file. ``left_out`` have no scores of the split.
    """

    name: str
    split: EvaluatedSplit
    samples: int
    users: int
    positives: float
    resamples: int
    rows: tuple[CandidateRow, ...]
    shares: tuple[SharePoint, ...]
    slices: tuple[SliceSize, ...]
    best_peer: Candidate | None
    chosen: Candidate | None
    test_set_uses: int | None
    left_out: tuple[str, ...]

    def row(self, candidate: Candidate | None) -> CandidateRow | None:
        return next((row for row in self.rows if row.candidate == candidate), None)

    def save(self, path: Path) -> None:
        write_json(path, {name.replace("test_set_uses", "looks"): value for name, value in asdict(self).items()})
