"""Matching quality: next-item retrieval over the full catalogue, for our vectors and for any peer's.

Every method's ranked lists come back through ``Lists``, so that one evaluator judges all of them, on the split of
``leave_one_out``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.contract.arrays import Array, FloatArray, IntArray
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays
from offline.knowledge.autograph.assign import Assigned
from offline.knowledge.autograph.graph import slice_of
from offline.training.bootstrap import Difference
from research.autograph.leave_one_out import LeaveOneOut

Target = Literal["validation", "test"]
TOP_ITEMS = 50
_CHUNK = 512
"""Users scored at once; bounds the memory to chunk x items."""


@dataclass(frozen=True, slots=True)
class Lists:
    """Ranked items [E, TOP] of the judged users, best first, in the order of ``LeaveOneOut.user``."""

    validation: IntArray
    test: IntArray

    def save(self, path: Path) -> None:
        write_arrays(path, validation=self.validation, test=self.test)

    @classmethod
    def load(cls, path: Path) -> Lists:
        arrays = read_arrays(path)
        if missing := {"validation", "test"} - set(arrays):
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}")
        return cls(arrays["validation"], arrays["test"])


def rank_items(split: LeaveOneOut, scores: Callable[[IntArray], FloatArray], target: Target) -> IntArray:
    """The best TOP items of every judged user, [E, TOP]; ties go to the lower item number.

    ``scores(positions)`` gives [n, N] for positions of ``split.user``. Training items are never offered, nor is the
    validation item when the test item is wanted.
    """
    start, items = _by_user(split)
    ranked = np.empty((len(split.user), min(TOP_ITEMS, len(split.catalogue))), np.int64)
    for at in range(0, len(split.user), _CHUNK):
        positions = np.arange(at, min(at + _CHUNK, len(split.user)))
        offered = np.array(scores(positions), np.float64)
        for row, position in enumerate(positions):
            offered[row, items[start[split.user[position]] : start[split.user[position] + 1]]] = -np.inf
            if target == "test":
                offered[row, split.validation[position]] = -np.inf
        ranked[positions] = np.argsort(-offered, axis=1, kind="stable")[:, :TOP_ITEMS]
    return ranked


def autograph_lists(split: LeaveOneOut, assigned: Assigned, from_row: IntArray) -> Lists:
    """Lists of AutoGraph's own vectors, by dot product, when the training part is the whole log.

    A user asks right after its own last training row: it is seen as it was then, and so is the catalogue.
    """
    last = np.zeros(len(split.members), np.int64)
    np.maximum.at(last, split.train_user, np.arange(len(split.train_user)) + 1)
    row = last[split.user]
    users, items, of_slice = assigned.user_vectors(split.user, row), assigned.item_vectors(), slice_of(row, from_row)

    def scores(positions: IntArray) -> FloatArray:
        return np.asarray(np.einsum("nd,ncd->nc", users[positions], items[of_slice[positions]], optimize=True))

    return Lists(rank_items(split, scores, "validation"), rank_items(split, scores, "test"))


@dataclass(frozen=True, slots=True)
class Matching:
    """With one held-out item per user, Recall@50 is the share of users whose item is listed; NDCG@50 is discounted by
    its place. ``hit`` [E]: each user's item is listed; ``gain`` [E]: its discounted gain, 0 where it is not. Shares in
    both if several lists per user were judged."""

    hit: npt.NDArray[np.float64]
    gain: npt.NDArray[np.float64]

    @property
    def recall(self) -> float:
        return float(self.hit.mean())

    @property
    def ndcg(self) -> float:
        return float(self.gain.mean())


def matching_quality(ranked: IntArray, held_out: IntArray) -> Matching:
    """Quality of lists [E, TOP] against one held-out item per user [E]; ValueError if a list repeats an item."""
    ordered = np.sort(ranked, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("a ranked list names an item twice")
    hits = ranked == held_out[:, None]
    gain = (hits / np.log2(np.arange(ranked.shape[1]) + 2.0)).sum(axis=1)
    return Matching(hits.any(axis=1).astype(np.float64), gain)


def mean_quality(trainings: Sequence[Matching]) -> Matching:
    """Mean quality of a method over several trainings, user by user."""
    return Matching(
        np.mean([training.hit for training in trainings], axis=0),
        np.mean([training.gain for training in trainings], axis=0),
    )


def paired_difference(method: Matching, baseline: Matching, *, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Recall and NDCG of ``method`` minus ``baseline``: (difference, low, high), 95 % over resampled users."""
    means = {
        "recall": mean_of_users(method.hit - baseline.hit, seed=seed),
        "ndcg": mean_of_users(method.gain - baseline.gain, seed=seed),
    }
    return {name: (mean.middle, mean.low, mean.high) for name, mean in means.items()}


def _by_user(split: LeaveOneOut) -> tuple[IntArray, IntArray]:
    order = np.argsort(split.train_user, kind="stable")
    counts = np.bincount(split.train_user, minlength=len(split.members))
    return np.concatenate([[0], np.cumsum(counts)]), split.train_item[order]


def mean_of_users(values: Array, count: int = 1000, seed: int = 0) -> Difference:
    """Mean of one value per user [u], such as a difference of two methods, with its interval over resampled users."""
    picks = np.random.default_rng(seed).integers(len(values), size=(count, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return Difference(float(values.mean()), float(low), float(high))
