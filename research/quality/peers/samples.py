"""The samples of ``offline.training.samples`` as plain arrays, which any library can be fed with.

The same interactions in the same splits with the same labels, and what was known before each: the user's profile and
last interactions with their values, the item's fields, and running statistics for models that live on them. All of it
keeps to the rules of ``offline.training.samples``: a sample sees its own user's earlier interactions wherever they lie,
and other users' only from the training period.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray, IntArray
from models.contract.schema import FieldSpec
from offline.config import JobConfig
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog, UserIndex
from offline.training.samples import Split, split_samples
from offline.training.statistics import running_statistics
from research.quality.peers.events import Events

SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
"""Numbers in ``PeerSamples.split``."""

RECENT = 10
"""Interactions that the statistics of a user's recent past look back on."""

_PRIOR_WEIGHT = 5.0
_DAY_MS = 86_400_000
_FIXED = 1 << 20


@dataclass(frozen=True, slots=True)
class PeerSamples:
    """All samples of a data set as aligned arrays [n], in the order of the log.

    rows            log row
    split           number of ``SPLITS``
    user, item      0-based numbers of the log
    user_fields     name -> [n, slots], 0 for unknown or padding
    item_fields     name -> [items, slots]: per item, to be gathered
    history         [n, T] item + 1 of the user's last interactions, oldest first, 0 for padding at the end
    history_values  [n, T] their values, 0 for padding; those above ``liked_above`` were liked
    statistics      [n, S], named by ``statistic_names``; finite
    events          of all users: what a model reads that is given whole histories
    earlier         [n] how many events the user has before the sample
    """

    rows: IntArray
    split: npt.NDArray[np.int8]
    label: FloatArray
    user: IntArray
    item: IntArray
    user_fields: dict[str, IntArray]
    item_fields: dict[str, IntArray]
    history: npt.NDArray[np.int32]
    history_values: FloatArray
    statistics: FloatArray
    statistic_names: tuple[str, ...]
    events: Events
    earlier: IntArray
    liked_above: float

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, split: Split) -> IntArray:
        """Places of a split's samples, rising."""
        return np.flatnonzero(self.split == SPLITS[split])

    def training(self, fraction: float, seed: int) -> IntArray:
        """Places of a random ``fraction`` of the training samples, rising; for one seed, a smaller choice lies within a
        larger one."""
        places = self.of("train")
        count = max(1, round(fraction * len(places)))
        return np.sort(np.random.default_rng(seed).permutation(places)[:count])

    def one_user(self, candidates: int, seed: int) -> PeerSamples:
        """The last request of a user, made up: a test sample's user with ``candidates`` random items."""
        generator = np.random.default_rng(seed)
        test = self.of("test")
        user = np.full(candidates, test[-1])
        others = generator.choice(test, candidates)
        return replace(
            self,
            rows=self.rows[others],
            split=self.split[others],
            label=self.label[others],
            user=self.user[user],
            item=self.item[others],
            user_fields={name: values[user] for name, values in self.user_fields.items()},
            history=self.history[user],
            history_values=self.history_values[user],
            statistics=self.statistics[others],
            earlier=self.earlier[user],
        )


def peer_samples(config: JobConfig, catalogue: Catalogue, log: InteractionLog) -> PeerSamples:
    """The samples of a job's data set. DataError if they are too few to split."""
    schema = config.feature_schema
    splits = split_samples(config.samples, log)
    rows = np.concatenate([splits.rows[name] for name in SPLITS])
    user = log.user[rows].astype(np.int64)
    index = log.by_user()
    events, earlier = Events.of(log, index, splits.trained_rows), index.position[rows]
    history, values = events.last(user, earlier, schema.history_length)
    item_fields = _fields(
        schema.item_fields, [schema.encode_item_fields(catalogue.items.get(item, {})) for item in log.item_ids]
    )
    user_fields = _fields(
        schema.user_fields, [schema.encode_user_fields(catalogue.users.get(user_id, {})) for user_id in log.user_ids]
    )
    statistics = _statistics(config, log, index, item_fields, splits.trained_rows)
    return PeerSamples(
        rows=rows,
        split=np.repeat(np.array(list(SPLITS.values()), np.int8), [len(splits.rows[name]) for name in SPLITS]),
        label=(log.value[rows] > schema.liked_above).astype(np.float32),
        user=user,
        item=log.item[rows].astype(np.int64),
        user_fields={name: encoded[user] for name, encoded in user_fields.items()},
        item_fields=item_fields,
        history=history,
        history_values=values,
        statistics=np.stack([column[rows] for column in statistics.values()], axis=1).astype(np.float32),
        statistic_names=tuple(statistics),
        events=events,
        earlier=earlier,
        liked_above=schema.liked_above,
    )


