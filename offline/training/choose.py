"""The choice behind ``served = "auto"``: every candidate is timed, those that are fast enough are trained on a part
of the samples and scored on the validation samples, and the simplest that none of them is shown to beat is taken.

Done at the first training and on request. The chosen one is trained on all samples afterwards, and so is it alone by
every later training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.contract.arrays import Array, FloatArray
from models.ctr.calibration import Calibrated
from offline.config import ChoiceConfig, JobConfig, Served
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import Quality, in_words, log_losses, quality
from offline.training.artifact import export_artifact
from offline.training.bootstrap import Difference, Resamples, difference
from offline.training.candidates import NAMES, Choice, ModelSpec, candidate_config, settings_of
from offline.training.cost import SCORED, scoring_milliseconds
from offline.training.fit import fit, new_model, predict
from offline.training.report import TrainingError
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from offline.training.slices import without_nan
from offline.training.validation import MOST_ROWS, of_drawn_users

DOUBT = 0.1
"""Share by which two measurements of a model's time differ: what is above the ceiling by less is not above it."""


@dataclass(frozen=True, slots=True)
class TimedModel:
    """An architecture with its configuration, what encodes its samples, and the time that a request takes; None of
    trees, which have to grow first."""

    config: JobConfig
    architecture: Served
    encoder: SampleEncoder
    milliseconds: float | None = None

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(f"candidate: {NAMES[self.architecture]}", self.architecture)


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate that was trained: ``scores`` [n] of validation samples, their quality, the time of a request on the
    reference core, and the processor time of the training. Of one that is too slow to be served there are no scores."""

    architecture: Served
    scores: FloatArray | None
    quality: Quality | None
    milliseconds: float
    seconds: float


def choose(config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge) -> Choice:
    """Time, train and compare the candidates of a configuration, and choose."""
    started, settings = time.process_time(), config.training.choice
    splits = _bounded(split_samples(config.samples, log), log, settings)
    validation = splits.rows["validation"]
    tried = _all_tried(_timed(config, catalogue, log, knowledge, splits), splits, settings.ceiling_ms)
    if not any(candidate.quality for candidate in tried):
        raise TrainingError("no candidate of training.choice could be trained")
    label = (log.value[validation] > config.feature_schema.liked_above).astype(np.float32)
    choice = _chosen(tried, Resamples(label, log.user[validation]), label, settings.ceiling_ms)
    seconds = time.process_time() - started
    return replace(choice, settings=settings_of(config), samples=len(splits.rows["train"]), seconds=seconds)


def _timed(
    config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, splits: SplitRows
) -> list[TimedModel]:
    """The candidates that can be exported. TrainingError if there is none."""
    candidates: list[TimedModel] = []
    encoder: SampleEncoder | None = None
    for architecture in config.training.choice.candidates:
        own = candidate_config(config, architecture)
        schema = knowledge.schema(own.feature_schema)
        if encoder is None or encoder.schema != schema:
            encoder = SampleEncoder(schema, catalogue, log, knowledge, splits.trained_rows)
        candidate = TimedModel(own, architecture, encoder)
        if architecture != "tree":
            try:
                model = new_model(candidate.spec, own.training, encoder).eval()
                candidate = replace(candidate, milliseconds=_milliseconds(candidate, model, splits))
            except TrainingError as error:
                _leave_out(architecture, error)
                continue
        candidates.append(candidate)
    if not candidates:
        raise TrainingError("no candidate of training.choice could be exported")
    return candidates


def _leave_out(architecture: Served, error: TrainingError) -> None:
    print(f"  {NAMES[architecture]} is no candidate: {error}", flush=True)


def _all_tried(candidates: Sequence[TimedModel], splits: SplitRows, ceiling_ms: float) -> list[Tried]:
    """The candidates in their order, but those whose training fails. One that is too slow is not trained, unless it is
    the fastest of these and nothing else is fast enough."""
    tried: dict[Served, Tried | None] = {}
    slow: list[tuple[float, TimedModel]] = []
    for candidate in candidates:
        if candidate.milliseconds is None or _is_fast_enough(candidate.milliseconds, ceiling_ms):
            tried[candidate.architecture] = _tried(candidate, splits)
        else:
            untrained = Tried(candidate.architecture, None, None, candidate.milliseconds, 0.0)
            tried[candidate.architecture] = untrained
            slow.append((candidate.milliseconds, candidate))
    served = [of for of in tried.values() if of is not None and _is_fast_enough(of.milliseconds, ceiling_ms)]
    if slow and not served:
        _, fastest = min(slow, key=lambda timed: timed[0])
        tried[fastest.architecture] = _tried(fastest, splits)
    return [of for of in tried.values() if of is not None]


def _is_fast_enough(milliseconds: float, ceiling_ms: float) -> bool:
    return milliseconds <= (1.0 + DOUBT) * ceiling_ms


def _tried(candidate: TimedModel, splits: SplitRows) -> Tried | None:
    """The candidate, trained on the bounded samples; None if it cannot be."""
    began, training, encoder = time.process_time(), candidate.config.training, candidate.encoder
    training = training.model_copy(update={"epochs": min(training.epochs, training.choice.epochs), "patience": 1})
    validation = splits.rows["validation"]
    try:
        fitted = fit(candidate.spec, training, encoder, splits, training.seeds[0])
        seconds = time.process_time() - began
        scores = predict(fitted.model, encoder, validation)
        milliseconds = candidate.milliseconds
        if milliseconds is None:
            milliseconds = _milliseconds(candidate, fitted.model, splits)
    except TrainingError as error:
        _leave_out(candidate.architecture, error)
        return None
    of_scores = quality(encoder.labels[validation], scores, encoder.log.user[validation])
    return Tried(candidate.architecture, scores, of_scores, milliseconds, seconds)


def _milliseconds(candidate: TimedModel, model: Calibrated, splits: SplitRows) -> float:
    """Of a request to the model, which may be untrained: weights take no time."""
    own, encoder = candidate.config, candidate.encoder
    content, _ = export_artifact(own.name, candidate.spec, model, encoder, encoder.knowledge, splits, {})
    return scoring_milliseconds(content, encoder, splits.rows["validation"])


def _bounded(splits: SplitRows, log: InteractionLog, settings: ChoiceConfig) -> SplitRows:
    """The part of the training samples that candidates are tried on, give or take the samples of one user, of whole
    users; and fewer validation samples."""
    train = splits.rows["train"]
    rows = {
        **splits.rows,
        "train": of_drawn_users(log.user, train, settings.samples_of(len(train))),
        "validation": of_drawn_users(log.user, splits.rows["validation"], 2 * MOST_ROWS),
    }
    return replace(splits, rows=rows)


@dataclass(frozen=True, slots=True)
class _Resampled:
    """A trained candidate's LogLoss and AUC [1 + count], in the order of ``Resamples.auc``."""

    candidate: Tried
    loss: Array
    area: Array

    def differences(self, best: _Resampled) -> tuple[Difference, Difference]:
        """Of LogLoss and AUC, from the best."""
        return difference(self.loss, best.loss), difference(self.area, best.area)

    def is_as_good_as(self, best: _Resampled) -> bool:
        """Whether neither LogLoss nor AUC is shown to be worse."""
        losses, areas = self.differences(best)
        return not (losses.low > 0 or areas.high < 0)


