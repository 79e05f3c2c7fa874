"""The split that matching is judged on: a user's last two positives are held out.

The protocol is the paper's (arXiv 2412.18241) for MovieLens-1M, with its leak repaired: only positives count; a user's
last one is the test item, the second last the validation item, and graph, texts and training hold nothing of these two.
A split is written to a file for peers that import nothing of Lorank.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.contract.arrays import IntArray
from offline.data.catalogue import DataError
from offline.data.files import read_arrays, write_arrays
from offline.knowledge.autograph.graph import Evidence, Versions


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """Positives only, users and items numbered anew from 0.

    ``catalogue`` [N] and ``members`` [U]: which item and user of the log a number stands for. ``train_user`` and
    ``train_item`` [n] in arrival order; ``train_row`` [n] their log rows. ``user``, ``validation``, ``test`` [E]: the
    judged users and their two held-out items; ``held_from`` [E]: the log row of the validation item. A user who is not
    judged has all positives in the training part.
    """

    catalogue: IntArray
    members: IntArray
    train_user: IntArray
    train_item: IntArray
    train_row: IntArray
    user: IntArray
    validation: IntArray
    test: IntArray
    held_from: IntArray

    def save(self, path: Path) -> None:
        write_arrays(path, **{name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def load(cls, path: Path) -> LeaveOneOut:
        arrays = read_arrays(path)
        if missing := set(cls.__slots__) - set(arrays):
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}")
        return cls(**{name: arrays[name] for name in cls.__slots__})


def leave_one_out(
    user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], liked: npt.NDArray[np.bool_], *, least: int = 5
) -> LeaveOneOut:
    """Split a log, given in arrival order. Users with ``least`` positives before the validation item are judged."""
    rows = np.flatnonzero(liked)
    members, who = np.unique(user[rows], return_inverse=True)
    catalogue, what = np.unique(item[rows], return_inverse=True)
    counts = np.bincount(who, minlength=len(members))
    judged = np.flatnonzero(counts >= least + 2)
    if not len(judged):
        raise DataError(f"no user has {least + 2} positive interactions: there is nothing to judge matching on")
    order = np.argsort(who, kind="stable")
    last = np.cumsum(counts)[judged] - 1
    left_out = np.concatenate([order[last], order[last - 1]])
    train = np.ones(len(rows), np.bool_)
    train[left_out] = False
    return LeaveOneOut(
        catalogue=catalogue.astype(np.int64),
        members=members.astype(np.int64),
        train_user=who[train].astype(np.int64),
        train_item=what[train].astype(np.int64),
        train_row=rows[train].astype(np.int64),
        user=judged.astype(np.int64),
        validation=what[order[last - 1]].astype(np.int64),
        test=what[order[last]].astype(np.int64),
        held_from=rows[order[last - 1]].astype(np.int64),
    )


def training_part(split: LeaveOneOut, evidence: Evidence) -> Evidence:
    """The part of a log's evidence that a split leaves: training rows, their items and users, and the versions of a
    judged user that closed before its validation item came, so that no text speaks of what is held out."""
    versions, number = evidence.versions, np.full(len(evidence.versions.start) - 1, -1)
    number[split.members] = np.arange(len(split.members))
    end = np.full(len(number), len(evidence.user))
    end[split.members[split.user]] = split.held_from
    closed = (versions.closed_at < end[versions.user]) & (number[versions.user] >= 0)
    counts = np.bincount(number[versions.user[closed]], minlength=len(split.members))
    last_row = np.searchsorted(split.train_row, versions.closed_at[closed], side="right") - 1
    return Evidence(
        evidence.items[split.catalogue],
        evidence.known_items[split.catalogue],
        Versions(
            versions.vectors[closed],
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.maximum(last_row, 0).astype(np.int64),
            versions.known[closed],
        ),
        split.train_user,
        split.train_item,
        np.ones(len(split.train_user), np.bool_),
    )
