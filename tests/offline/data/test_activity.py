"""Settings that follow from how many interactions users have."""

from __future__ import annotations

import numpy as np
import pytest

from offline.data.activity import Activity


@pytest.mark.parametrize(
    ("per_user", "min_history", "partition_size"),
    [
        ([200] * 10, 5, 50),
        ([40] * 3 + [8] * 7, 5, 30),
        ([40] * 2 + [8] * 8, 5, 5),
        ([4] * 10, 2, 5),
        ([1] * 10, 0, 5),
        ([], 0, 5),
    ],
)
def test_numbers_that_use_enough(per_user: list[int], min_history: int, partition_size: int) -> None:
    activity = Activity(np.array(per_user, np.int64))
    assert (activity.min_history, activity.partition_size) == (min_history, partition_size)


def test_shares() -> None:
    activity = Activity(np.array([10, 4, 1], np.int64))
    assert activity.used(2) == 10 / 15
    assert activity.covered(4) == 2 / 3
    assert activity.partitions(4) == 3
