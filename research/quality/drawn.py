"""Rankings among drawn candidates: each purchase of a part beside items that were drawn for it, and what scores are
worth by the place that they give the purchase.

The draws settle what is measured. They are of the purchase's own coldness: an item that no training row knows is there
because somebody bought it later, so beside known items it would be told by that alone. They are items with an event in
the same or an earlier part, so none of a later one, and never what the user has an event with by the end of the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.contract.arrays import Array, FloatArray, IntArray
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.training.samples import SplitRows

Drawing = Literal["uniform", "popularity"]
JudgedPart = Literal["validation", "test"]

DRAWINGS: tuple[Drawing, ...] = ("uniform", "popularity")
COLDNESS = ("0 training rows", "1 to 9 training rows", "10 or more training rows")
"""Classes of items, by their number."""

_KNOWN_FROM, _WARM_FROM = 1, 10
_TOP = 10


@dataclass(frozen=True, slots=True, eq=False)
class DrawnLists:
    """The purchases of a part, at log ``rows`` [n], each with the candidates ``items`` [n, 1 + negatives] by their
    numbers in the log: the purchase itself first. ``coldness`` [n] is the class that all items of a list are of."""

    rows: IntArray
    items: IntArray
    coldness: IntArray


def item_coldness(log: InteractionLog, trained_rows: int) -> IntArray:
    """The number in ``COLDNESS`` of each item [items], by its interactions before ``trained_rows``."""
    count = _counts(log, log.observed[log.observed < trained_rows])
    return (count >= _KNOWN_FROM).astype(np.int64) + (count >= _WARM_FROM)


def purchases(log: InteractionLog, splits: SplitRows, part: JudgedPart, liked_above: float) -> IntArray:
    """Log rows of the positives of a part, also of users who have too little history for a sample."""
    begin, end = _bounds(log, splits, part)
    rows = log.observed[(log.observed >= begin) & (log.observed < end)]
    return np.asarray(rows[log.value[rows] > liked_above])


def draw_lists(
    log: InteractionLog,
    splits: SplitRows,
    part: JudgedPart,
    rows: IntArray,
    drawn: Drawing,
    negatives: int = 99,
    seed: int = 1,
) -> DrawnLists:
    """Candidates for the purchases of a part at log ``rows``, drawn independently of each other, so that one may come
    twice: an AUC is then the chance to be told from another draw, however many there are. A list depends on the seed
    and on its row, not on the other rows. DataError if a user has had every item of a purchase's coldness.

    "popularity" draws with the number of an item's training rows; an item without any, with that of its events between
    the training and the end of the part. The latter is the future of the model, but no model reads it, and the part's
    items themselves are known by it alone: drawn evenly instead, what sells among new items would be part of the task,
    which is what "uniform" asks.
    """
    _, end = _bounds(log, splits, part)
    weights = _weights(log, splits.trained_rows, end, drawn)
    of_item, index = item_coldness(log, splits.trained_rows), log.by_user()
    pools = [np.flatnonzero((of_item == coldness) & (weights > 0)) for coldness in range(len(COLDNESS))]
    coldness = of_item[log.item[rows]]
    items = np.empty((len(rows), 1 + negatives), np.int64)
    items[:, 0] = log.item[rows]
    for at, row in enumerate(rows.tolist()):
        pool, user = pools[coldness[at]], int(log.user[row])
        events = index.rows[index.start[user] : index.start[user + 1]]
        chances = weights[pool]
        chances[np.isin(pool, log.item[events[events < end]])] = 0.0
        until = np.cumsum(chances)
        if until[-1] <= 0:
            raise DataError(
                f"user {log.user_ids[user]} has had every item with {COLDNESS[coldness[at]]}: nothing can be drawn"
            )
        dice = np.random.default_rng([seed, DRAWINGS.index(drawn), row]).random(negatives)
        items[at, 1:] = pool[np.searchsorted(until, dice * until[-1], side="right")]
    return DrawnLists(rows, items, coldness)


def row_measures(scores: FloatArray) -> Mapping[str, Array]:
    """ "auc", "ndcg" and "hits" [n] of lists' scores [n, 1 + negatives], the purchase's first: the share of the others
    below it, NDCG@10, and whether it is among the first ten. Of candidates of the same score each order is as good as
    another, and the mean over them counts. ValueError for a score that is no number."""
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    own, others = scores[:, :1], scores[:, 1:]
    above, tied = (others > own).sum(axis=1), (others == own).sum(axis=1)
    places = np.arange(scores.shape[1])
    first = places < _TOP

    def mean_over_ties(worth: npt.NDArray[np.float64]) -> Array:
        so_far = np.concatenate([[0.0], np.cumsum(worth)])
        return np.asarray((so_far[above + tied + 1] - so_far[above]) / (tied + 1))

    return {
        "auc": 1.0 - (above + 0.5 * tied) / others.shape[1],
        "ndcg": mean_over_ties(first / np.log2(places + 2.0)),
        "hits": mean_over_ties(first.astype(np.float64)),
    }


def _bounds(log: InteractionLog, splits: SplitRows, part: JudgedPart) -> tuple[int, int]:
    """The log rows [begin, end) of a part."""
    of_part = splits.rows[part]
    if log.part_ends is None:
        return int(of_part[0]), int(of_part[-1]) + 1
    train, validation, test = log.part_ends
    if part == "test":
        return validation, test
    return (train if train < validation else int(of_part[0])), validation


def _weights(log: InteractionLog, trained_rows: int, end: int, drawn: Drawing) -> npt.NDArray[np.float64]:
    """[items], 0 for what has no event before the row ``end``."""
    events = log.observed[log.observed < end]
    count = _counts(log, events)
    if drawn == "uniform":
        return (count > 0).astype(np.float64)
    trained = _counts(log, events[events < trained_rows])
    return np.where(trained > 0, trained, count).astype(np.float64)


def _counts(log: InteractionLog, rows: IntArray) -> IntArray:
    return np.bincount(log.item[rows], minlength=len(log.item_ids))
