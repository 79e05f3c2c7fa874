"""Choice and split of samples, and what a sample sees; statistics against a slow reference."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.encoding import HISTORY_INPUTS
from models.contract.events import Interaction
from models.contract.items import item_statistics
from models.contract.knowledge import Space
from models.contract.schema import RunningSpec
from offline.config import SamplesConfig
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, as_published
from offline.training.samples import RELEASES, SampleEncoder, split_samples
from offline.training.statistics import running_statistics, statistics_until
from tests.synthetic import DIM, PARTITION_SIZE, SCHEMA, Synthetic, knowledge_of, synthetic

HALF_LIVES = (0.02, 0.5)


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


def test_what_rounding_leaves_goes_to_the_test_split(data: Synthetic) -> None:
    splits = split_samples(SamplesConfig(min_history=5), data.log)
    assert [len(of) for of in splits.rows.values()] == [84, 10, 11]  # of 105


def test_the_published_counts_of_movielens_1m() -> None:
    """ReLLa's protocol has 970,009 samples of ML-1M, split 776,007 / 97,000 / 97,002."""
    many = np.zeros(970_009, np.int32)
    log = InteractionLog(("u",), ("i",), many, many, many, many, np.zeros(len(many), np.bool_))  # type: ignore[arg-type]
    splits = split_samples(SamplesConfig(min_history=0), log)
    assert [len(of) for of in splits.rows.values()] == [776_007, 97_000, 97_002]


def test_parts_of_the_data_split_the_samples() -> None:
    rows = [("u", f"i{at}", 1.0, at) for at in range(12)]
    parts = np.array([2] * 3 + [0] * 6 + [1] * 3, np.int8)  # whatever the times say, training comes first
    log, added = InteractionLog.empty().with_rows(rows, [], [], parts)
    assert (added, log.part_ends) == (12, (6, 9, 12))
    splits = split_samples(SamplesConfig(min_history=4), log)
    assert {split: of.tolist() for split, of in splits.rows.items()} == {
        "train": [4, 5], "validation": [6, 7, 8], "test": [9, 10, 11],
    }  # fmt: skip
    assert splits.trained_rows == 6
    late = log.extended([Interaction(user_id="u", item_id="new", value=1.0, time_ms=99)], "1-0")[0]
    assert split_samples(SamplesConfig(min_history=4), late).rows["test"].tolist() == [9, 10, 11]


def test_without_a_validation_part_the_end_of_training_validates() -> None:
    parts = np.array([0] * 24 + [2] * 4, np.int8)
    log, _ = InteractionLog.empty().with_rows([("u", f"i{at}", 1.0, at) for at in range(28)], [], [], parts)
    splits = split_samples(SamplesConfig(min_history=4), log)
    assert {split: len(of) for split, of in splits.rows.items()} == {"train": 18, "validation": 2, "test": 4}
    assert (splits.rows["validation"].tolist(), splits.trained_rows) == ([22, 23], 22)
    assert "the last tenth of the training part" in splits.note


def test_a_part_without_samples_is_refused() -> None:
    log, _ = InteractionLog.empty().with_rows(
        [("u", f"i{at}", 1.0, at) for at in range(9)], [], [], np.repeat(np.arange(3, dtype=np.int8), 3)
    )
    with pytest.raises(DataError, match=r"no samples in the data's own part train: of 9 rows, 0, 3 and 3"):
        split_samples(SamplesConfig(min_history=3), log)


def test_a_repetition_stays_in_the_earlier_part() -> None:
    rows = [("u", "i", 1.0, 5), ("u", "j", 1.0, 6), ("u", "i", 1.0, 5)]
    log, added = InteractionLog.empty().with_rows(rows, [], [], np.array([2, 1, 0], np.int8))
    assert (added, log.part_ends) == (2, (1, 2, 2))


@pytest.mark.parametrize("config", [SamplesConfig(min_history=11), SamplesConfig(split=(1.0, 0.0, 0.0))])
def test_an_empty_split_is_refused(config: SamplesConfig) -> None:
    few = InteractionLog.sorted_by_time([("u", f"i{at}", 1.0, at) for at in range(12)], [], [])
    with pytest.raises(DataError, match="too few to split"):
        split_samples(config, few)


def _reference(log: InteractionLog, item: int, before: int) -> list[float]:
    """Statistics of one item over the log rows before ``before``, counted one by one."""
    rows = [row for row in range(before) if log.item[row] == item and not log.sampled[row]]
    values = [float(log.value[row]) for row in rows]
    liked = sum(value > SCHEMA.liked_above for value in values)
    statistics: list[float] = item_statistics(SCHEMA, len(values), sum(values), liked).tolist()
    return statistics


