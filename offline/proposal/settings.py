"""Numbers that follow from how much there is: which samples count, when a partition closes, how wide a vector is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.contract.arrays import IntArray
from models.contract.ids import NOBODY
from offline.config import SamplesConfig
from offline.data.activity import PARTITION_SIZES, Activity
from offline.proposal.features import Column
from offline.proposal.roles import PARTS, Roles
from offline.proposal.times import seconds_of

_LEAST_WORTH = 0.05
"""Share of users with a partition below which LIBER is not worth its questions."""

_LEAST_LABEL = 0.2
"""Share of either label that a bound in the middle of the scale must leave."""

_HALF_LIVES = (1, 7, 30, 180)
_LONGEST = 1000
_WIDEST = 64
_LIBER_DIMS = (32, 16, 8)
_COVERAGE, _SPARE = 0.9, 0.1
"""The usual share of items with knowledge that a release needs; what is spared of a smaller one, for another day."""
_MARGIN = 1.1
"""So many times the vectors that a space needs: a few rows of the files may not enter the log."""


@dataclass(frozen=True, slots=True)
class Liber:
    """Settings under which LIBER can be fitted: summaries fill a half of ``dim`` and shifts the other, or, without
    ``shift``, summaries all of it."""

    partition_size: int
    dim: int
    shift: bool


@dataclass(frozen=True, slots=True)
class Amounts(Activity):
    """``position`` [interactions, in order of the log]: how many the same user has before; ``items``: how many are
    described and occur in interactions. ``training``: how many interactions are in the training part of a set that
    brings its parts. ``days``: from the first to the last of them, None without times."""

    position: IntArray
    items: int
    training: int | None = None
    days: float | None = None

    @classmethod
    def of(cls, interactions: pl.DataFrame, roles: Roles, items: pl.Series) -> Amounts:
        """Amounts of a table of interactions whose items with ids ``items`` are described."""
        rows = in_order(interactions.drop_nulls([roles.user, roles.item]), roles)
        counts = rows[roles.user].value_counts()["count"]
        position = rows.select(pl.int_range(pl.len()).over(roles.user)).to_series()
        described = rows[roles.item].cast(pl.String).unique().is_in(items.cast(pl.String).implode())
        training = None
        if roles.part is not None:
            parts = _part_numbers(rows[roles.part])
            training = int((parts == 0).sum())
            if not (parts == 1).any():  # then a tenth of these validates
                training = int(0.9 * training)
        days = None
        if roles.time is not None and roles.time.unit != "order":
            seconds = seconds_of(interactions[roles.time.column], roles.time).drop_nulls()
            days = float(seconds.max() - seconds.min()) / 86_400.0 if len(seconds) else None  # type: ignore[operator, arg-type]
        of_log = position.to_numpy().astype(np.int64)
        return cls(counts.to_numpy().astype(np.int64), of_log, int(described.sum()), training, days)

    def early(self, size: int) -> tuple[int, int]:
        """Partitions that close within the training period, and how many of them have a predecessor."""
        sampled = np.flatnonzero(self.position >= self.min_history)
        first = int(len(sampled) * SamplesConfig().split[0])
        end = self.training if self.training is not None else int(sampled[first]) if len(sampled) else 0
        number = (self.position[:end] + 1) / size
        return int(((number >= 1) & (number % 1 == 0)).sum()), int(((number >= 2) & (number % 1 == 0)).sum())

    @property
    def liber(self) -> Liber | None:
        """The largest partitions that enough users fill and that LIBER can be fitted on; then fewer dimensions; then
        no shifts. None if nothing helps, or if hardly anybody would have a partition of any size."""
        sizes = [size for size in PARTITION_SIZES if size <= self.partition_size and self.covered(size) >= _LEAST_WORTH]
        widest = max(_LIBER_DIMS[-1], self.text_dim)
        dims = [widest, *(dim for dim in _LIBER_DIMS if dim < widest)]
        candidates = (Liber(size, dim, shift) for shift in (True, False) for dim in dims for size in sizes)
        return next((candidate for candidate in candidates if self._bears(candidate)), None)

    def _bears(self, liber: Liber) -> bool:
        summaries, shifts = self.early(liber.partition_size)
        width = liber.dim // 2 if liber.shift else liber.dim
        return summaries > width * _MARGIN and (not liber.shift or shifts > (liber.dim - width) * _MARGIN)

    @property
    def history_length(self) -> int:
        """Interactions of a user that a model reads: as many as lie before nineteen of twenty interactions, from 10 to
        1,000."""
        return int(np.clip(np.quantile(self.position, 0.95), 10, _LONGEST)) if len(self.position) else 10

    @property
    def half_lives_days(self) -> tuple[int, ...]:
        """Half-lives of counts that forget by the clock: those that pass four times in the period of the interactions,
        the shortest in any case; none without times."""
        days = self.days
        return (
            () if days is None else tuple(life for life in _HALF_LIVES if life in _HALF_LIVES[:1] or 4 * life <= days)
        )

    @property
    def text_dim(self) -> int:
        """Numbers of an item's text vector: a power of two that a third of the items bear, from 4 on; fewer than there
        are items."""
        third, all_but_one = (int(np.log2(max(1, count))) for count in (self.items / 3, self.items - 1))
        return int(min(_WIDEST, 2 ** min(all_but_one, max(2, third))))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the ``items``, those in interactions and those in their table, are ``described``: have a value of
    which a text can be made."""

    described: int
    items: int

    @classmethod
    def of(cls, table: pl.DataFrame, id_column: str, columns: Sequence[Column], used: pl.Series) -> Coverage:
        """Of the items with ids ``used``, and of a table that tells them by ``columns``: all, if there are none."""
        described = table.drop_nulls(id_column).unique(id_column, keep="last")
        ids = described[id_column].cast(pl.String)
        names = used.drop_nulls().cast(pl.String)
        names = names.filter(~names.is_in(list(NOBODY)) & (names.str.strip_chars() != ""))
        total = pl.concat([ids.alias("id"), names.alias("id")]).n_unique()
        if not columns:
            return cls(total, total)
        has_value = [_has_value(described[column.column]) for column in columns]
        return cls(int(pl.DataFrame(has_value).select(pl.any_horizontal(pl.all())).to_series().sum()), total)

    @property
    def share(self) -> float:
        """Share of the items of which something can be known."""
        return self.described / max(1, self.items)

    @property
    def is_low(self) -> bool:
        """Whether a release needs to get along with less than is usual."""
        return self.share < _COVERAGE

    @property
    def least(self) -> float:
        """The share of items with knowledge that a release needs: what is usual, or a tenth less than what is there, in
        hundredths."""
        return math.floor(100 * (1 - _SPARE) * self.share) / 100 if self.is_low else _COVERAGE


