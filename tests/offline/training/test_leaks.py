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

from models.contract.arrays import FloatArray
from models.contract.schema import RunningSpec
from offline.data.log import InteractionLog
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
from offline.training.samples import SampleEncoder, Split, SplitRows, split_samples
from offline.training.statistics import running_statistics, statistics_until
from tests import synthetic as data_set
from tests.synthetic import DIM, Synthetic, knowledge_of, synthetic

Build = Callable[[Synthetic, int], SampleEncoder]
Mask = npt.NDArray[np.bool_]
SLICES = 4
SCHEMA = data_set.SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=(0.01, 1.0))})
"""With all inputs that there are."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=11, users=12, items=15, events=30)


@pytest.fixture(scope="module")
def splits(data: Synthetic) -> SplitRows:
    return split_samples(data.config.samples, data.log)


def honest(data: Synthetic, trained_rows: int) -> SampleEncoder:
    return encoder_of(data, graph_slices(data, trained_rows), trained_rows)


def encoder_of(data: Synthetic, slices: ItemVectors, trained_rows: int) -> SampleEncoder:
    """An encoder whose items of "marc" are ``slices``."""
    produced = dict(data.knowledge.produced)
    produced["marc"] = Produced(produced["marc"].users, slices)
    return SampleEncoder(SCHEMA, data.catalogue, data.log, Knowledge(produced), trained_rows)


def graph_slices(data: Synthetic, trained_rows: int, until: int | None = None) -> ItemVectors:
    """Items as a graph of the interactions before each slice would have them; the last slice knows the training period
    (or all rows before ``until``)."""
    from_row = np.array([trained_rows * at // SLICES for at in range(SLICES)] + [trained_rows])
    ends = [*from_row[:-1], trained_rows if until is None else until]
    vectors = np.stack([_linked(data.log, int(end)) for end in ends])
    return replace(knowledge_of(data.catalogue, data.log).items["marc"], vectors=vectors, from_row=from_row)


def _linked(log: InteractionLog, end: int) -> FloatArray:
    """[items, dim]: how often, how much and by whom each item was rated before log row ``end``."""
    vectors = np.zeros((len(log.item_ids), DIM - 2), np.float32)
    for user, item, value in zip(
        log.user[:end].tolist(), log.item[:end].tolist(), log.value[:end].tolist(), strict=True
    ):
        vectors[item] += (1 / 16, value / 64, np.sin(user) / 4, np.cos(user) / 4)
    return vectors


def with_statistics_of_everything(data: Synthetic, trained_rows: int) -> SampleEncoder:
    encoder = honest(data, trained_rows)
    encoder.numeric = statistics_until(SCHEMA, data.log, len(data.log))[data.log.item]
    return encoder


def with_running_statistics(data: Synthetic, trained_rows: int) -> SampleEncoder:
    """Earlier rows only, but not frozen at the end of the training period."""
    encoder = honest(data, trained_rows)
    encoder.numeric = running_statistics(SCHEMA, data.log, data.log.item, len(data.log))
    return encoder


def with_releases_of_everything(data: Synthetic, trained_rows: int) -> SampleEncoder:
    """Items of a history have the statistics that the whole log gives them."""
    encoder = honest(data, trained_rows)
    encoder.releases.values[:, 1:] = statistics_until(SCHEMA, data.log, len(data.log))
    return encoder


def with_the_next_release(data: Synthetic, trained_rows: int) -> SampleEncoder:
    """Every release is published too early: it counts interactions of its own samples."""
    encoder = honest(data, trained_rows)
    numeric = encoder.releases.values
    numeric[:-1] = numeric[1:].copy()
    return encoder


def with_the_sample_in_its_own_history(data: Synthetic, trained_rows: int) -> SampleEncoder:
    encoder = honest(data, trained_rows)
    encoder.index = replace(encoder.index, position=encoder.index.position + 1)
    return encoder


def with_versions_that_the_sample_makes(data: Synthetic, trained_rows: int) -> SampleEncoder:
    """Every version holds one row too early: for the very sample that closes its partition."""

    def early(users: UserVectors | None) -> UserVectors | None:
        return None if users is None else replace(users, since=users.since - 1)

    produced = {
        name: Produced(early(producer.users), producer.items) for name, producer in data.knowledge.produced.items()
    }
    return honest(replace(data, knowledge=Knowledge(produced)), trained_rows)


def with_the_next_slice(data: Synthetic, trained_rows: int) -> SampleEncoder:
    """Every slice holds one slice too early: it knows interactions of its own samples."""
    slices = graph_slices(data, trained_rows)
    early = replace(slices, vectors=slices.vectors[1:], from_row=slices.from_row[:-1])
    return encoder_of(data, early, trained_rows)


def with_a_graph_of_everything(data: Synthetic, trained_rows: int) -> SampleEncoder:
    """The last slice knows interactions after the training period."""
    return encoder_of(data, graph_slices(data, trained_rows, len(data.log)), trained_rows)


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


def changed_inputs(before: SampleEncoder, after: SampleEncoder, row: int) -> set[str]:
    """Names of the inputs of a sample that differ between the encoders of two data sets."""
    inputs, changed = before.tensors(np.array([row])), after.tensors(np.array([row]))
    return {name for name in inputs if inputs[name].tobytes() != changed[name].tobytes()}


def future_leaks(build: Build, data: Synthetic, splits: SplitRows, split: Split, most: int = 100) -> set[str]:
    """Inputs of random samples that change with their own value or with anything that comes after them."""
    before, leaks = build(data, splits.trained_rows), set[str]()
    for row in some_rows(splits, split, most):
        other = replaced(data, np.arange(len(data.log)) >= row, row, keep_users=False, seed=row)
        leaks |= changed_inputs(before, build(other, splits.trained_rows), row)
    return leaks


def neighbour_leaks(build: Build, data: Synthetic, splits: SplitRows, split: Split) -> set[str]:
    """Inputs of random samples that change with what other users did after the training period."""
    before, leaks = build(data, splits.trained_rows), set[str]()
    for row in some_rows(splits, split, 100):
        others = (np.arange(len(data.log)) >= splits.trained_rows) & (data.log.user != data.log.user[row])
        other = replaced(data, others, row, keep_users=True, seed=row)
        leaks |= changed_inputs(before, build(other, splits.trained_rows), row)
    return leaks


def some_rows(splits: SplitRows, split: Split, most: int) -> list[int]:
    """Half of the samples of a small split, and ``most`` of a large one."""
    rows = splits.rows[split]
    chosen: list[int] = np.random.default_rng(7).choice(rows, min(most, len(rows) // 2), replace=False).tolist()
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
    before, after = honest(data, splits.trained_rows), honest(other, splits.trained_rows)
    assert changed_inputs(before, after, row) == {
        "user_numeric", "user_running", "history_index", "history_categorical", "history_numeric", "history_value",
        "history_hours", "history_vectors", "history_row", "user_vectors", "partition_vectors", "item_numeric",
        "item_vectors",
    }  # fmt: skip


def test_every_slice_is_seen_and_its_past_shows(data: Synthetic, splits: SplitRows) -> None:
    """The slices of this test do differ, so that one too early is a difference."""
    slices = graph_slices(data, splits.trained_rows)
    assert len(np.unique(slices.vectors.reshape(SLICES + 1, -1), axis=0)) == SLICES + 1
    rows = np.concatenate(list(splits.rows.values()))
    assert set(np.searchsorted(slices.from_row, rows, "right") - 1) == set(range(SLICES + 1))


@pytest.mark.parametrize(
    ("leaky", "split", "shown"),
    [
        (with_statistics_of_everything, "train", {"item_numeric"}),
        (with_statistics_of_everything, "test", {"item_numeric"}),
        (with_releases_of_everything, "train", {"history_numeric"}),
        (with_releases_of_everything, "test", {"history_numeric"}),
        (with_the_next_release, "train", {"history_numeric"}),
        (with_the_sample_in_its_own_history, "train", {"history_value"}),
        (with_the_sample_in_its_own_history, "test", {"user_numeric"}),
        (with_versions_that_the_sample_makes, "train", {"partition_vectors", "user_vectors"}),
        (with_versions_that_the_sample_makes, "test", {"partition_vectors", "user_vectors"}),
        (with_the_next_slice, "train", {"item_vectors", "history_vectors"}),
        (with_a_graph_of_everything, "validation", {"item_vectors", "history_vectors"}),
    ],
)
def test_leaks_of_the_future_would_be_noticed(
    data: Synthetic, splits: SplitRows, leaky: Build, split: Split, shown: set[str]
) -> None:
    assert shown <= future_leaks(leaky, data, splits, split, most=30)


@pytest.mark.parametrize(
    ("leaky", "shown"),
    [
        (with_statistics_of_everything, {"item_numeric"}),
        (with_running_statistics, {"item_numeric"}),
        (with_releases_of_everything, {"history_numeric"}),
        (with_a_graph_of_everything, {"item_vectors", "history_vectors"}),
    ],
)
def test_knowing_what_others_do_after_training_would_be_noticed(
    data: Synthetic, splits: SplitRows, leaky: Build, shown: set[str]
) -> None:
    assert neighbour_leaks(leaky, data, splits, "test") == shown
