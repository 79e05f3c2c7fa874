"""Training samples: which interactions are predicted, and what was known just before each of them.

Protocol (as ReLLa's, arXiv 2308.11131, for MovieLens): label = value above the schema's ``liked_above``; samples are
all interactions whose user has at least ``min_history`` earlier ones; train, validation and test are consecutive in
global time. A sample sees its own user's interactions that come earlier in the log, the partitions that those
interactions had closed, and item statistics of earlier interactions. "Earlier" is the order of the log: among a user's
ratings of one second, the one with the smaller item id counts as earlier, as in the published protocols. Statistics
stop at the end of the training period, so that other users' validation and test interactions inform nothing ("frozen
statistics").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.contract.encoding import ItemBatch, Tensors, UserBatch, encode
from models.contract.items import ItemTable, item_statistics
from models.contract.knowledge import FloatArray
from models.contract.schema import FeatureSchema
from offline.config import SamplesConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.knowledge.build import Knowledge, as_published
from offline.knowledge.liber.partitions import close_partitions

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Log rows of each split's samples, and the first log row after the training period."""

    rows: dict[Split, npt.NDArray[np.int64]]
    trained_rows: int


def split_samples(config: SamplesConfig, log: InteractionLog) -> SplitRows:
    """Samples by global time. DataError if a split would be empty."""
    sampled = np.flatnonzero(log.by_user().position >= config.min_history)
    first = round(len(sampled) * config.split[0])
    second = round(len(sampled) * (config.split[0] + config.split[1]))
    if not 0 < first < second < len(sampled):
        raise DataError(f"{len(sampled)} samples are too few to split {config.split}")
    rows: dict[Split, npt.NDArray[np.int64]] = {
        "train": sampled[:first],
        "validation": sampled[first:second],
        "test": sampled[second:],
    }
    return SplitRows(rows, int(sampled[first]))


def statistics_before(schema: FeatureSchema, log: InteractionLog, until: int) -> FloatArray:
    """Item statistics [n, 3] for every log row: over earlier log rows of the same item that lie before ``until``."""
    counted = np.arange(len(log)) < until
    order = np.lexsort((np.arange(len(log)), log.item))
    item = log.item[order]
    starts = np.flatnonzero(np.concatenate([[True], item[1:] != item[:-1]]))
    columns = []
    for values in (
        np.ones(len(log)),
        log.value.astype(np.float64),
        (log.value > schema.liked_above).astype(np.float64),
    ):
        ordered = np.where(counted, values, 0.0)[order]
        running = np.cumsum(ordered) - ordered
        running -= np.repeat(running[starts], np.diff(np.concatenate([starts, [len(log)]])))
        column = np.empty(len(log))
        column[order] = running
        columns.append(column)
    return item_statistics(schema, *columns)


def statistics_until(schema: FeatureSchema, log: InteractionLog, until: int) -> FloatArray:
    """Item statistics [items, 3] over all log rows before ``until``."""
    n = len(log.item_ids)
    item, value = log.item[:until], log.value[:until].astype(np.float64)
    return item_statistics(
        schema,
        np.bincount(item, minlength=n),
        np.bincount(item, weights=value, minlength=n),
        np.bincount(item, weights=(value > schema.liked_above).astype(np.float64), minlength=n),
    )


def item_table(
    schema: FeatureSchema, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, trained_rows: int
) -> ItemTable:
    """The table of all items of the log; row = log item index + 1. Items unseen in training have no id embedding."""
    seen = np.bincount(log.item[:trained_rows], minlength=len(log.item_ids)) > 0
    return ItemTable.build(
        schema,
        ids=log.item_ids,
        index=np.where(seen, np.arange(1, len(log.item_ids) + 1), 0),
        categorical=[schema.encode_item_fields(catalogue.items.get(item, {})) for item in log.item_ids],
        numeric=statistics_until(schema, log, trained_rows),
        vectors=as_published(knowledge.items, knowledge.spaces["item"]),
        expires_at=np.zeros(len(log.item_ids), np.int64),
    )


class SampleEncoder:
    """Batches of samples as model inputs. Encodes with the contract's encoder, the one the service uses."""

    def __init__(
        self,
        schema: FeatureSchema,
        catalogue: Catalogue,
        log: InteractionLog,
        knowledge: Knowledge,
        partition_size: int,
        trained_rows: int,
    ) -> None:
        self.schema = schema
        self.table = item_table(schema, catalogue, log, knowledge, trained_rows)
        self.labels = (log.value > schema.liked_above).astype(np.float32)
        self._log = log
        self._index = log.by_user()
        self._partitions = close_partitions(log, partition_size)
        if not np.array_equal(self._partitions.start, knowledge.partition_start):
            raise DataError("the knowledge was made from another log: run `refresh` or `knowledge` first")
        self._partition_vectors = as_published(knowledge.partitions, knowledge.spaces["user"])
        self._numeric = statistics_before(schema, log, trained_rows)
        self._user_categorical = np.array(
            [schema.encode_user_fields(catalogue.users.get(user, {})) for user in log.user_ids], np.int64
        ).reshape(len(log.user_ids), schema.user_slots)

    def table_with(self, numeric: FloatArray) -> ItemTable:
        """The encoder's item table with other statistics [items, 3], such as those of the published release."""
        return replace(self.table, numeric=np.concatenate([self.table.numeric[:1], numeric]))

    def tensors(self, rows: npt.NDArray[np.int64]) -> Tensors:
        """Model inputs of the samples at these log rows: aligned pairs, U = C = len(rows)."""
        items = ItemBatch.gather(self.table, self._log.item[rows].astype(np.int64) + 1)
        return encode(self.schema, self.table, self._users(rows), items.with_numeric(self._numeric[rows]))

    def _users(self, rows: npt.NDArray[np.int64]) -> UserBatch:
        user = self._log.user[rows].astype(np.int64)
        earlier = self._index.position[rows]
        before = self._index.start[user] + earlier  # place of the sample itself in the by-user order
        history, lengths = _windows(before, np.minimum(earlier, self.schema.history_length), self.schema.history_length)
        history_rows = self._index.rows[history]
        closed = self._partitions.visible(user, earlier)
        windows, counts = _windows(
            self._partitions.start[user] + closed, np.minimum(closed, self.schema.partitions), self.schema.partitions
        )
        held = np.arange(self.schema.partitions)[None] < counts[:, None]
        vectors = np.zeros((*windows.shape, self.schema.knowledge_dim), np.float32)
        vectors[held] = self._partition_vectors[windows[held]]
        inside = np.arange(self.schema.history_length)[None] < lengths[:, None]
        return UserBatch(
            categorical=self._user_categorical[user],
            history_rows=np.where(inside, self._log.item[history_rows].astype(np.int64) + 1, 0),
            history_values=np.where(inside, self._log.value[history_rows], 0.0).astype(np.float32),
            history_lengths=lengths,
            partitions=vectors,
            partition_counts=counts,
        )


def _windows(
    end: npt.NDArray[np.int64], length: npt.NDArray[np.int64], width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions [n, width] of the ``length`` places before ``end``, oldest first, padded with 0; and the lengths."""
    steps = np.arange(width)[None]
    return np.where(steps < length[:, None], (end - length)[:, None] + steps, 0), length
