"""The served model's quality on parts of the test samples that a mean over all of them hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.contract.arrays import Array, BoolArray, FloatArray, IntArray
from offline.data.log import InteractionLog
from offline.metrics import auc, log_losses

SHORT_HISTORY = 10
"""Earlier interactions of a user up to which a history counts as short."""


def slice_table(
    log: InteractionLog, trained_rows: int, rows: IntArray, label: FloatArray, score: FloatArray, baseline: FloatArray
) -> list[dict[str, Any]]:
    """A row for each slice with samples: ``samples``, share ``liked``, ``auc``, ``logloss``, AUC of the ``baseline``.

    ``rows`` [n] are the log rows of the test samples; labels and scores [n] are aligned with them. None stands for an
    AUC of one label."""
    table = []
    for name, inside in _slices(log, trained_rows, rows).items():
        if inside.any():
            measures = {
                "auc": auc(label[inside], score[inside]),
                "logloss": float(log_losses(label[inside], score[inside]).mean()),
                "baseline": auc(label[inside], baseline[inside]),
            }
            counts = {"samples": int(inside.sum()), "liked": float(label[inside].mean())}
            table.append({"slice": name, **counts, **without_nan(measures)})
    return table


def repeats(log: InteractionLog) -> BoolArray:
    """[log rows] whether an interaction repeats an item of its user; drawn negatives never do."""
    pairs = log.user.astype(np.int64) * len(log.item_ids) + log.item
    _, first, inverse = np.unique(pairs[log.observed], return_index=True, return_inverse=True)
    again = np.zeros(len(log), np.bool_)
    again[log.observed] = first[inverse] < np.arange(len(log.observed))
    return again


def without_nan(measures: Mapping[str, float]) -> dict[str, float | None]:
    """The measures with None for what is not defined: JSON has no NaN."""
    return {name: None if np.isnan(value) else value for name, value in measures.items()}


def _slices(log: InteractionLog, trained_rows: int, rows: IntArray) -> dict[str, BoolArray]:
    """The slices of test samples at these log rows, as masks [n] by name."""
    trained = log.observed[log.observed < trained_rows]

    def unseen(column: Array) -> BoolArray:
        return np.asarray(~np.isin(column[rows], column[trained]), np.bool_)

    return {
        "items that training never saw": unseen(log.item),
        "users that training never saw": unseen(log.user),
        f"users with at most {SHORT_HISTORY} earlier interactions": log.by_user().position[rows] <= SHORT_HISTORY,
        "repeats of an item of their user": repeats(log)[rows],
    }
