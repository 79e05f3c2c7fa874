"""The order that was shown and the model's order of the same items, judged by the same clicks.

All measures of order are taken within requests that have clicked and unclicked items: no order can be told from the
others. The model's order is that of falling scores; equal ones keep their order, as in the service. Differences are
paired, with intervals over users. The shown order has credit for its own places, because people click what they see
first: the comparison favours it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from models.contract.arrays import Array, BoolArray, FloatArray, IntArray
from offline.ab.offpolicy import Log, Value, ips, on_policy, snips
from offline.metrics import auc_within, ndcg_within, reciprocal_rank_within
from offline.training.bootstrap import Difference, Resamples, difference
from offline.training.validation import FEWEST_USERS

AUC, FIRST = "AUC within requests", "clicks in the first place"
_FIRST_PLACES = {FIRST: 1, "clicks in the first 3 places": 3, "clicks in the first 5 places": 5}
_NAN = float("nan")
UNKNOWN = Difference(_NAN, _NAN, _NAN)


@dataclass(frozen=True, slots=True)
class OrderMeasure:
    """A measure of both orders, the higher the better, and the model's less the shown one's. The bounds of the
    difference are NaN with too few users for an interval."""

    name: str
    shown: float
    model: float
    difference: Difference


@dataclass(frozen=True, slots=True)
class MovedClicks:
    """Clicked items that the model puts higher, at the same place and lower, and by how many ``places`` it moves them
    up on average."""

    up: int
    same: int
    down: int
    places: Difference


@dataclass(frozen=True, slots=True)
class OrderComparison:
    """Both orders on ``requests`` of ``users``, of which ``judged`` have clicked and unclicked items, of
    ``judged_users``. ``first_place`` are the off-policy values of clicks on the first place: the shown order's own,
    then the model's by IPS and SNIPS; none without propensities."""

    requests: int
    users: int
    items: int
    clicks: int
    judged: int
    judged_users: int
    measures: tuple[OrderMeasure, ...]
    moved: MovedClicks
    first_place: tuple[Value, ...]

    @property
    def has_intervals(self) -> bool:
        return self.judged_users >= FEWEST_USERS

    def of(self, name: str) -> OrderMeasure:
        """The measure of a name."""
        return next(measure for measure in self.measures if measure.name == name)


def compare_orders(requests: pl.DataFrame, scores: Sequence[FloatArray]) -> OrderComparison:
    """The comparison of scored requests, rows as in ``Impressions.requests``."""
    user = np.unique(requests["user"].to_numpy(), return_inverse=True)[1]
    sizes = requests["items"].list.len().to_numpy().astype(np.int64)
    shown = np.concatenate([np.arange(size) for size in sizes.tolist()])
    clicked = requests["clicked"].explode().to_numpy().astype(np.bool_)
    group = np.repeat(np.arange(len(sizes)), sizes)
    places = _places(np.concatenate(scores), group, shown)
    clicks = np.bincount(group, clicked, len(sizes))
    mixed = (clicks > 0) & (clicks < sizes)
    inside = mixed[group]
    slate = _Slates(np.unique(group[inside], return_inverse=True)[1], clicked[inside], user[mixed])
    measures, moved = slate.compared(shown[inside], places[inside]) if mixed.any() else ((), _unmoved())
    return OrderComparison(
        requests=len(sizes),
        users=int(user.max()) + 1,
        items=len(clicked),
        clicks=int(clicked.sum()),
        judged=int(mixed.sum()),
        judged_users=len(np.unique(user[mixed])),
        measures=measures,
        moved=moved,
        first_place=_first_place(requests["propensity"], clicked[shown == 0], places[shown == 0] == 0, user),
    )


@dataclass(frozen=True, slots=True)
class _Slates:
    """Shown items by ``group`` [n], the number of their request, whether each was ``clicked`` [n], and the ``user``
    [requests] of each request."""

    group: IntArray
    clicked: BoolArray
    user: IntArray

    def compared(self, shown: IntArray, model: IntArray) -> tuple[tuple[OrderMeasure, ...], MovedClicks]:
        """Both orders, by the places [n] that they give each item, from 0."""
        resamples = Resamples(np.ones(len(self.user)), self.user)
        is_enough = len(np.unique(self.user)) >= FEWEST_USERS
        both = zip(self._values(shown).items(), self._values(model).values(), strict=True)
        measures = []
        for (name, before), after in both:
            means = resamples.mean(before), resamples.mean(after)
            gain = _bounded(difference(means[1], means[0]), is_enough)
            measures.append(OrderMeasure(name, float(means[0][0]), float(means[1][0]), gain))
        up = (shown - model)[self.clicked]
        sums = resamples.mean(self._sums((shown - model) * self.clicked))
        places = sums / resamples.mean(self._sums(self.clicked))
        moved = _bounded(difference(places, np.zeros(len(places))), is_enough)
        counts = int((up > 0).sum()), int((up == 0).sum()), int((up < 0).sum())
        return tuple(measures), MovedClicks(*counts, moved)

    def _values(self, places: IntArray) -> dict[str, Array]:
        """Values [requests] of each measure of an order, by its name."""
        order = -places.astype(np.float64)
        return {
            AUC: auc_within(self.clicked, order, self.group),
            "NDCG@10": ndcg_within(self.clicked, order, self.group, 10),
            "MRR": reciprocal_rank_within(self.clicked, order, self.group),
            **{name: self._sums(self.clicked & (places < k)) for name, k in _FIRST_PLACES.items()},
        }

    def _sums(self, values: Array) -> Array:
        """Sums [requests] of values [n]."""
        return np.bincount(self.group, values, len(self.user))


def _places(scores: FloatArray, group: IntArray, shown: IntArray) -> IntArray:
    """The place [n] of each item in the order of falling scores of its request, from 0."""
    order = np.lexsort((shown, -scores, group))
    places = np.empty(len(order), np.int64)
    places[order] = shown  # items of a request lie together, and their places shown count up from 0
    return places


def _bounded(gain: Difference, is_enough: bool) -> Difference:
    """The difference, without its interval if users are too few."""
    return gain if is_enough else Difference(gain.middle, _NAN, _NAN)


def _unmoved() -> MovedClicks:
    return MovedClicks(0, 0, 0, UNKNOWN)


def _first_place(propensity: pl.Series, clicked: BoolArray, is_same: BoolArray, user: IntArray) -> tuple[Value, ...]:
    """Off-policy values of clicks on the first place, of the requests [n] whose propensity is given: ``clicked`` says
    whether the first item shown was, ``is_same`` whether the model puts it first, too."""
    given = propensity.is_not_null().to_numpy()
    if not given.any():
        return ()
    logging = propensity.drop_nulls().to_numpy()
    log = Log(clicked[given].astype(np.float64), logging, is_same[given].astype(np.float64), user[given])
    return (on_policy(log), ips(log), *((snips(log),) if log.target.any() else ()))
