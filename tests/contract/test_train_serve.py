"""The service's tensors from packed records are, byte for byte, those of training at the same moment.

The knowledge is random vectors in every form that the contract has: a sequence and two single vectors of a user, of
which versions follow each other, and item spaces of one slice of the log and of several.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.contract.arrays import FloatArray
from models.contract.encoding import HISTORY_INPUTS, INPUTS, ITEM_INPUTS, ItemBatch, Tensors, UserBatch, encode
from models.contract.events import item_hash, unpack_history
from models.contract.items import ItemTable
from models.contract.knowledge import KnowledgeRecord, Space
from models.contract.profile import UserProfile
from models.contract.schema import FeatureSchema, KnowledgeSpec, RunningSpec
from offline.data.log import InteractionLog
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
from offline.publish.features import packed_histories
from offline.training.samples import RELEASES, SampleEncoder, split_samples
from offline.training.statistics import statistics_until
from tests import synthetic
from tests.contract.item_record import ItemRecord
from tests.synthetic import Synthetic

SPACES = (
    Space(name="liber", side="user", rows=3, dim=6, components={}),
    Space(name="liber", side="item", rows=1, dim=6, components={}),
    Space(name="portrait", side="user", rows=1, dim=4, dtype="int8", components={}),
    Space(name="mood", side="user", rows=1, dim=2, components={}),
    Space(name="links", side="item", rows=1, dim=5, dtype="int8", components={}),
    Space(name="codes", side="item", rows=1, dim=3, components={}),
)
SCHEMA = FeatureSchema.model_validate(
    synthetic.SCHEMA.model_dump()
    | {"knowledge": [KnowledgeSpec(**space.model_dump(include={"name", "side", "rows", "dim"})) for space in SPACES]}
    | {"running": RunningSpec(half_lives_days=(0.5, 7.0))}
)
EVERY = {"liber": 5, "portrait": 3, "mood": 8}
"""A user's vectors change with every so many interactions."""