def _fields(specs: tuple[FieldSpec, ...], encoded: list[list[int]]) -> dict[str, IntArray]:
    """name -> [owners, slots]"""
    joined = np.array(encoded, np.int64).reshape(len(encoded), sum(spec.slots for spec in specs))
    ends = np.cumsum([spec.slots for spec in specs])
    return {spec.name: joined[:, end - spec.slots : end] for spec, end in zip(specs, ends, strict=True)}


def _statistics(
    config: JobConfig, log: InteractionLog, index: UserIndex, item_fields: dict[str, IntArray], trained_rows: int
) -> dict[str, FloatArray]:
    """Running statistics [len(log)] by name.

    An interaction's surplus is its value minus the mean of its item as far as it was known then: how much a user likes
    what everybody likes says less than where they differ.
    """
    schema = config.feature_schema
    of_item = running_statistics(schema, log, log.item, trained_rows)
    of_user = running_statistics(schema, log, log.user, len(log))
    value = log.value.astype(np.float64)
    liked = (value > schema.liked_above).astype(np.float64)
    surplus = value - (of_item[:, 1] * schema.value_scale + schema.value_center)
    past = _Past(log, index)
    statistics: dict[str, npt.NDArray[np.floating]] = {
        "item_log_count": of_item[:, 0],
        "item_mean_value": of_item[:, 1],
        "item_liked_rate": of_item[:, 2],
        "user_log_count": of_user[:, 0],
        "user_mean_value": of_user[:, 1],
        "user_liked_rate": of_user[:, 2],
        "user_recent_value": past.mean(value - schema.value_center, RECENT),
        "user_recent_liked": past.mean(liked - schema.prior_liked, RECENT),
        "user_surplus": past.mean(surplus),
        "user_recent_surplus": past.mean(surplus, RECENT),
        "user_log_days_since_last": past.log_days_since(last=True),
        "user_log_days_since_first": past.log_days_since(last=False),
    }
    for name, values in item_fields.items():
        statistics[f"user_surplus_of_{name}"] = _surplus_of_shared(log, surplus, values)
    return {name: column.astype(np.float32) for name, column in statistics.items()}


class _Past:
    """Means over the earlier observed interactions of each log row's user.

    Sums are of whole numbers: running sums of floats over all users would carry the rounding of one into another.
    """

    def __init__(self, log: InteractionLog, index: UserIndex) -> None:
        self._time_ms = log.time_ms
        self._rows = index.rows
        self._count = index.position
        self._first = index.start[log.user]
        self._end = self._first + index.position

    def mean(self, values: npt.NDArray[np.float64], last: int | None = None) -> npt.NDArray[np.float64]:
        """Mean of the ``last`` earlier values, or of all, pulled towards 0 where they are few."""
        count = self._count if last is None else np.minimum(self._count, last)
        sums = np.concatenate([[0], np.cumsum(_fixed(values[self._rows]))])
        total = (sums[self._end] - sums[self._end - count]) / _FIXED
        return np.asarray(total / (count + _PRIOR_WEIGHT))

    def log_days_since(self, *, last: bool) -> npt.NDArray[np.float64]:
        """log(1 + days) since the user's last or first interaction; 0 for a user without one."""
        places = self._end - 1 if last else self._first
        then = self._time_ms[self._rows[np.where(self._count > 0, places, 0)]]
        days = np.maximum(self._time_ms - then, 0) / _DAY_MS  # what arrives late may be older than what came before
        return np.where(self._count > 0, np.log1p(days), 0.0)


def _surplus_of_shared(
    log: InteractionLog, surplus: npt.NDArray[np.float64], values: IntArray
) -> npt.NDArray[np.float64]:
    """Mean surplus [len(log)] of the user's earlier interactions with items that share a value of the field
    ``values`` [items, slots] with the item of the row; one that shares two counts twice."""
    row, slot = np.nonzero(values[log.item])
    if not len(row):
        return np.zeros(len(log))
    key = log.user[row].astype(np.int64) * (int(values.max()) + 1) + values[log.item[row], slot]
    order = np.argsort(key, kind="stable")  # the rows of a key stay in the order of the log
    row, key = row[order], key[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(key)]]))
    observed = (~log.sampled[row]).astype(np.int64)
    sums = []
    for numbers in (observed, _fixed(surplus[row]) * observed):
        running = np.cumsum(numbers) - numbers
        running -= np.repeat(running[starts], lengths)
        sums.append(np.bincount(row, weights=running, minlength=len(log)))
    count, total = sums
    return np.asarray(total / _FIXED / (count + _PRIOR_WEIGHT))


def _fixed(values: npt.NDArray[np.float64]) -> IntArray:
    return np.rint(values * _FIXED).astype(np.int64)
