"""The served model's quality on parts of the test samples that a mean over all of them hides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.contract.arrays import Array, BoolArray, FloatArray, IntArray
from offline.data.log import InteractionLog
from offline.metrics import auc, log_losses

SHORT_HISTORY = 10
"""Earlier interactions of a user up to which a history counts as short."""

UNSEEN_ITEMS = "items that training never saw"


@dataclass(frozen=True, slots=True)
class ScoredSamples:
    """Test samples [n]: their labels, and the probabilities of the served model, of a baseline, and of boosted trees
    where some were trained beside it."""

    label: FloatArray
    served: FloatArray
    baseline: FloatArray
    tree: FloatArray | None = None


def slice_table(masks: Mapping[str, BoolArray], scored: ScoredSamples) -> list[dict[str, Any]]:
    """A row for all test samples and for each slice with samples: ``samples``, share ``liked``, ``auc``, ``logloss``,
    AUC of the ``baseline`` and of the ``tree``.

    ``masks`` [n] by name, of ``slice_masks``. None stands for an AUC of one label; without trees there is no
    ``tree``."""
    table = []
    for name, inside in {"all": np.ones(len(scored.label), np.bool_), **masks}.items():
        if inside.any():
            label = scored.label[inside]
            measures = {
                "auc": auc(label, scored.served[inside]),
                "logloss": float(log_losses(label, scored.served[inside]).mean()),
                "baseline": auc(label, scored.baseline[inside]),
            }
            if scored.tree is not None:
                measures["tree"] = auc(label, scored.tree[inside])
            counts = {"samples": int(inside.sum()), "liked": float(label.mean())}
            table.append({"slice": name, **counts, **without_nan(measures)})
    return table


def repeats(log: InteractionLog) -> BoolArray:
    """[log rows] whether the user had interacted with the item before; of drawn negatives too."""
    pairs = log.user.astype(np.int64) * len(log.item_ids) + log.item
    known, first = np.unique(pairs[log.observed], return_index=True)
    at = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
    return np.asarray((known[at] == pairs) & (log.observed[first[at]] < np.arange(len(log))), np.bool_)


def without_nan(measures: Mapping[str, float]) -> dict[str, float | None]:
    """The measures with None for what is not defined: JSON has no NaN."""
    return {name: None if np.isnan(value) else value for name, value in measures.items()}


def slice_masks(log: InteractionLog, trained_rows: int, rows: IntArray) -> dict[str, BoolArray]:
    """The slices of test samples at these log rows, as masks [n] by name."""
    trained = log.observed[log.observed < trained_rows]

    def unseen(column: Array) -> BoolArray:
        return np.asarray(~np.isin(column[rows], column[trained]), np.bool_)

    again = repeats(log)[rows]
    masks = {
        UNSEEN_ITEMS: unseen(log.item),
        "users that training never saw": unseen(log.user),
        f"users with at most {SHORT_HISTORY} earlier interactions": log.by_user().position[rows] <= SHORT_HISTORY,
        "repeats of an item of their user": again,
    }
    return masks | ({"new items of their user": ~again} if again.any() else {})