SLICES = {"liber": (0,), "links": (0, 300, 900), "codes": (0, 600)}
"""An item's vectors change at these log rows, all of them in the training period."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic.synthetic(tmp_path_factory.mktemp("synthetic"), seed=3)


@pytest.fixture(scope="module")
def knowledge(data: Synthetic) -> Knowledge:
    generator = np.random.default_rng(11)
    users = {space.name: _users(space, data.log, generator) for space in SPACES if space.side == "user"}
    items = {space.name: _items(space, data.log, generator) for space in SPACES if space.side == "item"}
    return Knowledge({name: Produced(users.get(name), items.get(name)) for name in {**users, **items}})


def _users(space: Space, log: InteractionLog, generator: np.random.Generator) -> UserVectors:
    index = log.by_user()
    since = [index.of_user(user)[EVERY[space.name] - 1 :: EVERY[space.name]] for user in range(len(log.user_ids))]
    start = np.cumsum([0, *(len(rows) for rows in since)])
    vectors = generator.standard_normal((int(start[-1]), space.dim)).astype(np.float32)
    return UserVectors(space, vectors, start, np.concatenate(since).astype(np.int64))


def _items(space: Space, log: InteractionLog, generator: np.random.Generator) -> ItemVectors:
    """Every fifth item is not known."""
    known = np.arange(len(log.item_ids)) % 5 > 0
    slices = np.array(SLICES[space.name], np.int64)
    vectors = generator.standard_normal((len(slices), len(known), space.dim)).astype(np.float32)
    return ItemVectors(space, np.where(known[:, None], vectors, np.float32(0)), known, slices)


@pytest.fixture(scope="module")
def trained_rows(data: Synthetic) -> int:
    return split_samples(data.config.samples, data.log).trained_rows


@pytest.fixture(scope="module")
def encoder(data: Synthetic, knowledge: Knowledge, trained_rows: int) -> SampleEncoder:
    return SampleEncoder(SCHEMA, data.catalogue, data.log, knowledge, trained_rows)


def _as_read(owner: str, space: Space, vectors: FloatArray) -> FloatArray:
    """As the service reads them."""
    packed = KnowledgeRecord(owner, space.fingerprint, vectors, 0, 1).pack(space.dtype)
    return KnowledgeRecord.unpack(packed, owner, space.fingerprint).vectors


def _item_vectors(knowledge: Knowledge, at: int, name: str, row: int) -> FloatArray:
    """float32 [Wi]: what a table loaded at the moment of a log row holds of an item."""
    joined = np.zeros(SCHEMA.item_width, np.float32)
    for space, columns in SCHEMA.item_columns.items():
        vectors = knowledge.items[space]
        if vectors.known[at]:
            slice_ = max(place for place, first in enumerate(vectors.from_row) if first <= row)
            joined[columns] = _as_read(name, vectors.space, vectors.vectors[slice_, at : at + 1])[0]
    return joined


def _user_vectors(knowledge: Knowledge, user: int, name: str, row: int) -> dict[str, FloatArray]:
    """Vectors stored of a user at the moment of a log row, space by space."""
    vectors = {}
    for space, versions_of in knowledge.users.items():
        mine = range(versions_of.start[user], versions_of.start[user + 1])
        versions = [at for at in mine if versions_of.since[at] < row][-versions_of.space.rows :]
        if versions:
            vectors[space] = _as_read(name, versions_of.space, versions_of.vectors[versions])
    return vectors


def _last_release(row: int, trained_rows: int) -> int:
    """The log row before which a sample's release was made: training takes one at each eighth of its period."""
    return max(start for at in range(RELEASES + 1) if (start := at * trained_rows // RELEASES) <= row)


def _served_table(data: Synthetic, knowledge: Knowledge, encoder: SampleEncoder, until: int, row: int) -> ItemTable:
    """The catalogue from packed records, in an order of its own, with the statistics of all rows before ``until`` and
    the knowledge of the moment of ``row``."""
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
        vectors.append(_item_vectors(knowledge, int(at), name, row))
    return ItemTable.build(
        SCHEMA,
        ids=[record.owner for record in records],
        index=[record.index for record in records],
        categorical=[record.categorical for record in records],
        numeric=[record.numeric for record in records],
        vectors=np.stack(vectors),
        expires_at=np.zeros((len(records), len(SCHEMA.item_knowledge))),
    )


def _served(data: Synthetic, knowledge: Knowledge, table: ItemTable, row: int, items: ItemBatch) -> Tensors:
    """The service's tensors of these candidates for the user of a log row, at the moment before it."""
    log = data.log
    user = int(log.user[row])
    name = log.user_ids[user]
    earlier = int((log.user[:row] == user).sum())
    hashes = np.array([item_hash(item) for item in log.item_ids], np.uint64)
    packed = packed_histories(log, log.by_user(), hashes, [user], len(log))[0][: earlier * 24]
    events, refused = unpack_history(name, packed)
    assert (len(events), refused) == (earlier, 0)
    profile = UserProfile.unpack(UserProfile(owner=name, features=data.catalogue.users[name]).pack(), name)
    vectors = _user_vectors(knowledge, user, name, row)
    users = UserBatch.single(SCHEMA, table, dict(profile.features), events, vectors, int(data.log.time_ms[row]))
    tensors = encode(SCHEMA, table, users, items)
    as_logged = np.array([0, *(log.item_ids.index(item) + 1 for item in list(table.ids)[1:])])
    return tensors | {name: as_logged[tensors[name]] for name in ("item_row", "history_row")}


def _candidates(data: Synthetic, table: ItemTable, rows: NDArray[np.int64]) -> ItemBatch:
    """The items of these log rows."""
    return ItemBatch.gather(table, table.rows_of([data.log.item_ids[at] for at in data.log.item[rows]]))


def _served_then(data: Synthetic, knowledge: Knowledge, encoder: SampleEncoder, row: int, trained_rows: int) -> Tensors:
    """The service's tensors for a training sample at its time. Its release lags behind; but a candidate's
    statistics are, in training, those of the moment."""
    table = _served_table(data, knowledge, encoder, _last_release(row, trained_rows), row)
    item = _candidates(data, table, np.array([row]))
    return _served(
        data, knowledge, table, row, item.with_numeric(statistics_until(SCHEMA, data.log, row)[data.log.item[[row]]])
    )


def _assert_same_bytes(served: Tensors, trained: Tensors) -> None:
    """But for padding of the training's histories, which nothing reads."""
    assert tuple(served) == tuple(trained) == INPUTS
    for name in INPUTS:
        expected, padding = _cut(served, trained, name)
        assert served[name].dtype == expected.dtype, name
        assert served[name].shape == expected.shape, name
        if name.endswith("_numeric"):  # counts that forget are summed in another order
            np.testing.assert_allclose(served[name], expected, atol=1e-6, err_msg=name)
            assert served[name][..., :3].tobytes() == expected[..., :3].tobytes(), name
        else:
            assert served[name].tobytes() == expected.tobytes(), name
        assert not padding.any(), name


def _cut(short: Tensors, long: Tensors, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """An input of longer histories, cut to the length of shorter ones; and what was cut off."""
    length = short["history_mask"].shape[1] if name in HISTORY_INPUTS else None
    whole = long[name]
    return (whole, whole[:0]) if length is None else (whole[:, :length], whole[:, length:])


def test_samples_of_the_training_period(
    data: Synthetic, knowledge: Knowledge, encoder: SampleEncoder, trained_rows: int
) -> None:
    for row in np.random.default_rng(5).choice(trained_rows, 25, replace=False):
        served = _served_then(data, knowledge, encoder, int(row), trained_rows)
        _assert_same_bytes(served, encoder.tensors(np.array([row])))


def test_samples_after_the_training_period(
    data: Synthetic, knowledge: Knowledge, encoder: SampleEncoder, trained_rows: int
) -> None:
    table = _served_table(data, knowledge, encoder, trained_rows, trained_rows)
    for row in range(trained_rows, len(data.log), 7):
        served = _served(data, knowledge, table, row, _candidates(data, table, np.array([row])))
        _assert_same_bytes(served, encoder.tensors(np.array([row])))


def test_first_interactions_of_users(
    data: Synthetic, knowledge: Knowledge, encoder: SampleEncoder, trained_rows: int
) -> None:
    firsts = [int(data.log.by_user().of_user(user)[0]) for user in range(5)]
    for row in firsts:
        served = _served_then(data, knowledge, encoder, row, trained_rows)
        _assert_same_bytes(served, encoder.tensors(np.array([row])))
        assert not served["history_mask"].any()


def test_many_candidates_at_once_are_the_rows_of_training(
    data: Synthetic, knowledge: Knowledge, encoder: SampleEncoder, trained_rows: int
) -> None:
    table = _served_table(data, knowledge, encoder, trained_rows, trained_rows)
    rows = np.arange(trained_rows, trained_rows + 40)
    served = _served(data, knowledge, table, trained_rows, _candidates(data, table, rows))
    batch = encoder.tensors(rows)
    alone = encoder.tensors(rows[:1])
    _assert_same_bytes(served, alone | {name: batch[name] for name in ITEM_INPUTS})


def test_a_sample_is_the_same_alone_and_in_a_batch(encoder: SampleEncoder, trained_rows: int) -> None:
    rows = np.random.default_rng(2).permutation(trained_rows)[:60]
    batch = encoder.tensors(rows)
    for at, row in enumerate(rows):
        alone = encoder.tensors(np.array([row]))
        _assert_same_bytes(alone, {name: batch[name][at : at + 1] for name in INPUTS})
