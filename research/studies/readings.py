"""What the served network reads of knowledge, and through what: each reading is trained, and judged by validation.

A reading is the whole of what there is, without a part of it or through another layer. Differences are paired over
users (offline/training/bootstrap.py) and against the first row. A finished training is kept (research/trials.py); the
test part is never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.contract.arrays import Array
from models.contract.schema import FeatureSchema
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.metrics import log_losses
from offline.training.bootstrap import Difference, Resamples, difference
from offline.training.fit import predict
from research.tables import difference_cell, table
from research.trials import TrialRunner, TrialSpec


@dataclass(frozen=True, slots=True)
class Reading:
    """A row of the table: a schema that keeps what is read, and the settings of training."""

    name: str
    config: JobConfig
    schema: FeatureSchema


@dataclass(frozen=True, slots=True)
class ReadingRow:
    """Means over the seeds, ``seconds`` of processor time for a training among them. Differences are against the first
    reading, None of that itself."""

    reading: str
    auc: float
    logloss: float
    seconds: float
    auc_difference: Difference | None = None
    logloss_difference: Difference | None = None


def readings(config: JobConfig, knowledge: Knowledge) -> list[Reading]:
    """Everything there is as it is configured; then without knowledge, without the sequence of partitions, with
    partitions fused the other way, and through the other adaptor."""
    schema = config.feature_schema.with_knowledge(tuple(knowledge.produced))
    single = tuple(spec for spec in schema.knowledge if spec.rows == 1)
    other = "learned" if config.training.fusion == "target" else "target"
    adaptor = "experts" if config.training.knowledge_adaptor == "linear" else "linear"
    rows = [Reading("all", config, schema), Reading("no knowledge", config, schema.with_knowledge(()))]
    if schema.sequence is not None:
        without = FeatureSchema.model_validate({**schema.model_dump(), "knowledge": single})
        rows.append(Reading("no partitions", config, without))
        rows.append(Reading(f"partitions fused: {other}", _trained(config, fusion=other), schema))
    rows.append(Reading(f"adaptor: {adaptor}", _trained(config, knowledge_adaptor=adaptor), schema))
    return rows


def _trained(config: JobConfig, **settings: str) -> JobConfig:
    """The configuration with other settings of training."""
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


def compare_readings(
    chosen: Sequence[Reading], catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, folder: Path, seeds: int
) -> tuple[ReadingRow, ...]:
    """Train what is not there yet, and judge all of it on the validation samples."""
    rows: list[ReadingRow] = []
    first: dict[str, Array] = {}
    for reading in chosen:
        runner = TrialRunner(reading.config, catalogue, log, folder)
        samples = runner.splits.rows["validation"]
        label = (log.value[samples] > reading.schema.liked_above).astype(np.float32)
        resamples = Resamples(label, log.user[samples])
        aucs, losses, seconds = [], [], []
        for seed in range(1, seeds + 1):
            producers = tuple(spec.name for spec in reading.schema.knowledge)
            spec = TrialSpec(reading.schema, knowledge.of(producers), reading.name, seed)
            encoder = runner.encoder(spec)
            fitted, took = runner.fitted(spec, encoder)
            scores = predict(fitted.model, encoder, samples)
            aucs.append(resamples.auc(scores))
            losses.append(resamples.mean(log_losses(label, scores)))
            seconds.append(took)
        means = {"auc": np.asarray(np.mean(aucs, axis=0)), "logloss": np.asarray(np.mean(losses, axis=0))}
        against = {name: difference(of, first[name]) if first else None for name, of in means.items()}
        first = first or means
        auc, logloss = (float(of[0]) for of in means.values())
        rows.append(ReadingRow(reading.name, auc, logloss, float(np.mean(seconds)), against["auc"], against["logloss"]))
    return tuple(rows)


def readings_table(rows: Sequence[ReadingRow]) -> str:
    """The table as Markdown."""
    heads = ["reads", "AUC", "LogLoss", "AUC against the first [95 %]", "LogLoss", "seconds of a training"]
    cells = [
        [
            row.reading,
            f"{row.auc:.4f}",
            f"{row.logloss:.4f}",
            difference_cell(row.auc_difference),
            difference_cell(row.logloss_difference),
            f"{row.seconds:.0f}",
        ]
        for row in rows
    ]
    return table(heads, cells)
