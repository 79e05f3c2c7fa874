"""Slices of the test samples: each mask is counted by hand on a small log."""

from __future__ import annotations

import numpy as np

from offline.data.log import InteractionLog
from offline.training.report import slices_markdown
from offline.training.slices import SHORT_HISTORY, ScoredSamples, repeats, slice_masks, slice_table

ROWS = [("old", f"i{at % 15}", 5.0 if at % 2 else 1.0, at) for at in range(20)]
LATER = [("old", "i1", 5.0, 20), ("old", "unseen", 1.0, 21), ("new", "i2", 5.0, 22), ("new", "i3", 1.0, 23)]


def log() -> InteractionLog:
    return InteractionLog.sorted_by_time([*ROWS, *LATER], ["old", "new"], [])


def test_each_slice_has_its_samples_and_measures() -> None:
    rows = np.arange(20, 24)
    label = np.array([1, 0, 1, 0], np.float32)
    score = np.array([0.9, 0.2, 0.4, 0.6], np.float32)
    scored = ScoredSamples(label, score, np.full(4, 0.5, np.float32), 1 - score)
    table = {row.pop("slice"): row for row in slice_table(slice_masks(log(), 20, rows), scored)}
    assert {name: row["samples"] for name, row in table.items()} == {
        "all": 4,
        "items that training never saw": 1,
        "users that training never saw": 2,
        f"users with at most {SHORT_HISTORY} earlier interactions": 2,
        "repeats of an item of their user": 1,
        "new items of their user": 3,
    }
    assert table["items that training never saw"]["auc"] is None, "one label"
    of_new = table["users that training never saw"]
    assert (of_new["auc"], of_new["baseline"], of_new["tree"], of_new["liked"]) == (0.0, 0.5, 1.0, 0.5)


def test_without_trees_there_is_no_column_for_them() -> None:
    scored = ScoredSamples(*(np.array([1, 0], np.float32) for _ in range(3)))
    assert all("tree" not in row for row in slice_table({"none": np.zeros(2, np.bool_)}, scored))


def test_a_drawn_negative_repeats_what_its_user_had_and_is_nobodys_first() -> None:
    """Before the second event of the user "new", whose first is of i2, i2 and i4 are drawn."""
    drawn = log().with_sampled(np.array([23, 23]), np.array([2, 4], np.int32))
    assert repeats(drawn).tolist() == [False] * 15 + [True] * 6 + [False, False, True, False, False]


def test_the_slices_in_markdown() -> None:
    row = {"slice": "repeats", "samples": 1200, "liked": 0.25, "auc": None, "logloss": 0.5, "baseline": 0.75}
    assert slices_markdown([row]).splitlines()[2] == "| repeats | 1,200 | 25.0% | undefined | 0.5000 | 0.7500 |"
    lines = slices_markdown([{**row, "tree": 0.8}]).splitlines()
    assert [lines[0].endswith("| AUC of the trees |"), lines[2].endswith("| 0.7500 | 0.8000 |")] == [True, True]
    assert slices_markdown([]) == ""
