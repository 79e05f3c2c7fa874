"""The choice behind ``served = "auto"``: every candidate is trained on a bounded part of the samples, scored on the
validation samples and timed; the simplest that no affordable one is shown to beat is taken.

Done at the first training and on request. The chosen one is trained on all samples afterwards, and so is it alone by
every later training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.contract.arrays import FloatArray
from offline.config import JobConfig, Served
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import Quality, in_words, log_losses, quality
from offline.training.artifact import export_artifact
from offline.training.bootstrap import Difference, Resamples, difference
from offline.training.candidates import NAMES, Choice, ModelSpec, candidate_config, settings_of
from offline.training.cost import SCORED, scoring_milliseconds
from offline.training.fit import fit, predict
from offline.training.report import TrainingError
from offline.training.samples import SampleEncoder, SplitRows, split_samples
from offline.training.validation import MOST_ROWS, of_drawn_users


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate that was trained: ``scores`` [n] of validation samples, their quality, the time that a request takes
    and that training took."""

    architecture: Served
    scores: FloatArray
    quality: Quality
    milliseconds: float
    seconds: float


def choose(config: JobConfig, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge) -> Choice:
    """Train and compare the candidates of a configuration, and choose."""
    started, settings = time.perf_counter(), config.training.choice
    splits = _bounded(split_samples(config.samples, log), log, settings.most_samples)
    validation = splits.rows["validation"]
    tried: list[Tried] = []
    encoder: SampleEncoder | None = None
    for architecture in settings.candidates:
        candidate = candidate_config(config, architecture)
        schema = knowledge.schema(candidate.feature_schema)
        if encoder is None or encoder.schema != schema:
            encoder = SampleEncoder(schema, catalogue, log, knowledge, splits.trained_rows)
        try:
            tried.append(_try(candidate, architecture, encoder, knowledge, splits))
        except TrainingError as error:
            print(f"  {NAMES[architecture]} is no candidate: {error}", flush=True)
    if not tried:
        raise TrainingError("no candidate of training.choice could be trained and exported")
    label = (log.value[validation] > config.feature_schema.liked_above).astype(np.float32)
    user = log.user[validation]
    choice = _chosen(tried, Resamples(label, user), label, settings.ceiling_ms)
    return replace(
        choice, settings=settings_of(config), samples=len(splits.rows["train"]), seconds=time.perf_counter() - started
    )


def _try(
    config: JobConfig, architecture: Served, encoder: SampleEncoder, knowledge: Knowledge, splits: SplitRows
) -> Tried:
    began, training = time.perf_counter(), config.training
    training = training.model_copy(update={"epochs": min(training.epochs, training.choice.epochs)})
    spec, validation = ModelSpec(f"candidate: {NAMES[architecture]}", architecture), splits.rows["validation"]
    fitted = fit(spec, training, encoder, splits, training.seeds[0])
    seconds = time.perf_counter() - began
    scores = predict(fitted.model, encoder, validation)
    content, _ = export_artifact(config.name, spec, fitted.model, encoder, knowledge, splits, {})
    milliseconds = scoring_milliseconds(content, encoder, validation)
    of_scores = quality(encoder.labels[validation], scores, encoder.log.user[validation])
    return Tried(architecture, scores, of_scores, milliseconds, seconds)


def _bounded(splits: SplitRows, log: InteractionLog, most: int) -> SplitRows:
    """At most so many training samples, give or take those of one user, of whole users; and fewer validation
    samples."""
    rows = {
        **splits.rows,
        "train": of_drawn_users(log.user, splits.rows["train"], most),
        "validation": of_drawn_users(log.user, splits.rows["validation"], 2 * MOST_ROWS),
    }
    return replace(splits, rows=rows)


def _chosen(tried: Sequence[Tried], resamples: Resamples, label: FloatArray, ceiling_ms: float) -> Choice:
    """The simplest candidate below the ceiling that the best of them, by LogLoss, is not shown to beat in LogLoss or
    AUC: their paired 95 % intervals reach 0. ``tried`` are in order from the simplest. The fastest one, if all are
    above the ceiling."""
    affordable = [candidate for candidate in tried if candidate.milliseconds <= ceiling_ms]
    note = ""
    if not affordable:
        affordable = [min(tried, key=lambda candidate: candidate.milliseconds)]
        note = f"; no candidate scores {SCORED} items in {ceiling_ms:g} ms here, this one is the fastest"
    best = min(affordable, key=lambda candidate: candidate.quality.logloss)
    area, loss = resamples.auc(best.scores), resamples.mean(log_losses(label, best.scores))
    chosen, table = None, []
    for candidate in tried:
        areas = difference(resamples.auc(candidate.scores), area)
        losses = difference(resamples.mean(log_losses(label, candidate.scores)), loss)
        if chosen is None and candidate in affordable and not (areas.high < 0 or losses.low > 0):
            chosen = candidate
        table.append(_row(candidate, candidate is best, areas, losses))
    assert chosen is not None  # the best one is not beaten by itself
    name, rival = NAMES[chosen.architecture], NAMES[best.architecture]
    if chosen is best:
        sentence = f"auto serves {name}: the lowest LogLoss, and shown to be below that of whatever is simpler{note}"
    else:
        sentence = f"auto serves {name}: {rival} has the lowest LogLoss, but is not shown to be better{note}"
    return Choice(chosen.architecture, "", 0, sentence, 0.0, table)


def _row(candidate: Tried, is_best: bool, areas: Difference, losses: Difference) -> dict[str, Any]:
    row: dict[str, Any] = {
        "architecture": candidate.architecture,
        "logloss": candidate.quality.logloss,
        "auc": None if candidate.quality.auc != candidate.quality.auc else candidate.quality.auc,
        "ece": candidate.quality.ece,
        "milliseconds": candidate.milliseconds,
        "seconds": candidate.seconds,
    }
    if not is_best:
        row["logloss_difference"] = [losses.middle, losses.low, losses.high]
        if areas.is_defined:
            row["auc_difference"] = [areas.middle, areas.low, areas.high]
    return row


def choice_lines(choice: Choice, ceiling_ms: float) -> list[str]:
    """What was tried and why one was chosen, for the terminal and the report: a Markdown table and a sentence."""
    lines = [
        f"| candidate on {choice.samples:,} samples | LogLoss | against the best [95 %] | AUC "
        f"| against the best [95 %] | ms of {SCORED} (at most {ceiling_ms:g}) | trained in |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in choice.table:
        cells = [NAMES[row["architecture"]], in_words(row["logloss"]), _interval(row.get("logloss_difference"))]
        cells += [in_words(row["auc"]), _interval(row.get("auc_difference"))]
        cells += [f"{row['milliseconds']:.2f}", f"{row['seconds']:.0f} s"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"{choice.sentence}."]


def _interval(of: Sequence[float] | None) -> str:
    return "" if of is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*of)
