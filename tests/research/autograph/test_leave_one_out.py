"""The split: what is held out, and that neither rows nor texts of it stay in the training part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.arrays import IntArray
from offline.data.catalogue import DataError
from offline.data.files import write_arrays
from offline.knowledge.autograph.graph import Evidence, Versions
from research.autograph.leave_one_out import LeaveOneOut, leave_one_out, training_part

USER = np.array([4, 9, 4, 7, 4, 4, 9, 4, 4, 4, 4])
ITEM = np.array([10, 11, 11, 10, 12, 30, 12, 13, 14, 15, 16])
LIKED = np.array([True, True, True, False, True, False, True, True, True, True, True])


@pytest.fixture(scope="module")
def split() -> LeaveOneOut:
    """User 4 likes 10, 11, .., 16; user 9 likes 11 and 12 only; user 7 likes nothing."""
    return leave_one_out(USER, ITEM, LIKED)


def test_the_last_two_positives_are_held_out(split: LeaveOneOut) -> None:
    assert split.members.tolist() == [4, 9]
    assert split.catalogue.tolist() == [10, 11, 12, 13, 14, 15, 16]
    assert split.user.tolist() == [0], "user 9 has too few positives to be judged"
    assert split.catalogue[split.validation].tolist() == [15]
    assert split.catalogue[split.test].tolist() == [16]
    assert split.held_from.tolist() == [9], "the log row of item 15"
    assert split.train_row.tolist() == [0, 1, 2, 4, 6, 7, 8]
    assert split.train_user.tolist() == [0, 1, 0, 0, 1, 0, 0]
    assert split.catalogue[split.train_item].tolist() == [10, 11, 11, 12, 12, 13, 14]


def test_nobody_to_judge_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="7 positive"):
        leave_one_out(np.zeros(6, np.int64), np.arange(6), np.ones(6, np.bool_))


def log_evidence(user: IntArray, closed_at: IntArray) -> Evidence:
    """The log above with user versions; vector v is (v, v)."""
    wide = np.repeat(np.arange(float(len(user)), dtype=np.float32)[:, None], 2, axis=1)
    start = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=10))])
    versions = Versions(wide, start, closed_at, np.arange(len(user)) != 1)
    items = np.arange(62, dtype=np.float32).reshape(31, 2)
    return Evidence(items, np.arange(31) != 12, versions, USER, ITEM, LIKED)


def test_the_training_part_is_a_log_of_its_own(split: LeaveOneOut) -> None:
    part = training_part(split, log_evidence(np.array([4, 9]), np.array([4, 6])))
    assert part.user.tolist() == split.train_user.tolist()
    assert part.item.tolist() == split.train_item.tolist()
    assert part.liked.all()
    assert part.items[:, 0].tolist() == [2.0 * at for at in range(10, 17)]
    assert part.known_items.tolist() == [True, True, False, True, True, True, True]
    assert part.versions.start.tolist() == [0, 1, 2]
    assert part.versions.closed_at.tolist() == [3, 4], "log rows 4 and 6 are training rows 3 and 4"
    assert part.versions.known.tolist() == [True, False]


def test_no_version_of_a_judged_user_knows_what_is_held_out(split: LeaveOneOut) -> None:
    """User 4's validation item is log row 9, its test item row 10. User 9 is not judged, user 7 not in the split."""
    part = training_part(split, log_evidence(np.array([4, 4, 4, 4, 7, 9]), np.array([5, 8, 9, 10, 3, 10])))
    assert part.versions.vectors[:, 0].tolist() == [0.0, 1.0, 5.0]
    assert part.versions.start.tolist() == [0, 2, 3]
    assert part.versions.closed_at.tolist() == [3, 6, 6], "row 5 is no training row: seen after the last one before it"


def test_a_version_from_before_the_first_training_row_is_seen_after_it(split: LeaveOneOut) -> None:
    early = leave_one_out(np.append(7, USER), np.append(10, ITEM), np.append(False, LIKED))
    evidence = log_evidence(np.array([4]), np.array([0]))
    evidence = Evidence(
        evidence.items,
        evidence.known_items,
        evidence.versions,
        np.append(7, USER),
        np.append(10, ITEM),
        np.append(False, LIKED),
    )
    assert training_part(early, evidence).versions.closed_at.tolist() == [0]


def test_a_split_reads_back(split: LeaveOneOut, tmp_path: Path) -> None:
    split.save(tmp_path / "split.npz")
    read = LeaveOneOut.load(tmp_path / "split.npz")
    assert all(np.array_equal(getattr(read, name), getattr(split, name)) for name in LeaveOneOut.__slots__)
    write_arrays(tmp_path / "other.npz", test=np.zeros(1))
    with pytest.raises(DataError, match="lacks"):
        LeaveOneOut.load(tmp_path / "other.npz")
