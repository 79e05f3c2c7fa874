"""Raw user and item data -> model input tensors. The one encoder of training and serving.

Shapes: U users, C candidates, T events of history, S item slots, J partitions, D dimension of the sequence space,
Wu and Wi widths of the joined user and item vectors (all single-vector spaces side by side, zeros where missing).
Serving encodes one user and C candidates (U = 1); training encodes aligned pairs (U = C). The model broadcasts
the user side, so user-side work is done once per request and never once per candidate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.events import EventArray
from models.contract.items import ItemTable
from models.contract.schema import FeatureSchema

Tensors = dict[str, "FloatArray | IntArray"]

USER_INPUTS = (
    "user_categorical", "user_numeric", "user_running", "history_index", "history_categorical", "history_numeric",
    "history_value", "history_mask", "history_hours", "history_vectors", "history_row", "user_vectors",
    "partition_vectors", "partition_mask",
)  # fmt: skip
HISTORY_INPUTS = tuple(name for name in USER_INPUTS if name.startswith("history_"))
"""User inputs with one entry per event of the history."""
HISTORY_ITEM_INPUTS = ("history_index", "history_categorical", "history_numeric", "history_vectors", "history_row")
"""History inputs whose entries come from the item table's row of the event's item."""

ITEM_INPUTS = ("item_index", "item_categorical", "item_numeric", "item_vectors", "item_row")
INPUTS = USER_INPUTS + ITEM_INPUTS
"""Model inputs, in the order of the exported graph."""

KNOWLEDGE_INPUTS = ("history_vectors", "user_vectors", "partition_vectors", "partition_mask", "item_vectors")
"""Model inputs that hold knowledge. Without the matching spaces in the schema they have no columns."""

RUNNING_INPUTS = ("user_running", "history_hours", "history_row", "item_row")
"""Model inputs that only running features read (``schema.RunningSpec``); the hours only where they are timed."""

USER_NUMERIC = ("log_count", "mean_value", "liked_rate", "value_spread")

_PRIOR_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class UserBatch:
    """Features, histories and knowledge of U users at the moment of their samples.

    categorical      int64 [U, user slots]
    history_rows     int64 [U, T]   item-table rows of the last T events, oldest first, padded with 0 at the end; T is
                                    at most the schema's history_length, and at least 1
    history_values   float32 [U, T] raw values of the same events
    history_lengths  int64 [U]
    history_times    int64 [U, T]   unix milliseconds of the same events
    moments          int64 [U]      unix milliseconds: the time of each sample
    vectors          float32 [U, Wu] joined knowledge vectors, zeros where missing
    partitions       float32 [U, J, D] vectors of the sequence space (the last J closed partitions), oldest first
    partition_counts int64 [U]
    """

    categorical: IntArray
    history_rows: IntArray
    history_values: FloatArray
    history_lengths: IntArray
    history_times: IntArray
    moments: IntArray
    vectors: FloatArray
    partitions: FloatArray
    partition_counts: IntArray

    @classmethod
    def single(
        cls,
        schema: FeatureSchema,
        table: ItemTable,
        features: dict[str, object],
        events: EventArray,
        knowledge: Mapping[str, FloatArray],
        now_ms: int,
    ) -> UserBatch:
        """A batch of one user, from a profile, a live history (oldest first) and vectors [rows, dim] by space name, at
        the moment ``now_ms``, unix milliseconds."""
        recent = events[-schema.history_length :]
        T = max(1, len(recent))  # as long as it is: padding to the longest would cost most users most of the time
        rows = np.zeros((1, T), np.int64)
        values = np.zeros((1, T), np.float32)
        times = np.zeros((1, T), np.int64)
        rows[0, : len(recent)] = table.rows_of_hashes(recent["item"])
        values[0, : len(recent)] = recent["value"]
        times[0, : len(recent)] = recent["time_ms"]
        vectors = np.zeros((1, schema.user_width), np.float32)
        for name, columns in schema.user_columns.items():
            if name in knowledge:
                vectors[0, columns] = knowledge[name][-1]
        partitions, count = empty_partitions(schema, 1), 0
        if schema.sequence is not None and schema.sequence.name in knowledge:
            last = knowledge[schema.sequence.name][-schema.sequence.rows :]
            count = len(last)
            partitions[0, :count] = last
        return cls(
            categorical=np.asarray([schema.encode_user_fields(features)], np.int64).reshape(1, schema.user_slots),
            history_rows=rows,
            history_values=values,
            history_lengths=np.asarray([len(recent)], np.int64),
            history_times=times,
            moments=np.asarray([now_ms], np.int64),
            vectors=vectors,
            partitions=partitions,
            partition_counts=np.asarray([count], np.int64),
        )


def empty_partitions(schema: FeatureSchema, users: int) -> FloatArray:
    """float32 [users, J, D] of zeros; [users, 0, 0] for a schema without a sequence."""
    spec = schema.sequence
    return np.zeros((users, spec.rows, spec.dim) if spec else (users, 0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """C candidates. row int64 [C] of the item table, 0 for items that it does not hold; index int64 [C], categorical
    int64 [C, S], numeric float32 [C, N], vectors float32 [C, Wi]."""

    row: IntArray
    index: IntArray
    categorical: IntArray
    numeric: FloatArray
    vectors: FloatArray

    @classmethod
    def gather(cls, table: ItemTable, rows: IntArray) -> ItemBatch:
        """Candidates as rows of the item table."""
        return cls(rows, table.index[rows], table.categorical[rows], table.numeric[rows], table.vectors[rows])

    def with_numeric(self, numeric: FloatArray) -> ItemBatch:
        """The same candidates with other statistics: training passes those that held at each sample's time."""
        return replace(self, numeric=numeric)

    def with_categorical(self, positions: IntArray, categorical: IntArray) -> ItemBatch:
        """The same candidates, some with fields that came with the request (cold items)."""
        merged = self.categorical.copy()
        merged[positions] = categorical
        return replace(self, categorical=merged)