def _has_value(values: pl.Series) -> pl.Series:
    """Whether the cells [rows] of a column hold anything."""
    if isinstance(values.dtype, (pl.List, pl.Array)):
        return values.cast(pl.List(pl.String)).list.len().fill_null(0) > 0
    return (values.cast(pl.String).str.strip_chars() != "").fill_null(False)


def in_order(interactions: pl.DataFrame, roles: Roles) -> pl.DataFrame:
    """The interactions as the log has them: by part, if the set brings its parts, and by time, if there are times."""
    keys = []
    if roles.part is not None:
        keys.append(_part_numbers(interactions[roles.part]).alias("part"))
    if roles.time is not None:
        keys.append(seconds_of(interactions[roles.time.column], roles.time).alias("time"))
    if not keys:
        return interactions
    order = pl.DataFrame(keys).with_row_index("row").sort([key.name for key in keys], maintain_order=True)["row"]
    return interactions[order]


def _part_numbers(values: pl.Series) -> pl.Series:
    numbers = {"train": 0, "validation": 1, "test": 2}
    return pl.Series([numbers[PARTS[word.strip().lower()]] for word in values.to_list()], dtype=pl.Int8)


def liked_above(values: pl.Series) -> tuple[float, float]:
    """The value above which an interaction is liked, and the share that is: the middle of the scale, or, where hardly
    any or nearly all lie above it, the value whose share is closest to a half."""
    numbers = values.to_numpy().astype(np.float64)
    different = np.unique(numbers)
    shares = {float(value): float((numbers > value).mean()) for value in different[:-1]}
    middle = float(different[0] + different[-1]) / 2
    share = float((numbers > middle).mean())
    if _LEAST_LABEL <= share <= 1 - _LEAST_LABEL:
        return middle, share
    best = min(shares, key=lambda value: abs(shares[value] - 0.5))
    return best, shares[best]


@dataclass(frozen=True, slots=True)
class Labels:
    """The kind of labels and the scale of values; ``share`` of interactions are liked."""

    kind: str
    low: float
    high: float
    liked_above: float
    share: float

    @classmethod
    def of(cls, interactions: pl.DataFrame, value: str | None) -> Labels:
        """The labels that a column of values makes; implicit ones without any."""
        if value is None:
            return cls("implicit", 0.0, 1.0, 0.5, 1.0)
        numbers = interactions[value].cast(pl.Float64, strict=False).drop_nulls()
        if set(numbers.unique().to_list()) <= {0.0, 1.0}:
            return cls("binary", 0.0, 1.0, 0.5, float(numbers.mean() or 0.0))  # type: ignore[arg-type]
        bound, share = liked_above(numbers)
        return cls("threshold", float(numbers.min()), float(numbers.max()), bound, share)  # type: ignore[arg-type]
