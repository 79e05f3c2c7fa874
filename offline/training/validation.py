"""The validation samples of a training, on which models are compared from their exported files, as a service runs them.

All models see the same samples with the same past, and the same resamples of users, so that a difference between two is
one of the models. Knows no torch and no release.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.contract.arrays import Array, FloatArray, IntArray
from models.contract.encoding import HISTORY_INPUTS, Tensors
from models.split_model import SCORE, WholeModel
from offline.config import JobConfig, SamplesConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import COLUMNS, InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.training.bootstrap import Resamples
from offline.training.report import TrainingReport
from offline.training.samples import SampleEncoder, SplitRows, split_samples

MOST_ROWS = 10_000
"""Samples that are compared, give or take those of one user: of whole users, drawn by chance. A graph takes one user at
a time, so a sample costs a run of each model, of a tenth of a millisecond to a few."""

FEWEST_USERS = 10
"""Users below which no interval is told: resampling a handful of them says next to nothing of others."""

_CHUNK = 64
"""Samples that are encoded at once: histories may be a thousand events long."""


class IncomparableError(ValueError):
    """Models cannot be compared on these samples; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class ValidationSamples:
    """Log rows [n] of validation samples, what encodes them, and the resamples of their users."""

    encoder: SampleEncoder
    rows: IntArray
    resamples: Resamples

    @classmethod
    def of(
        cls,
        config: JobConfig,
        catalogue: Catalogue,
        log: InteractionLog,
        knowledge: Knowledge,
        report: TrainingReport,
    ) -> ValidationSamples:
        """Those of the training that ``report`` is of. DataError if log or configuration give other samples now;
        IncomparableError if there are too few users, or one label only."""
        rows = of_drawn_users(log.user, trained_splits(config.samples, log, report).rows["validation"], MOST_ROWS)
        labels, users = log.value[rows] > config.feature_schema.liked_above, len(np.unique(log.user[rows]))
        if users < FEWEST_USERS:
            raise IncomparableError(f"{users} users have validation samples, and {FEWEST_USERS} are needed")
        if labels.all() or not labels.any():
            raise IncomparableError("all validation samples have one label")
        schema = knowledge.schema(config.feature_schema)
        encoder = SampleEncoder(schema, catalogue, log, knowledge, report.trained_rows)
        return cls(encoder, rows, Resamples(labels, log.user[rows]))

    def __str__(self) -> str:
        return f"{len(self.rows):,} validation samples of {len(np.unique(self.encoder.log.user[self.rows])):,} users"

    def auc(self, file: Path, embedding_rows: IntArray | None = None) -> Array:
        """AUC [1 + count] of the model in an ONNX file, in the order of ``Resamples.auc``.

        ``embedding_rows`` [items] are each item's row in the model's id embedding, 0 for those that its training did
        not see; None takes those of the training that the samples are of. IncomparableError if the model cannot be run.
        """
        encoder = self.encoder if embedding_rows is None else _with_embedding_rows(self.encoder, embedding_rows)
        scores = _scores(file, encoder, self.rows)
        if not np.isfinite(scores).all():
            raise IncomparableError(f"{file.name} gives scores that are no numbers")
        return self.resamples.auc(scores)

    def popularity_auc(self) -> Array:
        """AUC [1 + count] of the order by popularity."""
        return self.resamples.auc(popularity_scores(self.encoder, self.rows))


def trained_splits(config: SamplesConfig, log: InteractionLog, report: TrainingReport) -> SplitRows:
    """The samples of the model of ``report``, as split when it was trained: what arrived later is in no split.

    DataError if log or configuration give other samples now.
    """
    columns = {name: getattr(log, name)[: report.log_rows] for name in COLUMNS}
    at_training = InteractionLog.of(log.user_ids, log.item_ids, columns, log.stream_mark, log.part_ends)
    splits = split_samples(config, at_training)
    counts = {split: len(rows) for split, rows in splits.rows.items()}
    expected = (report.log_rows, report.samples, report.trained_rows, report.trained_until_ms)
    if (len(at_training), counts, splits.trained_rows, int(log.time_ms[splits.trained_rows - 1])) != expected:
        raise DataError(
            f"model {report.artifact} was trained on other samples than [samples] and the log give now: "
            "run `refresh` first"
        )
    return splits


def of_drawn_users(user: Array, rows: IntArray, most: int) -> IntArray:
    """Those of the log rows ``rows`` that belong to as many users, drawn by chance, as have ``most`` of them; all if
    there are no more. ``user`` [log rows]."""
    if len(rows) <= most:
        return rows
    users, owner, counts = np.unique(user[rows], return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(users))
    drawn = np.zeros(len(users), np.bool_)
    drawn[order[: int(np.searchsorted(np.cumsum(counts[order]), most)) + 1]] = True
    return rows[drawn[owner]]


def popularity_scores(encoder: SampleEncoder, rows: IntArray) -> FloatArray:
    """The order by popularity, as probabilities [n] of the samples at these log rows: the smoothed share of likes of
    each item at the end of training."""
    liked_rate = encoder.table.numeric[encoder.log.item[rows].astype(np.int64) + 1, 2]
    return np.asarray((liked_rate + 1.0) / 2.0, np.float32)


def _with_embedding_rows(encoder: SampleEncoder, embedding_rows: IntArray) -> SampleEncoder:
    """The same encoder for a model of another training, whose id embedding has these rows [items] for the items."""
    other = copy(encoder)
    other.table = replace(encoder.table, index=np.concatenate([encoder.table.index[:1], embedding_rows]))
    return other


def _scores(file: Path, encoder: SampleEncoder, rows: IntArray) -> FloatArray:
    """Probabilities [n] of the samples at these log rows. IncomparableError if the model in ``file`` cannot be run."""
    with _reported(file):
        model = WholeModel.open(file, threads=1)
    names, scores = model.inputs, np.zeros(len(rows), np.float32)
    for start in range(0, len(rows), _CHUNK):
        tensors = encoder.tensors(rows[start : start + _CHUNK])
        events = np.maximum(tensors["history_mask"].sum(axis=1), 1).astype(np.int64).tolist()
        feeds = [{name: _of_sample(tensors, name, *of) for name in names} for of in enumerate(events)]
        with _reported(file):
            scores[start : start + len(feeds)] = [model.session.run([SCORE], feed)[0][0] for feed in feeds]
    return scores


@contextmanager
def _reported(file: Path) -> Iterator[None]:
    """Turns errors of ONNX Runtime into IncomparableError."""
    try:
        yield
    except Exception as error:  # it has no common exception class
        raise IncomparableError(f"{file.name} cannot be run: {error}") from error


def _of_sample(tensors: Tensors, name: str, place: int, length: int) -> FloatArray | IntArray:
    """An input of one sample of a batch, a history without its padding."""
    cells = tensors[name][place : place + 1]
    return cells[:, :length] if name in HISTORY_INPUTS else cells