def encode(
    schema: FeatureSchema, table: ItemTable, users: UserBatch, items: ItemBatch, *, knowledge: bool = True
) -> Tensors:
    """Model inputs by name; see ``INPUTS``; those of running features only of a schema that has some. With
    ``knowledge=False`` every knowledge input is as if missing."""
    names = [name for name in INPUTS if schema.running or name not in RUNNING_INPUTS]
    tensors: Tensors = {
        **encode_users(schema, users, names),
        **encode_histories(table, users),
        **encode_items(items),
    }
    if not knowledge:
        tensors.update(without_knowledge(tensors))
    return {name: tensors[name] for name in names}


@dataclass(frozen=True, slots=True)
class Sample:
    """One user and C candidates, as rows of an item table, for a model to score.

    user        a batch of one
    rows        int64 [C], 0 for items that the table does not hold
    described   positions int64 [k] of candidates with their fields int64 [k, S], which take the place of the table's
    knowledge   False scores as if there were no knowledge
    """

    user: UserBatch
    rows: IntArray
    described: tuple[IntArray, IntArray] | None = None
    knowledge: bool = True

    def items(self, table: ItemTable) -> ItemBatch:
        """Its candidates."""
        items = ItemBatch.gather(table, self.rows)
        return items if self.described is None else items.with_categorical(*self.described)


def encode_users(schema: FeatureSchema, users: UserBatch, names: Collection[str]) -> Tensors:
    """Inputs that describe users, and not the items in their histories: at least those of ``names``."""
    present = np.arange(users.history_rows.shape[1]) < users.history_lengths[:, None]
    tensors: Tensors = {"user_categorical": users.categorical, "user_vectors": users.vectors}
    if "history_mask" in names:
        tensors["history_mask"] = present.astype(np.float32)
    if not {"user_numeric", "history_value"}.isdisjoint(names):
        # One odd event must not blind the model.
        values = np.clip(users.history_values, schema.value_min, schema.value_max)
        normalised = np.where(present, (values - schema.value_center) / schema.value_scale, 0.0)
        tensors["history_value"] = normalised.astype(np.float32)
        if "user_numeric" in names:
            tensors["user_numeric"] = user_statistics(schema, values, present)
    if not {"user_running", "history_hours"}.isdisjoint(names):
        ago = np.maximum(users.moments[:, None] - users.history_times, 0) / 3_600_000.0
        hours = np.where(present, ago, 0.0)
        tensors["history_hours"] = hours.astype(np.float32)
        if "user_running" in names:
            tensors["user_running"] = user_running(schema, users.history_rows, hours, present)
    if not {"partition_vectors", "partition_mask"}.isdisjoint(names):
        closed = np.arange(users.partitions.shape[1]) < users.partition_counts[:, None]
        tensors["partition_vectors"], tensors["partition_mask"] = users.partitions, closed.astype(np.float32)
    return tensors


