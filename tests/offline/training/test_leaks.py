"""The leak test: nothing that comes after a sample, nor its own label, may change what the model sees of it.

The future is replaced, everything is rebuilt from the changed log, and the sample's tensors are compared byte for
byte. The same comparison is then run on encoders with leaks built in, to show that it would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from offline.data.log import InteractionLog
from offline.knowledge.liber.partitions import Partitions
from offline.training.samples import SampleEncoder, Split, SplitRows, split_samples, statistics_before, statistics_until
from tests.synthetic import PARTITION_SIZE, SCHEMA, Synthetic, knowledge_of, synthetic

Build = Callable[[Synthetic, int], SampleEncoder]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=11, users=25, items=15, events=30)


@pytest.fixture(scope="module")
def splits(data: Synthetic) -> SplitRows:
    return split_samples(data.config.samples, data.log)


def honest(data: Synthetic, trained_rows: int) -> SampleEncoder:
    return SampleEncoder(SCHEMA, data.catalogue, data.log, data.knowledge, PARTITION_SIZE, trained_rows)


def with_statistics_of_everything(data: Synthetic, trained_rows: int) -> SampleEncoder:
    encoder = honest(data, trained_rows)
    encoder._numeric = statistics_until(SCHEMA, data.log, len(data.log))[data.log.item]
    return encoder


def with_running_statistics(data: Synthetic, trained_rows: int) -> SampleEncoder:
    """Earlier rows only, but not frozen at the end of the training period."""
    encoder = honest(data, trained_rows)
    encoder._numeric = statistics_before(SCHEMA, data.log, len(data.log))
    return encoder


def with_the_sample_in_its_own_history(data: Synthetic, trained_rows: int) -> SampleEncoder:
    encoder = honest(data, trained_rows)
    encoder._index = replace(encoder._index, position=encoder._index.position + 1)
    return encoder


class _OneTooEarly(Partitions):
    """Counts a partition as closed by the sample that closes it."""

    def visible(self, user: Rows, earlier: Rows) -> Rows:
        return Partitions.visible(self, user, earlier + 1)


def with_partitions_that_the_sample_closes(data: Synthetic, trained_rows: int) -> SampleEncoder:
    encoder = honest(data, trained_rows)
    held = encoder._partitions
    encoder._partitions = _OneTooEarly(held.size, held.start, held.rows, held.user)
    return encoder


def with_other_log(data: Synthetic, log: InteractionLog) -> Synthetic:
    """The same data set with another log, and with knowledge made from it."""
    return replace(data, log=log, knowledge=knowledge_of(data.catalogue, log))


def replaced(data: Synthetic, where: Mask, keep_item: int, *, keep_users: bool, seed: int) -> Synthetic:
    """Other items, values and times at ``where``, and other users too; row ``keep_item`` keeps its item and time, but
    its label is turned around."""
    generator = np.random.default_rng(seed)
    log = data.log
    n = int(where.sum())
    user, item, value, time_ms = log.user.copy(), log.item.copy(), log.value.copy(), log.time_ms.copy()
    item[where] = generator.integers(len(log.item_ids), size=n)
    value[where] = generator.choice(np.array([1, 2, 3, 4, 5], np.float32), size=n)
    time_ms[where] += generator.integers(10**6, size=n)
    item[keep_item], time_ms[keep_item] = log.item[keep_item], log.time_ms[keep_item]
    if where[keep_item]:
        value[keep_item] = 1.0 if log.value[keep_item] > SCHEMA.liked_above else 5.0
    if not keep_users:
        at = np.flatnonzero(where & (np.arange(len(log)) != keep_item))
        user[at] = generator.integers(len(log.user_ids), size=len(at))
    return with_other_log(data, replace(log, user=user, item=item, value=value, time_ms=time_ms))


def changed_inputs(build: Build, one: Synthetic, other: Synthetic, row: int, trained_rows: int) -> set[str]:
    """Names of the inputs of a sample that differ between two data sets."""
    before = build(one, trained_rows).tensors(np.array([row]))
    after = build(other, trained_rows).tensors(np.array([row]))
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def future_leaks(build: Build, data: Synthetic, splits: SplitRows, split: Split) -> set[str]:
    """Inputs of random samples that change with their own value or with anything that comes after them."""
    found: set[str] = set()
    for row in some_rows(splits, split):
        other = replaced(data, np.arange(len(data.log)) >= row, row, keep_users=False, seed=row)
        found |= changed_inputs(build, data, other, row, splits.trained_rows)
    return found


def neighbour_leaks(build: Build, data: Synthetic, splits: SplitRows, split: Split) -> set[str]:
    """Inputs of random samples that change with what other users did after the training period."""
    found: set[str] = set()
    for row in some_rows(splits, split):
        others = (np.arange(len(data.log)) >= splits.trained_rows) & (data.log.user != data.log.user[row])
        other = replaced(data, others, row, keep_users=True, seed=row)
        found |= changed_inputs(build, data, other, row, splits.trained_rows)
    return found


def some_rows(splits: SplitRows, split: Split) -> list[int]:
    """Half of the samples of a small split, and a hundred of a large one."""
    rows = splits.rows[split]
    chosen: list[int] = np.random.default_rng(7).choice(rows, min(100, len(rows) // 2), replace=False).tolist()
    return chosen


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_future_changes_nothing(data: Synthetic, splits: SplitRows, split: Split) -> None:
    assert future_leaks(honest, data, splits, split) == set()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_others_do_after_training_changes_nothing(data: Synthetic, splits: SplitRows, split: Split) -> None:
    assert neighbour_leaks(honest, data, splits, split) == set()


def test_the_past_does_change_samples(data: Synthetic, splits: SplitRows) -> None:
    """The comparison looks at something: a changed past shows in every kind of input."""
    row = int(splits.rows["test"][-1])
    other = replaced(data, np.arange(len(data.log)) < row, row, keep_users=True, seed=1)
    changed = changed_inputs(honest, data, other, row, splits.trained_rows)
    assert changed >= {"user_numeric", "history_index", "history_value", "partition_vectors", "item_numeric"}


@pytest.mark.parametrize(
    ("leaky", "split", "shown"),
    [
        (with_statistics_of_everything, "train", "item_numeric"),
        (with_statistics_of_everything, "test", "item_numeric"),
        (with_the_sample_in_its_own_history, "train", "history_value"),
        (with_the_sample_in_its_own_history, "test", "user_numeric"),
        (with_partitions_that_the_sample_closes, "train", "partition_vectors"),
        (with_partitions_that_the_sample_closes, "test", "partition_vectors"),
    ],
)
def test_leaks_of_the_future_would_be_noticed(
    data: Synthetic, splits: SplitRows, leaky: Build, split: Split, shown: str
) -> None:
    assert shown in future_leaks(leaky, data, splits, split)


@pytest.mark.parametrize("leaky", [with_statistics_of_everything, with_running_statistics])
def test_statistics_that_are_not_frozen_would_be_noticed(data: Synthetic, splits: SplitRows, leaky: Build) -> None:
    assert neighbour_leaks(leaky, data, splits, "test") == {"item_numeric"}
