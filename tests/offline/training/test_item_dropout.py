"""Item dropout: so many items are unknown to a user in an epoch, in all of the user's samples alike, and none when a
model is judged; and a model that learned from drawn negatives does not take what is new for what is wanted."""

from __future__ import annotations

import copy
import dataclasses
from typing import Literal

import numpy as np
import pytest

from models.contract.encoding import Tensors
from models.contract.items import item_statistics
from models.contract.schema import RunningSpec
from offline.config import SamplesConfig, TrainingConfig, TreeConfig
from offline.data.arrival import draw_negatives
from offline.data.catalogue import Catalogue
from offline.data.config import LabelsConfig
from offline.data.log import InteractionLog
from offline.knowledge.vectors import Knowledge
from offline.training.candidates import ModelSpec
from offline.training.fit import fit, predict
from offline.training.item_dropout import SHARE_OF_DRAWN, ItemDropout
from offline.training.samples import SampleEncoder, split_samples
from offline.training.sequences import SequenceEncoder
from tests.synthetic import SCHEMA, synthetic

UNKNOWN = item_statistics(SCHEMA, 0, 0, 0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SampleEncoder:
    data = synthetic(tmp_path_factory.mktemp("synthetic"), seed=2)
    splits = split_samples(data.config.samples, data.log)
    schema = SCHEMA.model_copy(update={"history_length": 40})
    return SampleEncoder(schema, data.catalogue, data.log, data.knowledge, splits.trained_rows)


def test_as_many_items_are_unknown_as_the_share_says_and_no_two_draws_are_alike() -> None:
    dropout = ItemDropout(0.25, UNKNOWN, seed=3)
    user, index = np.arange(400), np.tile(np.arange(1, 301), (400, 1))
    masks = np.stack([dropout.hidden(user, index, epoch) for epoch in (0, 1)] + [
        ItemDropout(0.25, UNKNOWN, seed=4).hidden(user, index, 0)
    ])  # fmt: skip
    assert masks.mean(axis=(1, 2)) == pytest.approx(0.25, abs=0.005)
    by_user, by_item = masks[0].mean(axis=1), masks[0].mean(axis=0)
    assert 0.1 < by_user.min() < by_user.max() < 0.4
    assert 0.1 < by_item.min() < by_item.max() < 0.4
    for first, second in ((0, 1), (0, 2)):  # epochs and seeds
        assert (masks[first] & masks[second]).mean() == pytest.approx(0.0625, abs=0.005)
    both = (masks[0][:-1] & masks[0][1:]).mean()  # neighbours among users
    assert both == pytest.approx(0.0625, abs=0.005)
    assert len(np.unique(masks[0], axis=0)) == 400


def test_items_without_a_row_are_not_dropped_and_a_share_of_none_changes_nothing() -> None:
    dropout = ItemDropout(0.9, UNKNOWN, seed=3)
    assert not dropout.hidden(np.arange(50), np.zeros((50, 20), np.int64), 0).any()
    tensors: Tensors = {"item_index": np.ones(4, np.int64)}
    assert ItemDropout(0.0, UNKNOWN, seed=3).applied(tensors, np.arange(4), 0) is tensors


def test_an_unknown_item_has_neither_id_nor_statistics_wherever_its_user_meets_it(encoder: SampleEncoder) -> None:
    dropout, rows = ItemDropout(0.3, encoder.table.numeric[0], seed=5), np.arange(100, 900)
    sequences = SequenceEncoder(encoder, dropout)
    hidden_pairs, shown_pairs = set(), set()
    for dropped, whole in zip(sequences.once(rows, 500, epoch=2), sequences.once(rows, 500), strict=True):
        user = encoder.log.user[dropped.rows[:, 0]]
        index = whole.tensors["item_index"]
        hidden = dropout.hidden(user, index, 2)
        np.testing.assert_array_equal(dropped.tensors["item_index"], np.where(hidden, 0, index))
        for name in ("item_numeric", "history_numeric"):
            expected = np.where(hidden[..., None], UNKNOWN, whole.tensors[name])
            np.testing.assert_array_equal(dropped.tensors[name], expected)
        for name, array in whole.tensors.items():
            assert dropped.tensors[name].dtype == array.dtype
            if name not in ("item_index", "item_numeric", "history_numeric"):
                np.testing.assert_array_equal(dropped.tensors[name], array, name)
        users = np.broadcast_to(user[:, None], index.shape)
        hidden_pairs |= set(zip(users[hidden].tolist(), index[hidden].tolist(), strict=True))
        shown_pairs |= set(zip(users[~hidden].tolist(), index[~hidden].tolist(), strict=True))
    assert len(hidden_pairs) > 100
    assert not hidden_pairs & shown_pairs


def test_windows_and_whole_histories_hide_the_same(encoder: SampleEncoder) -> None:
    dropout, rows = ItemDropout(0.3, encoder.table.numeric[0], seed=5), np.arange(100, 900)
    sequences = SequenceEncoder(encoder, dropout)
    whole = dict[int, tuple[int, list[float]]]()
    for batch in sequences.once(rows, 500, epoch=1):
        for at in zip(*np.nonzero(batch.sample), strict=True):
            of_sample = batch.tensors["item_index"][at], batch.tensors["item_numeric"][at].tolist()
            whole[int(batch.rows[at])] = (int(of_sample[0]), of_sample[1])
    window = dropout.applied(encoder.tensors(rows), encoder.log.user[rows], 1)
    for place, row in enumerate(rows.tolist()):
        assert whole[row] == (int(window["item_index"][place]), window["item_numeric"][place].tolist())
    present = window["history_mask"] > 0
    known = encoder.tensors(rows)["history_index"]
    hidden = present & (known > 0) & (window["history_index"] == 0)
    assert 0.25 < hidden.sum() / (present & (known > 0)).sum() < 0.35
    np.testing.assert_array_equal(window["history_numeric"][hidden], np.tile(UNKNOWN, (int(hidden.sum()), 1)))
    assert not window["history_numeric"][~present].any()


def test_epochs_of_training_drop_items_and_judging_does_not(encoder: SampleEncoder) -> None:
    dropout, rows = ItemDropout(0.3, encoder.table.numeric[0], seed=5), np.arange(100, 900)
    sequences = SequenceEncoder(encoder, dropout)
    shares = [
        np.mean([(batch.tensors["item_index"][batch.sample] == 0).mean() for batch in batches])
        for batches in (
            [batch for _, batch in sequences.epochs(rows, 500, 2, seed=1)],
            list(sequences.once(rows, 500)),
        )
    ]
    assert shares[0] == pytest.approx(0.3, abs=0.05)
    assert shares[1] == 0.0


def arrivals(users: int = 60, seed: int = 0) -> InteractionLog:
    """Purchases of a shop to which a new item comes with every tenth purchase, with drawn negatives. The last hundred
    items are bought by nobody."""
    generator = np.random.default_rng(seed)
    rows, items = [], 1
    had: list[set[int]] = [set() for _ in range(users)]
    for at in range(3000):
        items += at % 10 == 0
        user = int(generator.integers(users))
        open_items = sorted(set(range(items)) - had[user]) or [0]
        newest = at % 10 == 0 and (items - 1) in open_items
        item = items - 1 if newest else int(generator.choice(open_items))
        had[user].add(item)
        rows.append((f"u{user}", f"i{item}", 5.0, 1_000_000 * at))
    ids = [f"u{user}" for user in range(users)], [f"i{item}" for item in range(items + 100)]
    log = InteractionLog.empty().with_rows(rows, *ids, None)[0]
    return draw_negatives(LabelsConfig(kind="implicit", negatives=2, drawn="uniform"), log, SCHEMA.liked_above)


@pytest.mark.parametrize("served", ["tree", "lifelong"])
def test_what_nobody_has_met_is_not_what_everybody_wants(served: Literal["tree", "lifelong"]) -> None:
    """Drawn negatives have always appeared already, so among a log's rows every first event is a positive."""
    log = arrivals()
    splits = split_samples(SamplesConfig(min_history=3), log)
    schema = SCHEMA.with_knowledge(()).model_copy(update={"running": RunningSpec(), "history_length": 10})
    catalogue = Catalogue({user: {} for user in log.user_ids}, {item: {} for item in log.item_ids})
    encoder = SampleEncoder(schema, catalogue, log, Knowledge({}), splits.trained_rows)
    tree = TreeConfig(trees=30, leaves=6, least_samples=5, learning_rate=0.2)
    config = TrainingConfig(served=served, epochs=4, embedding_dim=8, tree=tree)
    fitted = fit(ModelSpec("new items", served), config, encoder, splits, 1, progress=False)

    rows = splits.rows["test"][:200]
    new = log.item_ids.index(f"i{len(log.item_ids) - 1}")
    item = log.item.copy()
    item[rows] = new
    asked = SampleEncoder(schema, catalogue, dataclasses.replace(log, item=item), Knowledge({}), splits.trained_rows)
    asked = asked.as_trained(encoder)
    assert not asked.tensors(rows)["item_index"].any()
    of_new, of_all = predict(fitted.model, asked, rows), predict(fitted.model, encoder, splits.rows["test"])
    assert of_new.mean() < 1.3 * of_all.mean() < 0.6


def test_items_are_dropped_by_default_where_negatives_are_drawn(encoder: SampleEncoder) -> None:
    assert ItemDropout.of(TrainingConfig(), encoder, 1).share == 0.0
    assert ItemDropout.of(TrainingConfig(item_dropout=0.1), encoder, 1).share == 0.1
    drawn = dataclasses.replace(encoder.log, sampled=np.arange(len(encoder.log)) % 2 == 0)
    with_draws = copy.copy(encoder)
    with_draws.log = drawn
    assert ItemDropout.of(TrainingConfig(), with_draws, 1).share == SHARE_OF_DRAWN
    assert ItemDropout.of(TrainingConfig(item_dropout=0.0), with_draws, 1).share == 0.0
