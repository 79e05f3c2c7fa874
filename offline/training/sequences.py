"""Whole histories as training input: all samples of a user in one pass, instead of a window of history per sample.

A model that is causal over a history (``models.ctr.lifelong``) predicts every event from those before it, so n samples
cost one sequence of n events. What a sample may see is the same as in ``SampleEncoder``, with one unit of bookkeeping:
a *stretch* is the samples of one user between two releases, with all the history before them, because items of a
history carry the statistics and the knowledge of the release that the sample falls into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import BoolArray, IntArray
from models.contract.encoding import Tensors
from offline.data.catalogue import DataError
from offline.training.item_dropout import ItemDropout
from offline.training.samples import SampleEncoder


@dataclass(frozen=True, slots=True)
class Stretches:
    """S stretches. ``user`` [S]; ``length`` [S]: events up to the last sample; ``seen_at`` [S]: log row of the first
    sample, which settles what all of them see."""

    user: IntArray
    length: IntArray
    seen_at: IntArray


@dataclass(frozen=True, slots=True)
class Batch:
    """B stretches of at most L events. ``rows`` [B, L] log rows; ``sample`` [B, L]: which of them are to be predicted.

    ``tensors``: the contract's inputs with one entry per event, "item_numeric" as candidates have them,
    "history_numeric" as items of a history; "value" [B, L] normalised; "present" [B, L] 1 for events, 0 for padding;
    for running features, "time_ms" [B, L]; and of a sequence of knowledge, "partition_vectors" [B, V, D], the user's
    first V partitions, and "partition_counts" [B, L], how many of them were closed by each event.
    """

    rows: IntArray
    sample: BoolArray
    tensors: Tensors


class SequenceEncoder:
    """Batches of stretches from the data behind a ``SampleEncoder``; ``value`` [log rows] is normalised. In epochs of
    training, ``dropout`` hides items. DataError for a log with drawn negatives."""

    def __init__(self, encoder: SampleEncoder, dropout: ItemDropout | None = None) -> None:
        if encoder.log.sampled.any():
            raise DataError("a model of whole histories needs a value from every sample; this log has drawn negatives")
        self._of = encoder
        self.dropout = dropout
        self._from_row = np.unique(np.concatenate([encoder.releases.from_row, encoder.slices.from_row]))
        schema = encoder.schema
        values = np.clip(encoder.log.value, schema.value_min, schema.value_max)
        self.value = ((values - schema.value_center) / schema.value_scale).astype(np.float32)
        nothing = np.zeros((0, 0), np.float32)
        self._users = encoder.user_statistics if schema.running else (nothing, nothing)

    @property
    def log_rows(self) -> int:
        return len(self._of.log)

    def stretches(self, rows: IntArray) -> Stretches:
        """The stretches of the samples at these log rows (each row once)."""
        user = self._of.log.user[rows].astype(np.int64)
        release = np.searchsorted(self._from_row, rows, side="right")
        key = user * (len(self._from_row) + 1) + release
        order = np.lexsort((rows, key))
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        ends = np.append(starts[1:], len(order))[: len(starts)] - 1
        return Stretches(user[order[starts]], self._of.index.position[rows[order[ends]]] + 1, rows[order[starts]])

    def epochs(self, rows: IntArray, tokens: int, count: int, seed: int) -> Iterator[tuple[float, Batch]]:
        """``count`` times all samples at these log rows, in random order: batches, each with how far training is (from
        0 to below 1). A batch has stretches of similar length, and at most ``tokens`` events with padding, or one
        stretch."""
        stretches, sampled = self.stretches(rows), self._sampled(rows)
        generator = np.random.default_rng(seed)
        for epoch in range(count):
            batches = _groups(stretches.length, tokens, generator)
            for at, members in enumerate(batches):
                yield (epoch + at / len(batches)) / count, self._batch(stretches, members, sampled, epoch)

    def once(self, rows: IntArray, tokens: int, epoch: int | None = None) -> Iterator[Batch]:
        """All samples at these log rows, shortest stretches first; all items are known, or those that are in an
        ``epoch`` of training."""
        stretches, sampled = self.stretches(rows), self._sampled(rows)
        for members in _groups(stretches.length, tokens, None):
            yield self._batch(stretches, members, sampled, epoch)

    def steps(self, rows: IntArray, tokens: int) -> int:
        """About how many batches an epoch has."""
        return len(_groups(self.stretches(rows).length, tokens, None))

    def _sampled(self, rows: IntArray) -> BoolArray:
        sampled = np.zeros(len(self._of.log), np.bool_)
        sampled[rows] = True
        return sampled

    def _batch(self, stretches: Stretches, members: IntArray, sampled: BoolArray, epoch: int | None) -> Batch:
        of, table = self._of, self._of.table
        user, length, seen_at = stretches.user[members], stretches.length[members], stretches.seen_at[members]
        steps = np.arange(length.max())[None]
        present = steps < length[:, None]
        places = of.index.start[user][:, None] + np.minimum(steps, length[:, None] - 1)
        rows = of.index.rows[places]
        release = np.searchsorted(self._from_row, rows, side="right")
        same = release == np.searchsorted(self._from_row, seen_at, side="right")[:, None]
        item = of.log.item[rows].astype(np.int64) + 1
        tensors: Tensors = {
            "user_categorical": of.user_categorical[user],
            "user_vectors": of.user_vectors(rows.reshape(-1)).reshape(*rows.shape, -1),
            "item_index": table.index[item],
            "item_categorical": table.categorical[item],
            "item_numeric": of.numeric[rows],
            "item_vectors": of.slices.at(seen_at, item),
            "history_numeric": of.releases.at(seen_at, item),
            "value": self.value[rows],
            "present": present.astype(np.float32),
        }
        if of.schema.sequence is not None:
            tensors["partition_vectors"], tensors["partition_counts"] = of.partitions(rows)
        if of.schema.running:
            numeric, running = self._users
            tensors |= {"item_row": item, "user_numeric": numeric[rows], "user_running": running[rows]}
            tensors["time_ms"] = of.log.time_ms[rows]
        if epoch is not None and self.dropout is not None:
            tensors = self.dropout.applied(tensors, user, epoch)
        return Batch(rows, present & same & sampled[rows], tensors)


def _groups(length: IntArray, tokens: int, generator: np.random.Generator | None) -> list[IntArray]:
    """Numbers of the stretches of each batch."""
    blurred = length if generator is None else length * generator.uniform(1.0, 1.25, len(length))
    groups: list[IntArray] = []
    current: list[int] = []
    longest = 0
    for stretch in np.argsort(blurred, kind="stable").tolist():
        if current and max(longest, int(length[stretch])) * (len(current) + 1) > tokens:
            groups.append(np.array(current))
            current, longest = [], 0
        current.append(stretch)
        longest = max(longest, int(length[stretch]))
    if current:
        groups.append(np.array(current))
    if generator is not None:
        generator.shuffle(groups)
    return groups
