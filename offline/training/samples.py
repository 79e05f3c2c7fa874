"""Training samples: which interactions are predicted, and what was known just before each of them.

Protocol (as ReLLa's, arXiv 2308.11131, for MovieLens): label = value above the schema's ``liked_above``; samples are
all interactions whose user has at least ``min_history`` earlier ones (with drawn negatives, but for the first of each
item and its draws); train, validation and test are consecutive in global time, or are the parts that the log brings
(offline/data/log.py). A sample sees its own user's interactions that come earlier in the log, the versions of the
user's knowledge that were there by then, item knowledge of the slice it falls into, and item statistics of earlier
interactions. "Earlier" is the order of the log: among a user's ratings of one second, the one with the smaller item id
counts as earlier, as in the published protocols. Statistics stop at the end of the training period, so that other
users' validation and test interactions inform nothing ("frozen statistics").
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.encoding import ItemBatch, Tensors, UserBatch, empty_partitions, encode, encode_users
from models.contract.items import ItemTable, item_statistics
from models.contract.schema import FeatureSchema
from offline.config import SamplesConfig
from offline.data.catalogue import Catalogue, DataError
from offline.data.log import InteractionLog
from offline.knowledge.vectors import ItemVectors, Knowledge, UserVectors, as_published
from offline.training.statistics import running_statistics, statistics_until

Split = Literal["train", "validation", "test"]

_AT_ONCE = 512
"""Samples whose users' statistics are computed at once: histories may be a thousand events long."""

RELEASES = 8
"""Number of equal parts of the training period, at each of whose starts a release is taken to be published."""


