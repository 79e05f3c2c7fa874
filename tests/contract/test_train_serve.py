"""What the service encodes from packed records is, byte for byte, what training encoded of the same moment."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract.encoding import INPUTS, ItemBatch, Tensors, UserBatch, encode
from models.contract.events import item_hash, unpack_history
from models.contract.items import ItemRecord, ItemTable
from models.contract.knowledge import FloatArray, KnowledgeRecord
from models.contract.profile import UserProfile
from offline.publish.users import packed_history
from offline.training.samples import SampleEncoder, split_samples, statistics_until
from tests.synthetic import PARTITION_SIZE, SCHEMA, Synthetic, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("synthetic"), seed=3)


@pytest.fixture(scope="module")
def trained_rows(data: Synthetic) -> int:
    return split_samples(data.config.samples, data.log).trained_rows


@pytest.fixture(scope="module")
def encoder(data: Synthetic, trained_rows: int) -> SampleEncoder:
    return SampleEncoder(SCHEMA, data.catalogue, data.log, data.knowledge, PARTITION_SIZE, trained_rows)


def _vectors(owner: str, side: str, data: Synthetic, vectors: FloatArray) -> FloatArray:
    """As the service reads them."""
    space = data.knowledge.spaces[side]
    packed = KnowledgeRecord(owner, space.fingerprint, vectors, 0, 1).pack(space.dtype)
    return KnowledgeRecord.unpack(packed, owner, space.fingerprint).vectors


def _served_table(data: Synthetic, encoder: SampleEncoder, until: int) -> ItemTable:
    """The catalogue from packed records, in an order of its own, with the statistics of all rows before ``until``."""
    numeric = statistics_until(SCHEMA, data.log, until)
    order = np.random.default_rng(1).permutation(len(data.log.item_ids))
    records, vectors = [], []
    for at in order:
        name = data.log.item_ids[at]
        categorical = tuple(SCHEMA.encode_item_fields(data.catalogue.items[name]))
        statistics = tuple(numeric[at].tolist())
        index = int(encoder.table.index[at + 1])
        packed = ItemRecord(name, SCHEMA.fingerprint, index, categorical, statistics, 0).pack()
        records.append(ItemRecord.unpack(packed, name, SCHEMA))
        vectors.append(_vectors(name, "item", data, data.knowledge.items[at : at + 1])[0])
    return ItemTable.build(
        SCHEMA,
        ids=[one.owner for one in records],
        index=[one.index for one in records],
        categorical=[one.categorical for one in records],
        numeric=[one.numeric for one in records],
        vectors=np.stack(vectors),
        expires_at=np.zeros(len(records)),
    )


def _served(data: Synthetic, table: ItemTable, row: int, candidates: list[str]) -> Tensors:
    """The service's tensors for the user of a log row, at the moment before it."""
    log = data.log
    user = int(log.user[row])
    name = log.user_ids[user]
    earlier = int((log.user[:row] == user).sum())
    hashes = np.array([item_hash(item) for item in log.item_ids], np.uint64)
    packed = packed_history(log, log.by_user(), hashes, user, len(log))[: earlier * 24]
    events, refused = unpack_history(name, packed)
    assert (len(events), refused) == (earlier, 0)
    profile = UserProfile.unpack(UserProfile(owner=name, features=data.catalogue.users[name]).pack(), name)
    closed = data.knowledge.of_user(user)[: earlier // PARTITION_SIZE][-SCHEMA.partitions :]
    knowledge = _vectors(name, "user", data, closed) if len(closed) else None
    users = UserBatch.single(SCHEMA, table, dict(profile.features), events, knowledge)
    return encode(SCHEMA, table, users, ItemBatch.gather(table, table.rows_of(candidates)))


def _assert_same_bytes(served: Tensors, trained: Tensors) -> None:
    assert tuple(served) == tuple(trained) == INPUTS
    for name in INPUTS:
        assert served[name].dtype == trained[name].dtype, name
        assert served[name].shape == trained[name].shape, name
        assert served[name].tobytes() == trained[name].tobytes(), name


def test_samples_of_the_training_period(data: Synthetic, encoder: SampleEncoder, trained_rows: int) -> None:
    for row in np.random.default_rng(5).choice(trained_rows, 25, replace=False):
        table = _served_table(data, encoder, int(row))
        served = _served(data, table, int(row), [data.log.item_ids[data.log.item[row]]])
        _assert_same_bytes(served, encoder.tensors(np.array([row])))


def test_samples_after_the_training_period(data: Synthetic, encoder: SampleEncoder, trained_rows: int) -> None:
    table = _served_table(data, encoder, trained_rows)
    for row in range(trained_rows, len(data.log), 7):
        served = _served(data, table, row, [data.log.item_ids[data.log.item[row]]])
        _assert_same_bytes(served, encoder.tensors(np.array([row])))


def test_first_interactions_of_users(data: Synthetic, encoder: SampleEncoder) -> None:
    firsts = [int(data.log.by_user().of_user(user)[0]) for user in range(5)]
    for row in firsts:
        served = _served(data, _served_table(data, encoder, row), row, [data.log.item_ids[data.log.item[row]]])
        _assert_same_bytes(served, encoder.tensors(np.array([row])))
        assert not served["history_mask"].any()


def test_many_candidates_at_once_are_the_rows_of_training(
    data: Synthetic, encoder: SampleEncoder, trained_rows: int
) -> None:
    table = _served_table(data, encoder, trained_rows)
    rows = np.arange(trained_rows, trained_rows + 40)
    served = _served(data, table, trained_rows, [data.log.item_ids[at] for at in data.log.item[rows]])
    batch = encoder.tensors(rows)
    alone = encoder.tensors(rows[:1])
    for name in INPUTS:
        expected = batch[name] if name.startswith("item_") else alone[name]
        assert served[name].tobytes() == expected.tobytes(), name


def test_a_sample_is_the_same_alone_and_in_a_batch(encoder: SampleEncoder, trained_rows: int) -> None:
    rows = np.random.default_rng(2).permutation(trained_rows)[:60]
    batch = encoder.tensors(rows)
    for at, row in enumerate(rows):
        alone = encoder.tensors(np.array([row]))
        for name in INPUTS:
            assert alone[name].tobytes() == batch[name][at : at + 1].tobytes(), name
