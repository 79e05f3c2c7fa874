"""Parts of the samples that are judged on their own. Each group of slices splits all samples.

A training row is a sample of the training split; how well a user or an item is known is counted in those. The history
is what the user did before the sample, whenever that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from models.contract.arrays import BoolArray, IntArray
from offline.data.log import InteractionLog
from offline.training.samples import Split, SplitRows

COLD_BELOW = 20
"""A user with fewer earlier interactions is cold in the sense of docs/knowledge.md too."""
_HISTORY = (0, 5, 30, 100, 200, 500)
_ITEM_ROWS = (0, 1, 10)
_TENTHS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """``mask`` [n] of the samples of a split, in the order of ``SplitRows``."""

    group: str
    name: str
    mask: BoolArray


def slices_of(log: InteractionLog, splits: SplitRows, split: Split = "test") -> tuple[Slice, ...]:
    """All slices of a split that have samples."""
    rows, train = splits.rows[split], splits.rows["train"]
    user_rows = np.bincount(log.user[train], minlength=len(log.user_ids))[log.user[rows]]
    item_rows = np.bincount(log.item[train], minlength=len(log.item_ids))[log.item[rows]]
    earlier = log.by_user().position[rows]
    slices = [
        Slice("user", "no training row (cold)", user_rows == 0),
        Slice("user", "some training rows", user_rows > 0),
        Slice("experience", f"fewer than {COLD_BELOW} earlier interactions", earlier < COLD_BELOW),
        Slice("experience", f"{COLD_BELOW} or more", earlier >= COLD_BELOW),
        *_buckets("item", item_rows, _ITEM_ROWS, "training rows"),
        *_buckets("history", earlier, _HISTORY, "earlier interactions"),
        *_tenths(log.time_ms[rows], rows),
    ]
    return tuple(part for part in slices if part.mask.any())


def _buckets(group: str, values: IntArray, edges: tuple[int, ...], unit: str) -> Iterator[Slice]:
    """Slices between rising edges; the last is open."""
    for low, high in zip(edges, (*edges[1:], None), strict=True):
        if high is None:
            yield Slice(group, f"{low} or more {unit}", values >= low)
        else:
            name = f"{low}" if high == low + 1 else f"{low} to {high - 1}"
            yield Slice(group, f"{name} {unit}", (values >= low) & (values < high))


def _tenths(time_ms: IntArray, rows: IntArray) -> Iterator[Slice]:
    """Tenths of the samples in the order of the log, which is how splits are cut, named by their first and last day."""
    place = np.empty(len(rows), np.int64)
    place[np.argsort(rows, kind="stable")] = np.arange(len(rows))
    tenth = place * _TENTHS // max(len(rows), 1)
    for at in range(_TENTHS):
        mask = tenth == at
        if mask.any():
            first, last = _day(int(time_ms[mask].min())), _day(int(time_ms[mask].max()))
            yield Slice("time", f"tenth {at + 1}: {first}" + (f" to {last}" if last != first else ""), mask)


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date().isoformat()