_VALIDATION_SHARE = 0.1
"""Of the training part's samples, where the data bring no part that validates."""


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Log rows of each split's samples, and the first log row after the training period. ``note`` for people, if a
    split is not what its name says."""

    rows: dict[Split, IntArray]
    trained_rows: int
    note: str = ""


def split_samples(config: SamplesConfig, log: InteractionLog) -> SplitRows:
    """Samples by global time, or by the parts of the log; what rounding leaves goes to the test split. DataError if a
    split would be empty."""
    sampled = np.flatnonzero((log.by_user().position >= config.min_history) & _could_be_either(log))
    if log.part_ends is not None:
        return _split_by_parts(config, sampled, log.part_ends)
    first = int(len(sampled) * config.split[0])
    second = first + int(len(sampled) * config.split[1])
    if not 0 < first < second < len(sampled):
        parts = ", ".join(f"{share:g}" for share in config.split)
        raise DataError(
            f"samples.min_history = {config.min_history} leaves {len(sampled)} samples of {len(log)} interactions, too "
            f"few to split into {parts}: lower samples.min_history, change samples.split, or wait for more interactions"
        )
    train, validation, test = np.split(sampled, [first, second])
    rows: dict[Split, IntArray] = {"train": train, "validation": validation, "test": test}
    return SplitRows(rows, int(sampled[first]))


def _could_be_either(log: InteractionLog) -> BoolArray:
    """Mask [log rows] of the rows that could have been a positive or a negative. Where negatives are drawn, from items
    that had appeared by then, an item's first appearance could be none: as a sample it would say that what nobody has
    met is wanted by everybody. What was drawn for it is no sample either."""
    if not log.sampled.any():
        return np.ones(len(log), np.bool_)
    mask = np.ones(len(log.observed) + 1, np.bool_)
    mask[np.unique(log.item[log.observed], return_index=True)[1]] = False
    drawn_for = np.searchsorted(log.observed, np.arange(len(log)))  # draws lie right before their positive
    return np.asarray(mask[drawn_for])


def _split_by_parts(config: SamplesConfig, sampled: IntArray, ends: tuple[int, int, int]) -> SplitRows:
    train, validation, test, _ = np.split(sampled, np.searchsorted(sampled, ends))
    note, trained_rows = "", ends[0]
    if ends[0] == ends[1]:
        train, validation = np.split(train, [int(len(train) * (1 - _VALIDATION_SHARE))])
        trained_rows = int(validation[0]) if len(validation) else trained_rows
        note = "; no part validates, so the last tenth of the training part's samples does"
    rows: dict[Split, IntArray] = {"train": train, "validation": validation, "test": test}
    if empty := [split for split, of_split in rows.items() if not len(of_split)]:
        raise DataError(
            f"no samples in the data's own part {', '.join(empty)}: of {ends[-1]} rows, {len(train)}, "
            f"{len(validation)} and {len(test)} of the parts have min_history = {config.min_history} earlier ones of "
            "their user"
        )
    return SplitRows(rows, trained_rows, note)


def one_label_warnings(splits: SplitRows, labels: FloatArray) -> list[str]:
    """A line for each part whose samples all have one label, by ``labels`` [log rows]; no model learns from such
    training samples, and no AUC is defined on such others."""
    words = {part: _only_label(labels[rows]) for part, rows in splits.rows.items()}
    if len({*words.values()}) == 1 and (word := words["train"]):
        count, means = sum(map(len, splits.rows.values())), "a model learns nothing from them, and no AUC is defined"
        return [f"all {count:,} samples are {word}: {means} (liked_above)"]
    lines = []
    for part, word in words.items():
        if word:
            means = "a model learns nothing from them" if part == "train" else "their AUC is undefined"
            samples = f"{len(splits.rows[part]):,} {part} samples"
            lines.append(f"all {samples} are {word}: {means} (samples.split, liked_above)")
    return lines


def _only_label(labels: FloatArray) -> str:
    """What all of these labels say, in words; "" if they differ."""
    return "" if labels.min() != labels.max() else "liked" if labels[0] > 0 else "not liked"


def item_table(
    schema: FeatureSchema, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, trained_rows: int
) -> ItemTable:
    """The table of all items of the log as it is published; row = log item index + 1. Items unseen in training have no
    id embedding."""
    seen = np.bincount(log.item[:trained_rows], minlength=len(log.item_ids)) > 0
    return ItemTable.build(
        schema,
        ids=log.item_ids,
        index=np.where(seen, np.arange(1, len(log.item_ids) + 1), 0),
        categorical=[schema.encode_item_fields(catalogue.items.get(item, {})) for item in log.item_ids],
        numeric=statistics_until(schema, log, trained_rows),
        vectors=np.concatenate(
            [np.zeros((len(log.item_ids), 0), np.float32)]
            + [as_published(items.published, items.space) for items in _of_items(schema, knowledge)],
            axis=1,
        ),
        expires_at=np.zeros((len(log.item_ids), len(schema.item_knowledge)), np.int64),
    )


class SampleEncoder:
    """Batches of samples as model inputs. Encodes with the contract's encoder, the one the service uses."""

    def __init__(
        self, schema: FeatureSchema, catalogue: Catalogue, log: InteractionLog, knowledge: Knowledge, trained_rows: int
    ) -> None:
        if not knowledge.fits(len(log.user_ids), len(log.item_ids)):
            raise DataError("the knowledge was made from another log: run `refresh` or `knowledge` first")
        shapes = {(space.key, space.rows, space.dim) for space in knowledge.spaces}
        if absent := [spec.key for spec in schema.knowledge if (spec.key, spec.rows, spec.dim) not in shapes]:
            raise DataError(f"no knowledge of the shape that the schema wants: {', '.join(absent)}")
        self.schema, self.knowledge = schema, knowledge
        self.table = item_table(schema, catalogue, log, knowledge, trained_rows)
        self.labels = (log.value > schema.liked_above).astype(np.float32)
        self.log = log
        self.index = log.by_user()
        self.releases = _releases(schema, log, trained_rows)
        self.slices = _slices(schema, knowledge, self.table)
        self.numeric = running_statistics(schema, log, log.item, trained_rows)
        self._users = {spec.name: _Versions(knowledge.users[spec.name]) for spec in schema.user_knowledge}
        self.user_categorical = np.array(
            [schema.encode_user_fields(catalogue.users.get(user, {})) for user in log.user_ids], np.int64
        ).reshape(len(log.user_ids), schema.user_slots)

    def live(self) -> SampleEncoder:
        """A copy whose item statistics go on after the training period, as publications bring them up to date."""
        encoder = copy(self)
        encoder.numeric = running_statistics(self.schema, self.log, self.log.item, len(self.log))
        return encoder

    def as_trained(self, trained: SampleEncoder) -> SampleEncoder:
        """A copy whose items have the id embeddings of another encoder's training, and no others."""
        encoder = copy(self)
        encoder.table = replace(self.table, index=trained.table.index)
        return encoder

    def table_with(self, numeric: FloatArray) -> ItemTable:
        """The encoder's item table with other statistics [items, N], such as those of the published release."""
        return replace(self.table, numeric=np.concatenate([self.table.numeric[:1], numeric]))

    def tensors(self, rows: IntArray) -> Tensors:
        """Model inputs of the samples at these log rows: aligned pairs, U = C = len(rows)."""
        items = ItemBatch.gather(self.table, self.log.item[rows].astype(np.int64) + 1)
        users = self.users(rows)
        tensors = encode(self.schema, self.table, users, items.with_numeric(self.numeric[rows]))
        present = tensors["history_mask"][..., None] > 0
        tensors["history_numeric"] = np.where(present, self.releases.at(rows, users.history_rows), np.float32(0.0))
        if len(self.slices.from_row) > 1:
            tensors["item_vectors"] = self.slices.at(rows, self.log.item[rows].astype(np.int64) + 1)
            tensors["history_vectors"] = self.slices.at(rows, users.history_rows)
        return tensors

    def users(self, rows: IntArray) -> UserBatch:
        """The users of the samples at these log rows, as known just before each."""
        user = self.log.user[rows].astype(np.int64)
        earlier = self.index.position[rows]
        before = self.index.start[user] + earlier  # place of the sample itself in the by-user order
        lengths = np.minimum(earlier, self.schema.history_length)
        width = max(1, int(lengths.max(initial=0)))  # as long as the longest, as in serving
        history, lengths = _windows(before, lengths, width)
        history_rows = self.index.rows[history]
        partitions, counts = empty_partitions(self.schema, len(rows)), np.zeros(len(rows), np.int64)
        if self.schema.sequence is not None:
            partitions, counts = self._users[self.schema.sequence.name].last(user, rows, self.schema.sequence.rows)
        inside = np.arange(width)[None] < lengths[:, None]
        return UserBatch(
            categorical=self.user_categorical[user],
            history_rows=np.where(inside, self.log.item[history_rows].astype(np.int64) + 1, 0),
            history_values=np.where(inside, self.log.value[history_rows], 0.0).astype(np.float32),
            history_lengths=lengths,
            history_times=self.log.time_ms[history_rows],
            moments=self.log.time_ms[rows],
            vectors=self.user_vectors(rows),
            partitions=partitions,
            partition_counts=counts,
        )

    @cached_property
    def user_statistics(self) -> tuple[FloatArray, FloatArray]:
        """The inputs "user_numeric" and "user_running" of a sample at every log row, [log rows, ..]."""
        names = ("user_numeric", "user_running")
        parts: dict[str, list[FloatArray | IntArray]] = {name: [] for name in names}
        order = np.argsort(self.index.position, kind="stable")  # histories of one length together: little padding
        for rows in np.array_split(order, -(-len(order) // _AT_ONCE)):
            tensors = encode_users(self.schema, self.users(rows), names)
            for name in names:
                parts[name].append(tensors[name])
        numeric, running = (np.concatenate(parts[name])[np.argsort(order)] for name in names)
        return numeric.astype(np.float32), running.astype(np.float32)

    def user_vectors(self, rows: IntArray) -> FloatArray:
        """Joined single vectors [n, Wu] of the users of the samples at these log rows, as they may see them."""
        vectors = np.zeros((len(rows), self.schema.user_width), np.float32)
        for name, columns in self.schema.user_columns.items():
            vectors[:, columns] = self._users[name].last(self.log.user[rows].astype(np.int64), rows, 1)[0][:, 0]
        return vectors

    def partitions(self, rows: IntArray) -> tuple[FloatArray, IntArray]:
        """Of whole histories of B users, at the log rows [B, L] of their events: all vectors of the sequence space that
        any of these sees ([B, V, dim], oldest first and padded with zeros at the end), and how many of them each sees
        [B, L]. ValueError for a schema without a sequence."""
        if self.schema.sequence is None:
            raise ValueError(f"schema {self.schema.name!r} has no sequence of knowledge")
        versions = self._users[self.schema.sequence.name]
        user = self.log.user[rows].astype(np.int64)
        counts = versions.visible(user.reshape(-1), rows.reshape(-1)).reshape(rows.shape)
        return versions.first(user[:, 0], counts.max(axis=1)), counts


@dataclass(frozen=True, slots=True)
class Periods:
    """Numbers of items that change with time: those of period p of the item table are ``values`` [periods, rows, w]
    from log row ``from_row`` [periods] on."""

    from_row: IntArray
    values: FloatArray

    def at(self, samples: IntArray, table_rows: IntArray) -> FloatArray:
        """Numbers [n, .., w] of item-table rows [n, ..] at the samples' log rows [n]."""
        period = np.searchsorted(self.from_row, samples, side="right") - 1
        return np.asarray(self.values[period.reshape(-1, *[1] * (table_rows.ndim - 1)), table_rows])


def _releases(schema: FeatureSchema, log: InteractionLog, trained_rows: int) -> Periods:
    """Item statistics as a release holds them for the items of a history: those of the last release before the sample.

    A candidate's statistics run on until its sample. Those of a whole history would have to be taken anew for every
    sample; the service has them of its release only, and so has training.
    """
    starts = np.append(np.unique(np.arange(RELEASES, dtype=np.int64) * trained_rows // RELEASES), trained_rows)
    unknown = item_statistics(schema, 0, 0, 0)[None]
    numeric = [np.concatenate([unknown, statistics_until(schema, log, int(row))]) for row in starts]
    return Periods(starts, np.stack(numeric))


def _slices(schema: FeatureSchema, knowledge: Knowledge, table: ItemTable) -> Periods:
    """Item knowledge as samples see it: that of the slice that a sample falls into."""
    item_spaces = _of_items(schema, knowledge)
    starts = np.unique(np.concatenate([[0], *(items.from_row for items in item_spaces)])).astype(np.int64)
    if len(starts) == 1:
        return Periods(starts, table.vectors[None])
    vectors = np.zeros((len(starts), *table.vectors.shape), np.float32)
    for items, columns in zip(item_spaces, schema.item_columns.values(), strict=True):
        slices = np.searchsorted(items.from_row, starts, side="right") - 1
        vectors[:, 1:, columns] = as_published(items.vectors, items.space)[slices]
    return Periods(starts, vectors)


class _Versions:
    """User knowledge of one space as samples see it."""

    def __init__(self, users: UserVectors) -> None:
        self._users = users
        self._vectors = as_published(users.vectors, users.space)

    def last(self, user: IntArray, row: IntArray, most: int) -> tuple[FloatArray, IntArray]:
        """The last ``most`` versions that samples at these log rows may see: ([n, most, dim], oldest first and padded
        with zeros at the end; how many [n])."""
        visible = self.visible(user, row)
        counts = np.minimum(visible, most)
        return self._at(self._users.start[user] + visible, counts, most), counts

    def visible(self, user: IntArray, row: IntArray) -> IntArray:
        """How many versions [n] samples at these log rows may see."""
        return self._users.visible(user, row)

    def first(self, user: IntArray, counts: IntArray) -> FloatArray:
        """The first ``counts`` [n] versions of users [n]: [n, V, dim], V the largest count but at least 1, oldest first
        and padded with zeros at the end."""
        return self._at(self._users.start[user] + counts, counts, max(1, int(counts.max(initial=0))))

    def _at(self, end: IntArray, length: IntArray, width: int) -> FloatArray:
        """The vectors [n, width, dim] of the ``length`` versions before ``end``."""
        places, _ = _windows(end, length, width)
        present = np.arange(width)[None] < length[:, None]
        vectors = np.zeros((*places.shape, self._vectors.shape[1]), np.float32)
        vectors[present] = self._vectors[places[present]]
        return vectors


def _of_items(schema: FeatureSchema, knowledge: Knowledge) -> list[ItemVectors]:
    return [knowledge.items[spec.name] for spec in schema.item_knowledge]


def _windows(end: IntArray, length: IntArray, width: int) -> tuple[IntArray, IntArray]:
    """Positions [n, width] of the ``length`` places before ``end``, oldest first, padded with 0; and the lengths."""
    steps = np.arange(width)[None]
    return np.where(steps < length[:, None], (end - length)[:, None] + steps, 0), length
