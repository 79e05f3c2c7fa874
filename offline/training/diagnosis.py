"""What a report says of the served model beyond the quality table: slices, rivals and a verdict, calibration,
importance, and drift against the last training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.contract.arrays import FloatArray
from models.ctr.calibration import Calibrated
from offline.config import JobConfig
from offline.metrics import log_losses
from offline.training.bootstrap import Resamples, difference
from offline.training.candidates import ModelSpec
from offline.training.drift import HISTORY, OF_TEST, drift, former_report, profile
from offline.training.fit import predict
from offline.training.importance import bounds, importance
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, SplitRows
from offline.training.scores import histogram, score_buckets
from offline.training.slices import UNSEEN_ITEMS, ScoredSamples, slice_masks, slice_table
from offline.training.validation import MOST_ROWS, of_drawn_users
from offline.training.verdict import Circumstances, Rival, RivalKind, rivals, verdict

LIVE_LOSS = 0.002
"""LogLoss that statistics which are up to date may cost a model before it is said."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A training that has been judged: the models in the order of the quality table, served first; ``encoder`` and
    ``model`` are the served one's, of the ``seed`` that is exported; ``scores`` [n] of the test samples by label and
    seed, and those of the ``baseline`` with its name."""

    config: JobConfig
    specs: Sequence[ModelSpec]
    encoder: SampleEncoder
    splits: SplitRows
    model: Calibrated
    seed: int
    scores: Mapping[tuple[str, int], FloatArray]
    baseline: tuple[str, FloatArray]

    @property
    def served(self) -> ModelSpec:
        return self.specs[0]

    def scored(self) -> ScoredSamples:
        """The test samples with the scores of the served model, the baseline, and trees that are not served."""
        trees = [spec.label for spec in self.specs[1:] if spec.architecture == "tree"]
        return ScoredSamples(
            self.encoder.labels[self.splits.rows["test"]],
            self.scores[self.served.label, self.seed],
            self.baseline[1],
            next(iter(self._of_seeds(trees[0]).values())) if trees else None,
        )

    def rivals(self) -> list[Rival]:
        """The served model against all others and the baseline; several seeds are averaged."""
        name, scores = self.baseline
        rows = self.splits.rows["test"]
        by_model = {spec.label: self._of_seeds(spec.label) for spec in self.specs}
        kinds = {spec.label: _kind(spec) for spec in self.specs[1:]} | {name: "baseline"}
        return rivals(self.encoder.labels[rows], self.encoder.log.user[rows], {**by_model, name: {0: scores}}, kinds)

    def _of_seeds(self, model: str) -> dict[int, FloatArray]:
        """Test scores by seed; trees have one."""
        return {seed: scores for (label, seed), scores in self.scores.items() if label == model}

    def circumstances(self, numbers: Mapping[str, float], auto: bool) -> Circumstances:
        """What the remedies of a verdict depend on: the training's profile, and whether "auto" chose the model."""
        schema = self.encoder.schema
        return Circumstances(
            training_samples=len(self.splits.rows["train"]),
            unseen=numbers[OF_TEST.format(UNSEEN_ITEMS)],
            history=numbers[HISTORY],
            read=schema.history_length,
            running=schema.running is not None,
            auto=auto,
        )


def diagnose(report: TrainingReport, judged: Judged, path: Path) -> TrainingReport:
    """The report with all that ``page.py`` shows; ``path`` is where the last training's may lie."""
    splits, log, scored = judged.splits, judged.encoder.log, judged.scored()
    masks = slice_masks(log, splits.trained_rows, splits.rows["test"])
    numbers = profile(log, splits, judged.encoder.labels, scored.served, masks)
    against = judged.rivals()
    full = replace(
        report,
        data=judged.config.data.source,
        written_ms=int(time.time() * 1000),
        slices=slice_table(masks, scored),
        rivals=[_row(rival) for rival in against],
        verdict=verdict(judged.served.label, against, judged.circumstances(numbers, bool(report.choice))),
        calibration=score_buckets(scored.label, scored.served),
        histogram=histogram(scored.served),
        importance=importance(judged.model, judged.served.architecture, judged.encoder, splits.rows["validation"]),
        profile=numbers,
        live=_live(judged),
    )
    return replace(full, drift=drift(former_report(path), full, scored.served))


def _live(judged: Judged) -> dict[str, Any]:
    """How AUC and LogLoss of test samples change when item statistics go on after training, as every publication brings
    them up to date; with a sentence if the model is shown to suffer. Of 20,000 samples, of whole users."""
    encoder, test = judged.encoder, judged.splits.rows["test"]
    rows = of_drawn_users(encoder.log.user, test, 2 * MOST_ROWS)
    label, user = encoder.labels[rows], encoder.log.user[rows]
    frozen = judged.scores[judged.served.label, judged.seed][np.searchsorted(test, rows)]
    live, resamples = predict(judged.model, encoder.live(), rows), Resamples(label, user)
    area = difference(resamples.auc(live), resamples.auc(frozen))
    loss = difference(resamples.mean(log_losses(label, live)), resamples.mean(log_losses(label, frozen)))
    sentence = ""
    if loss.low > 0 and loss.middle > LIVE_LOSS:
        sentence = (
            f"{judged.served.label} suffers when item statistics are brought up to date, as publications do (AUC "
            f"{area}, LogLoss {loss}): train more often (training.retrain_growth)"
        )
    return {"auc": bounds(area), "logloss": bounds(loss), "sentence": sentence}


def _kind(spec: ModelSpec) -> RivalKind:
    if spec.architecture == "tree":
        return "tree"
    return "plain" if spec.producers == () else "network"


def _row(rival: Rival) -> dict[str, Any]:
    return {"model": rival.model, "auc": bounds(rival.auc), "logloss": bounds(rival.logloss)}
