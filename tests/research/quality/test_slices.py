"""Slices against loops over the samples, and that each group splits all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.data.log import InteractionLog
from offline.training.samples import Split, SplitRows
from research.quality.slices import Slice, slices_of
from tests.research.quality.fakes import World


def masks(slices: tuple[Slice, ...], group: str) -> dict[str, list[bool]]:
    return {part.name: part.mask.tolist() for part in slices if part.group == group}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_group_splits_the_samples(small: World, split: Split) -> None:
    slices = slices_of(small.log, small.splits, split)
    assert len({part.name for part in slices}) == len(slices)
    for group in ("user", "experience", "item", "history", "time"):
        of_group = [part.mask for part in slices if part.group == group]
        assert (np.sum(of_group, axis=0) == 1).all()
        assert all(mask.any() for mask in of_group)


def test_by_hand() -> None:
    """User "a" trains on the items x and y; "b" comes later."""
    rows = [("a", "x" if at % 2 else "y", 4.0, at * 1000) for at in range(8)]
    rows += [("a", "x", 4.0, 86_400_000), ("b", "z", 4.0, 86_400_001), ("b", "x", 5.0, 3 * 86_400_000)]
    log = InteractionLog.sorted_by_time(rows, ["a", "b"], ["x", "y", "z"])
    splits = SplitRows({"train": np.arange(5, 8), "validation": np.array([8]), "test": np.array([8, 9, 10])}, 8)
    slices = slices_of(log, splits)
    assert masks(slices, "user") == {
        "no training row (cold)": [False, True, True],
        "some training rows": [True, False, False],
    }
    assert masks(slices, "experience") == {"fewer than 20 earlier interactions": [True, True, True]}
    assert masks(slices, "item") == {
        "0 training rows": [False, True, False],
        "1 to 9 training rows": [True, False, True],
    }
    assert masks(slices, "history") == {
        "0 to 4 earlier interactions": [False, True, True],
        "5 to 29 earlier interactions": [True, False, False],
    }
    assert masks(slices, "time") == {
        "tenth 1: 1970-01-02": [True, False, False],
        "tenth 4: 1970-01-02": [False, True, False],
        "tenth 7: 1970-01-04": [False, False, True],
    }


def test_buckets_against_a_loop(small: World) -> None:
    log = replace(small.log, user=np.zeros(len(small.log), np.int32))  # one user with all the history
    test = small.splits.rows["test"]
    buckets = masks(slices_of(log, small.splits), "history")
    assert set(buckets) == {"500 or more earlier interactions"}
    assert buckets["500 or more earlier interactions"] == [int(row) >= 500 for row in test]
    seen = {int(item): int((small.log.item[small.splits.rows["train"]] == item).sum()) for item in small.log.item[test]}
    many = [seen[int(item)] >= 10 for item in small.log.item[test]]
    assert masks(slices_of(small.log, small.splits), "item")["10 or more training rows"] == many


def test_tenths_are_of_equal_size_and_in_order(small: World) -> None:
    masks_of = [part.mask for part in slices_of(small.log, small.splits) if part.group == "time"]
    sizes = [int(mask.sum()) for mask in masks_of]
    assert len(sizes) == 10
    assert max(sizes) - min(sizes) <= 1
    order = [np.flatnonzero(mask) for mask in masks_of]
    assert np.concatenate(order).tolist() == list(range(len(small.splits.rows["test"])))
