"""Which interactions are samples, how they are split, and item statistics against a slow reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from models.contract.items import item_statistics
from offline.config import SamplesConfig
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.training.samples import SampleEncoder, split_samples, statistics_before, statistics_until
from tests.synthetic import PARTITION_SIZE, SCHEMA, Synthetic, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), users=15, items=12, events=12)


def test_samples_have_enough_history_and_are_split_by_time(data: Synthetic) -> None:
    splits = split_samples(SamplesConfig(min_history=4), data.log)
    rows = np.concatenate([splits.rows["train"], splits.rows["validation"], splits.rows["test"]])
    expected = [
        row for row in range(len(data.log)) if (data.log.user[:row] == data.log.user[row]).sum() >= 4
    ]  # in log order, every sample once
    assert rows.tolist() == expected
    assert [len(of) for of in splits.rows.values()] == [96, 12, 12]
    assert splits.rows["train"].max() < splits.trained_rows == splits.rows["validation"].min()


def test_other_shares(data: Synthetic) -> None:
    splits = split_samples(SamplesConfig(min_history=0, split=(0.5, 0.25, 0.25)), data.log)
    assert [len(of) for of in splits.rows.values()] == [90, 45, 45]


@pytest.mark.parametrize("config", [SamplesConfig(min_history=11), SamplesConfig(split=(1.0, 0.0, 0.0))])
def test_an_empty_split_is_refused(config: SamplesConfig) -> None:
    few = InteractionLog.sorted_by_time([("u", f"i{at}", 1.0, at) for at in range(12)], [], [])
    with pytest.raises(DataError, match="too few to split"):
        split_samples(config, few)


def _reference(log: InteractionLog, item: int, before: int) -> list[float]:
    """Statistics of one item over the log rows before ``before``, counted one by one."""
    values = [float(log.value[row]) for row in range(before) if log.item[row] == item]
    liked = sum(value > SCHEMA.liked_above for value in values)
    made: list[float] = item_statistics(SCHEMA, len(values), sum(values), liked).tolist()
    return made


@pytest.mark.parametrize("until", [0, 1, 90, 144, 180, 1000])
def test_statistics_before_each_row(data: Synthetic, until: int) -> None:
    made = statistics_before(SCHEMA, data.log, until)
    expected = [_reference(data.log, int(data.log.item[row]), min(row, until)) for row in range(len(data.log))]
    np.testing.assert_array_equal(made, np.array(expected, np.float32))


@pytest.mark.parametrize("until", [0, 1, 90, 180, 1000])
def test_statistics_of_all_items(data: Synthetic, until: int) -> None:
    made = statistics_until(SCHEMA, data.log, until)
    assert made.shape == (12, 3)
    end = min(until, len(data.log))
    np.testing.assert_array_equal(made, np.array([_reference(data.log, item, end) for item in range(12)], np.float32))


def test_items_of_no_interaction_have_prior_statistics(data: Synthetic) -> None:
    grown = replace(data.log, item_ids=(*data.log.item_ids, "never"))
    assert statistics_until(SCHEMA, grown, len(grown))[-1].tolist() == [0.0, 0.0, 0.0]


def encoder_of(data: Synthetic, trained_rows: int) -> SampleEncoder:
    return SampleEncoder(SCHEMA, data.catalogue, data.log, data.knowledge, PARTITION_SIZE, trained_rows)


def test_items_unseen_in_training_have_no_id_embedding(data: Synthetic) -> None:
    trained = 20
    index = encoder_of(data, trained).table.index
    seen = set(data.log.item[:trained].tolist())
    assert 0 < len(seen) < 12
    assert index.tolist() == [0, *(at + 1 if at in seen else 0 for at in range(12))]


def test_the_table_holds_statistics_of_the_training_period_only(data: Synthetic) -> None:
    numeric = encoder_of(data, 100).table.numeric  # what the popularity baseline is made of
    np.testing.assert_array_equal(numeric[1:], statistics_until(SCHEMA, data.log, 100))
    assert (numeric[1:] != statistics_until(SCHEMA, data.log, len(data.log))).any()


def test_labels_are_values_above_the_threshold(data: Synthetic) -> None:
    labels = encoder_of(data, 100).labels
    assert labels.dtype == np.float32
    assert labels.tolist() == [float(value > 3.0) for value in data.log.value.tolist()]


def test_a_sample_sees_its_own_user_in_order(data: Synthetic) -> None:
    encoder = encoder_of(data, 144)
    for row in range(0, len(data.log), 11):
        made = encoder.tensors(np.array([row]))
        mine = [one for one in range(row) if data.log.user[one] == data.log.user[row]][-SCHEMA.history_length :]
        length = int(made["history_mask"].sum())
        assert length == len(mine)
        values = made["history_value"][0, :length] * SCHEMA.value_scale + SCHEMA.value_center
        assert values.tolist() == data.log.value[mine].tolist()
        vectors = encoder.table.vectors[data.log.item[mine] + 1]
        np.testing.assert_array_equal(made["history_vectors"][0, :length], vectors)


def test_a_sample_sees_partitions_that_its_history_closed(data: Synthetic) -> None:
    encoder = encoder_of(data, 144)
    for row in range(0, len(data.log), 11):
        user = int(data.log.user[row])
        closed = int((data.log.user[:row] == user).sum()) // PARTITION_SIZE
        made = encoder.tensors(np.array([row]))
        held = data.knowledge.of_user(user)[:closed][-SCHEMA.partitions :].astype(np.float16)
        assert made["partition_mask"].sum() == len(held)
        np.testing.assert_array_equal(made["partition_vectors"][0, : len(held)], held)
        assert not made["partition_vectors"][0, len(held) :].any()


def test_other_statistics_change_nothing_else(data: Synthetic) -> None:
    encoder = encoder_of(data, 100)
    numeric = statistics_until(SCHEMA, data.log, len(data.log))
    table = encoder.table_with(numeric)
    np.testing.assert_array_equal(table.numeric[1:], numeric)
    np.testing.assert_array_equal(table.numeric[0], encoder.table.numeric[0])
    assert table.index is encoder.table.index


def test_knowledge_of_another_log_is_refused(data: Synthetic) -> None:
    entries = [Interaction(user_id="u0", item_id="i0", value=at, time_ms=at) for at in range(PARTITION_SIZE)]
    grown, _ = data.log.extended(entries, "1")
    with pytest.raises(DataError, match="made from another log"):
        encoder_of(replace(data, log=grown), 100)


def test_users_without_closed_partitions_or_description(tmp_path: Path) -> None:
    sparse = synthetic(tmp_path, users=6, events=PARTITION_SIZE - 1)
    unknown = replace(sparse, catalogue=replace(sparse.catalogue, users={}))
    made = encoder_of(unknown, 10).tensors(np.arange(len(sparse.log)))
    assert not made["partition_mask"].any()
    assert not made["user_categorical"].any()