def encode_histories(table: ItemTable, users: UserBatch) -> Tensors:
    """Inputs that describe the items in users' histories, as the table knows them."""
    rows = users.history_rows
    present = np.arange(rows.shape[1]) < users.history_lengths[:, None]
    return {
        "history_index": table.index[rows],
        "history_categorical": table.categorical[rows],
        "history_numeric": np.where(present[..., None], table.numeric[rows], np.float32(0.0)),
        "history_vectors": table.vectors[rows],
        "history_row": rows,
    }


def encode_items(items: ItemBatch) -> Tensors:
    """Inputs that describe candidates."""
    columns = (items.index, items.categorical, items.numeric, items.vectors, items.row)
    return dict(zip(ITEM_INPUTS, columns, strict=True))


def without_knowledge(tensors: Tensors) -> Tensors:
    """The knowledge inputs in ``tensors``, emptied: what a user and candidates without any knowledge look like."""
    return {name: np.zeros_like(tensors[name]) for name in KNOWLEDGE_INPUTS if name in tensors}


def model_inputs(schema: FeatureSchema) -> tuple[str, ...]:
    """Names of the inputs that a model of this schema reads: all but knowledge inputs without columns,
    and running features that it does not have."""
    absent: set[str] = set()
    if schema.running is None:
        absent.update(RUNNING_INPUTS)
    elif not schema.running.is_timed:
        absent.add("history_hours")
    if not schema.item_width:
        absent |= {"history_vectors", "item_vectors"}
    if not schema.user_width:
        absent.add("user_vectors")
    if schema.sequence is None:
        absent |= {"partition_vectors", "partition_mask"}
    return tuple(name for name in INPUTS if name not in absent)


def user_statistics(schema: FeatureSchema, values: FloatArray, present: np.ndarray) -> FloatArray:
    """Numeric features [U, 4] of users from the events in their history window; see ``USER_NUMERIC``."""
    mask = present.astype(np.float64)
    n = mask.sum(axis=1)
    centered = (values.astype(np.float64) - schema.value_center) / schema.value_scale * mask
    mean = centered.sum(axis=1) / (n + _PRIOR_WEIGHT)
    liked = ((values > schema.liked_above) * mask).sum(axis=1)
    rate = (liked + _PRIOR_WEIGHT * schema.prior_liked) / (n + _PRIOR_WEIGHT)
    square = (centered**2).sum(axis=1) / (n + _PRIOR_WEIGHT)
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    return np.stack([np.log1p(n) / 5.0, mean, 2.0 * rate - 1.0, spread], axis=1).astype(np.float32)


def user_running(schema: FeatureSchema, rows: IntArray, hours: FloatArray, present: np.ndarray) -> FloatArray:
    """Running features [U, 1] or [U, 3 + K] of users from the events in their history window, by their item rows and
    how many hours ago they were: the share of events that repeat an item; and where they are timed, hours since the
    last, hours between them, and counts that forget, all on logarithmic scales."""
    n = present.sum(axis=1)
    # Padding and unknown items are all different here.
    known = np.where(present & (rows > 0), rows, -1 - np.arange(rows.shape[1]))
    ordered = np.sort(known, axis=1)
    columns = [(ordered[:, 1:] == ordered[:, :-1]).sum(axis=1) / np.maximum(n, 1)]
    if schema.running is not None and schema.running.is_timed:
        first, last = hours[:, 0], hours[np.arange(len(n)), np.maximum(n - 1, 0)]
        gap = np.maximum(first - last, 0.0) / np.maximum(n - 1, 1)
        half_lives = schema.half_lives_ms / 3_600_000.0
        counts = (np.exp2(-hours[:, :, None] / half_lives) * present[:, :, None]).sum(axis=1)
        columns += [np.log1p(last) / 5.0, np.log1p(gap) / 5.0, *(np.log1p(counts) / 5.0).T]
    return np.stack(columns, axis=1).astype(np.float32)
