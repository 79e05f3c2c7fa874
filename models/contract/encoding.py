"""Raw user and item data -> model input tensors. The one encoder of training and serving.

Shapes: U users, C candidates, T history length, S item slots, J partitions, D knowledge dimension.
Serving encodes one user and C candidates (U = 1); training encodes aligned pairs (U = C). The model broadcasts
the user side, so user-side work is done once per request and never once per candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.contract.events import EventArray
from models.contract.items import IntArray, ItemTable
from models.contract.knowledge import FloatArray
from models.contract.schema import FeatureSchema

Tensors = dict[str, "FloatArray | IntArray"]

USER_INPUTS = (
    "user_categorical", "user_numeric", "history_index", "history_categorical", "history_value", "history_mask",
    "history_vectors", "partition_vectors", "partition_mask",
)  # fmt: skip
ITEM_INPUTS = ("item_index", "item_categorical", "item_numeric", "item_vectors")
INPUTS = USER_INPUTS + ITEM_INPUTS
"""Model inputs, in the order of the exported graph."""

USER_NUMERIC = ("log_count", "mean_value", "liked_rate", "value_spread")

_PRIOR_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class UserBatch:
    """What is known of U users at the moment of their samples.

    categorical      int64 [U, user slots]
    history_rows     int64 [U, T]   item-table rows of the last T events, oldest first, padded with 0 at the end
    history_values   float32 [U, T] raw values of the same events
    history_lengths  int64 [U]
    partitions       float32 [U, J, D] knowledge vectors of the last J closed partitions, oldest first
    partition_counts int64 [U]
    """

    categorical: IntArray
    history_rows: IntArray
    history_values: FloatArray
    history_lengths: IntArray
    partitions: FloatArray
    partition_counts: IntArray

    @classmethod
    def single(
        cls,
        schema: FeatureSchema,
        table: ItemTable,
        features: dict[str, object],
        events: EventArray,
        partitions: FloatArray | None,
    ) -> UserBatch:
        """A batch of one user, from a profile, a live history (oldest first) and knowledge vectors [rows, D]."""
        T, J, D = schema.history_length, schema.partitions, schema.knowledge_dim
        recent = events[-T:]
        rows = np.zeros((1, T), np.int64)
        values = np.zeros((1, T), np.float32)
        rows[0, : len(recent)] = table.rows_of_hashes(recent["item"])
        values[0, : len(recent)] = recent["value"]
        knowledge = np.zeros((1, J, D), np.float32)
        count = 0
        if partitions is not None:
            last = partitions[-J:]
            count = len(last)
            knowledge[0, :count] = last
        return cls(
            categorical=np.asarray([schema.encode_user_fields(features)], np.int64).reshape(1, schema.user_slots),
            history_rows=rows,
            history_values=values,
            history_lengths=np.asarray([len(recent)], np.int64),
            partitions=knowledge,
            partition_counts=np.asarray([count], np.int64),
        )


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """C candidates. index int64 [C], categorical int64 [C, S], numeric float32 [C, 3], vectors float32 [C, D]."""

    index: IntArray
    categorical: IntArray
    numeric: FloatArray
    vectors: FloatArray

    @classmethod
    def gather(cls, table: ItemTable, rows: IntArray) -> ItemBatch:
        """Candidates as rows of the item table."""
        return cls(table.index[rows], table.categorical[rows], table.numeric[rows], table.vectors[rows])

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
    """Model inputs by name; see ``INPUTS``. With ``knowledge=False`` every knowledge input is as if missing."""
    steps = np.arange(schema.history_length)
    present = steps[None] < users.history_lengths[:, None]
    values = np.clip(users.history_values, schema.value_min, schema.value_max)  # one odd event must not blind the model
    rows = users.history_rows
    closed = np.arange(schema.partitions)[None] < users.partition_counts[:, None]
    tensors: Tensors = {
        "user_categorical": users.categorical,
        "user_numeric": user_statistics(schema, values, present),
        "history_index": table.index[rows],
        "history_categorical": table.categorical[rows],
        "history_value": _normalised(schema, values, present),
        "history_mask": present.astype(np.float32),
        "history_vectors": table.vectors[rows],
        "partition_vectors": users.partitions,
        "partition_mask": closed.astype(np.float32),
        "item_index": items.index,
        "item_categorical": items.categorical,
        "item_numeric": items.numeric,
        "item_vectors": items.vectors,
    }
    if not knowledge:
        tensors.update(without_knowledge(tensors))
    return tensors


def without_knowledge(tensors: Tensors) -> Tensors:
    """The knowledge inputs of ``tensors``, emptied: what a user and candidates without any knowledge look like."""
    names = ("history_vectors", "partition_vectors", "partition_mask", "item_vectors")
    return {name: np.zeros_like(tensors[name]) for name in names}


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


def _normalised(schema: FeatureSchema, values: FloatArray, present: np.ndarray) -> FloatArray:
    return np.where(present, (values - schema.value_center) / schema.value_scale, 0.0).astype(np.float32)