def with_drawn(data: Synthetic) -> Synthetic:
    """The data set with 70 drawn negatives in its log."""
    generator = np.random.default_rng(4)
    before = np.sort(generator.integers(20, len(data.log), 70))
    log = data.log.with_sampled(before, generator.integers(12, size=70).astype(np.int32))
    return replace(data, log=log, knowledge=knowledge_of(data.catalogue, log))


@pytest.mark.parametrize("drawn", [False, True], ids=["observed", "with drawn negatives"])
@pytest.mark.parametrize("until", [0, 1, 90, 144, 180, 1000])
def test_statistics_before_each_row(data: Synthetic, until: int, drawn: bool) -> None:
    log = with_drawn(data).log if drawn else data.log
    statistics = running_statistics(SCHEMA, log, log.item, until)
    expected = [_reference(log, int(log.item[row]), min(row, until)) for row in range(len(log))]
    np.testing.assert_array_equal(statistics, np.array(expected, np.float32))


def _trends(log: InteractionLog, item: int, before: int) -> list[float]:
    """Of one item over the log rows before ``before`` that are no drawn negatives, at the time of the last of them."""
    rows = [row for row in range(before) if not log.sampled[row]]
    own = [row for row in rows if log.item[row] == item]
    share = len(own) / max(1, len(rows))
    trends = []
    for half_life in HALF_LIVES:
        lately = {row: 2 ** (-(log.time_ms[rows[-1]] - log.time_ms[row]) / 86_400_000 / half_life) for row in rows}
        expected = share * sum(lately.values())
        trends.append(math.log((sum(lately[row] for row in own) + 3) / (expected + 3)) / 2)
    return trends


@pytest.mark.parametrize("drawn", [False, True], ids=["observed", "with drawn negatives"])
@pytest.mark.parametrize("until", [0, 1, 90, 144, 180, 1000])
def test_trends_of_items(data: Synthetic, until: int, drawn: bool) -> None:
    schema = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=HALF_LIVES)})
    log = with_drawn(data).log if drawn else data.log
    running = running_statistics(schema, log, log.item, until)[:, 3:]
    expected = [_trends(log, int(log.item[row]), min(row, until)) for row in range(len(log))]
    np.testing.assert_allclose(running, expected, atol=1e-5)
    of_all = statistics_until(schema, log, until)[:, 3:]
    end = min(until, len(log))
    np.testing.assert_allclose(of_all, [_trends(log, item, end) for item in range(12)], atol=1e-5)
    assert np.abs(running).max() > 0.05 or until < 2


@pytest.mark.parametrize("drawn", [False, True], ids=["observed", "with drawn negatives"])
@pytest.mark.parametrize("until", [0, 1, 90, 180, 1000])
def test_statistics_of_all_items(data: Synthetic, until: int, drawn: bool) -> None:
    log = with_drawn(data).log if drawn else data.log
    statistics = statistics_until(SCHEMA, log, until)
    assert statistics.shape == (12, 3)
    end = min(until, len(log))
    np.testing.assert_array_equal(statistics, np.array([_reference(log, item, end) for item in range(12)], np.float32))


def test_items_of_no_interaction_have_prior_statistics(data: Synthetic) -> None:
    grown = replace(data.log, item_ids=(*data.log.item_ids, "never"))
    assert statistics_until(SCHEMA, grown, len(grown))[-1].tolist() == [0.0, 0.0, 0.0]


def encoder_of(data: Synthetic, trained_rows: int) -> SampleEncoder:
    return SampleEncoder(SCHEMA, data.catalogue, data.log, data.knowledge, trained_rows)


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
        inputs = encoder.tensors(np.array([row]))
        mine = [earlier for earlier in range(row) if data.log.user[earlier] == data.log.user[row]][
            -SCHEMA.history_length :
        ]
        length = int(inputs["history_mask"].sum())
        assert length == len(mine)
        values = inputs["history_value"][0, :length] * SCHEMA.value_scale + SCHEMA.value_center
        assert values.tolist() == data.log.value[mine].tolist()
        fields = encoder.table.categorical[data.log.item[mine] + 1]
        np.testing.assert_array_equal(inputs["history_categorical"][0, :length], fields)