def _chosen(tried: Sequence[Tried], resamples: Resamples, label: FloatArray, ceiling_ms: float) -> Choice:
    """The simplest trained candidate below the ceiling that the best of them, by LogLoss, is not shown to beat in
    LogLoss or AUC: their paired 95 % intervals reach 0. ``tried`` are in order from the simplest. The fastest one, if
    all are above the ceiling."""
    trained = [
        _Resampled(candidate, resamples.mean(log_losses(label, candidate.scores)), resamples.auc(candidate.scores))
        for candidate in tried
        if candidate.scores is not None
    ]
    affordable = [model for model in trained if _is_fast_enough(model.candidate.milliseconds, ceiling_ms)]
    note = ""
    if not affordable:
        affordable = [min(trained, key=lambda model: model.candidate.milliseconds)]
        note = f"; no candidate scores {SCORED} items in {ceiling_ms:g} ms, this one is the fastest"
    best = min(affordable, key=lambda model: float(model.loss[0]))
    chosen = next(model for model in affordable if model is best or model.is_as_good_as(best))
    name, rival = NAMES[chosen.candidate.architecture], NAMES[best.candidate.architecture]
    if chosen is not best:
        reason = f"{rival} has the lowest LogLoss, but is not shown to be better"
    elif chosen is affordable[0]:
        reason = "the lowest LogLoss, and none that is fast enough is simpler"
    else:
        reason = "the lowest LogLoss, and shown to be better than whatever is simpler"
    differences = {model.candidate.architecture: model.differences(best) for model in trained if model is not best}
    table = [_row(candidate, differences.get(candidate.architecture)) for candidate in tried]
    return Choice(chosen.candidate.architecture, "", 0, f"auto serves {name}: {reason}{note}", 0.0, table)


def _row(candidate: Tried, differences: tuple[Difference, Difference] | None) -> dict[str, Any]:
    """A candidate's row of ``Choice.table``; ``differences`` of LogLoss and AUC from the best, None of the best."""
    row: dict[str, Any] = {"architecture": candidate.architecture, "milliseconds": candidate.milliseconds}
    if candidate.quality is not None:
        measures = {name: getattr(candidate.quality, name) for name in ("logloss", "auc", "ece")}
        row |= {**without_nan(measures), "seconds": candidate.seconds}
    for name, of in zip(("logloss_difference", "auc_difference"), differences or (), strict=False):
        if of.is_defined:
            row[name] = [of.middle, of.low, of.high]
    return row


def choice_lines(choice: Choice, ceiling_ms: float) -> list[str]:
    """What was tried and why one was chosen, for the terminal and the report: a Markdown table and a sentence."""
    lines = [
        f"| candidate on {choice.samples:,} samples | LogLoss | against the best [95 %] | AUC "
        f"| against the best [95 %] | ms of {SCORED} (at most {ceiling_ms:g}) | trained in |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in choice.table:
        cells = [NAMES[row["architecture"]], *[""] * 4, f"{row['milliseconds']:.2f}", "not trained: too slow"]
        if "seconds" in row:
            cells[1:5] = [
                in_words(row["logloss"]), _interval(row.get("logloss_difference")),
                in_words(row["auc"]), _interval(row.get("auc_difference")),
            ]  # fmt: skip
            cells[6] = f"{row['seconds']:.0f} s"
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"{choice.sentence}."]


def _interval(of: Sequence[float] | None) -> str:
    return "" if of is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*of)