def test_items_of_a_history_have_the_statistics_of_the_last_release(data: Synthetic) -> None:
    trained = 144
    encoder, starts = encoder_of(data, trained), [trained * at // RELEASES for at in range(RELEASES + 1)]
    assert starts[-1] == trained < len(data.log)
    inputs = encoder.tensors(np.arange(len(data.log)))
    for row in range(0, len(data.log), 7):
        release = max(start for start in starts if start <= row)
        mine = [earlier for earlier in range(row) if data.log.user[earlier] == data.log.user[row]][
            -SCHEMA.history_length :
        ]
        expected = statistics_until(SCHEMA, data.log, release)[data.log.item[mine]]
        np.testing.assert_array_equal(inputs["history_numeric"][row, : len(mine)], expected)
        assert not inputs["history_numeric"][row, len(mine) :].any()


def test_drawn_negatives_are_samples_and_nothing_else(data: Synthetic) -> None:
    """A drawn row sees the past of the row that it was drawn for, and no later sample sees a drawn row."""
    drawn = with_drawn(data)
    encoder, plain = encoder_of(drawn, len(drawn.log)), encoder_of(data, len(data.log))
    observed = drawn.log.observed
    alone = plain.tensors(np.arange(len(data.log)))
    beside = encoder.tensors(observed)
    for name in alone:
        # slices and releases begin at other rows here
        if name not in ("history_vectors", "item_vectors", "history_numeric"):
            np.testing.assert_array_equal(beside[name], alone[name], err_msg=name)
    rows = np.flatnonzero(drawn.log.sampled)
    assert not encoder.labels[rows].any()
    drawn_for = observed[np.searchsorted(observed, rows)]
    first = {int(row) for row in observed if drawn.log.item[row] not in drawn.log.item[observed[observed < row]]}
    samples = np.concatenate([*split_samples(SamplesConfig(min_history=0), drawn.log).rows.values()])
    assert first & set(drawn_for.tolist()), "a draw for the first appearance of an item"
    for row, positive in zip(rows.tolist(), drawn_for.tolist(), strict=True):
        assert (row in samples) == (positive not in first)
    of_drawn, of_positive = encoder.tensors(rows), encoder.tensors(observed[np.searchsorted(observed, rows)])
    for name in ("user_numeric", "history_index", "history_value", "partition_vectors", "user_vectors"):
        np.testing.assert_array_equal(of_drawn[name], of_positive[name], err_msg=name)


def test_what_could_not_have_been_drawn_is_no_sample(data: Synthetic) -> None:
    """With drawn negatives "nobody has met it" says nothing of the label; without them all events are samples."""
    log, config = with_drawn(data).log, SamplesConfig(min_history=0)
    samples = np.concatenate([*split_samples(config, log).rows.values()])
    met = [bool((log.item[log.observed[log.observed < row]] == log.item[row]).any()) for row in samples.tolist()]
    liked = log.value[samples] > SCHEMA.liked_above
    assert all(met_before for met_before, of_liked in zip(met, liked, strict=True) if of_liked)
    assert len(samples) < len(log)
    assert sum(map(len, split_samples(config, data.log).rows.values())) == len(data.log)


def test_a_sample_sees_versions_that_are_older_than_itself(data: Synthetic) -> None:
    encoder = encoder_of(data, 144)
    inputs = encoder.tensors(np.arange(len(data.log)))
    several, single = data.knowledge.users["liber"], data.knowledge.users["marc"]
    seen = set()
    for row in range(len(data.log)):
        user = int(data.log.user[row])
        older = [at for at in range(several.start[user], several.start[user + 1]) if several.since[at] < row]
        last = as_published(several.vectors[older[-3:]], several.space)
        assert inputs["partition_mask"][row].sum() == len(last)
        np.testing.assert_array_equal(inputs["partition_vectors"][row, : len(last)], last)
        assert not inputs["partition_vectors"][row, len(last) :].any()
        newest = as_published(single.vectors[older[-1:]], single.space) if older else np.zeros((1, DIM - 2))
        np.testing.assert_array_equal(inputs["user_vectors"][row], newest[0])
        seen.add(len(older))
    assert seen == {0, 1, 2}


def test_the_sample_that_closes_a_partition_does_not_see_it(data: Synthetic) -> None:
    encoder, index = encoder_of(data, 144), data.log.by_user()
    for user in range(len(data.log.user_ids)):
        mine = index.of_user(user)
        seen = encoder.tensors(mine)["partition_mask"].sum(axis=1)
        assert seen.tolist() == [at // PARTITION_SIZE for at in range(len(mine))]
        closers = data.knowledge.users["liber"].since
        assert set(mine[[PARTITION_SIZE - 1, 2 * PARTITION_SIZE - 1]]) <= set(closers.tolist())


def numbered_slices(data: Synthetic, from_row: list[int]) -> Knowledge:
    """Items whose vectors in slice m are all m + 1, beside plain texts, which have one slice."""
    space = Space(name="marc", side="item", rows=1, dim=DIM - 2, components={})
    n = len(data.log.item_ids)
    vectors = np.stack([np.full((n, DIM - 2), at + 1, np.float32) for at in range(len(from_row))])
    items = ItemVectors(space, vectors, np.ones(n, np.bool_), np.array(from_row))
    return Knowledge({**data.knowledge.produced, "marc": Produced(data.knowledge.users["marc"], items)})


def test_a_sample_sees_the_slice_that_it_falls_into(data: Synthetic) -> None:
    from_row = [0, 40, 41, 100, 144]
    encoder = encoder_of(replace(data, knowledge=numbered_slices(data, from_row)), 144)
    text, marc = SCHEMA.item_columns["text"], SCHEMA.item_columns["marc"]
    expected = {0: 1, 39: 1, 40: 2, 41: 3, 42: 3, 99: 3, 100: 4, 143: 4, 144: 5, 145: 5, 179: 5}
    inputs = encoder.tensors(np.array(list(expected)))
    for at, (row, number) in enumerate(expected.items()):
        present = inputs["history_mask"][at] > 0
        assert (inputs["item_vectors"][at, marc] == number).all(), row
        # Vectors of the history are as they were at the sample, not at the events.
        assert (inputs["history_vectors"][at, present, marc] == number).all(), row
        assert not inputs["history_vectors"][at, ~present].any(), row
        np.testing.assert_array_equal(
            inputs["item_vectors"][at, text], encoder.table.vectors[data.log.item[row] + 1, text], str(row)
        )
    assert present.any()
    assert (encoder.table.vectors[1:, marc] == 5).all()  # what is published, and read in validation and test


def test_a_batch_may_hold_samples_of_every_slice_in_any_order(data: Synthetic) -> None:
    encoder = encoder_of(replace(data, knowledge=numbered_slices(data, [0, 60, 144])), 144)
    rows = np.random.default_rng(0).permutation(len(data.log))
    batch = encoder.tensors(rows)
    for at in range(0, len(rows), 13):
        alone = encoder.tensors(rows[at : at + 1])
        for name in alone:
            mine, width = batch[name][at : at + 1], alone[name].shape[1] if name in HISTORY_INPUTS else None
            if width is not None:  # the longest history of the batch may be longer
                assert not mine[:, width:].any(), name
                mine = mine[:, :width]
            assert alone[name].tobytes() == mine.tobytes(), name


@pytest.mark.parametrize("producers", [(), ("text",), ("liber",), ("marc",), ("text", "marc")])
def test_an_encoder_reads_the_knowledge_of_its_schema(data: Synthetic, producers: tuple[str, ...]) -> None:
    schema = SCHEMA.with_knowledge(producers)
    inputs = SampleEncoder(schema, data.catalogue, data.log, data.knowledge, 144).tensors(np.arange(60, 180))
    whole = encoder_of(data, 144).tensors(np.arange(60, 180))
    for name in ("item_vectors", "history_vectors"):
        columns = [SCHEMA.item_columns[space] for space in schema.item_columns]
        joined = np.concatenate([whole[name][..., :0], *(whole[name][..., place] for place in columns)], axis=-1)
        np.testing.assert_array_equal(inputs[name], joined)
    assert inputs["user_vectors"].shape == (120, DIM - 2 if "marc" in producers else 0)
    assert inputs["partition_vectors"].shape == ((120, 3, DIM) if "liber" in producers else (120, 0, 0))


def test_a_schema_that_no_knowledge_fills_is_refused(data: Synthetic) -> None:
    partial = Knowledge({name: producer for name, producer in data.knowledge.produced.items() if name != "marc"})
    with pytest.raises(DataError, match="user/marc, item/marc"):
        encoder_of(replace(data, knowledge=partial), 144)
    assert [spec.key for spec in partial.schema(SCHEMA).knowledge] == ["item/text", "user/liber"]
    wider = SCHEMA.model_validate(SCHEMA.model_dump() | {"knowledge": [{"name": "text", "side": "item", "dim": 7}]})
    with pytest.raises(DataError, match="item/text"):
        SampleEncoder(wider, data.catalogue, data.log, data.knowledge, 144)


def test_other_statistics_change_nothing_else(data: Synthetic) -> None:
    encoder = encoder_of(data, 100)
    numeric = statistics_until(SCHEMA, data.log, len(data.log))
    table = encoder.table_with(numeric)
    np.testing.assert_array_equal(table.numeric[1:], numeric)
    np.testing.assert_array_equal(table.numeric[0], encoder.table.numeric[0])
    assert table.index is encoder.table.index


@pytest.mark.parametrize(("user", "item"), [("u0", "new"), ("new", "i0")])
def test_knowledge_of_another_log_is_refused(data: Synthetic, user: str, item: str) -> None:
    grown, _ = data.log.extended([Interaction(user_id=user, item_id=item, value=3.0, time_ms=5)], "1")
    with pytest.raises(DataError, match="made from another log"):
        encoder_of(replace(data, log=grown), 100)


def test_users_without_closed_partitions_or_description(tmp_path: Path) -> None:
    sparse = synthetic(tmp_path, users=6, events=PARTITION_SIZE - 1)
    unknown = replace(sparse, catalogue=replace(sparse.catalogue, users={}))
    inputs = encoder_of(unknown, 10).tensors(np.arange(len(sparse.log)))
    assert not inputs["partition_mask"].any()
    assert not inputs["user_categorical"].any()
