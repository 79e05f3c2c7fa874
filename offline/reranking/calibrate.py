"""What the answers of a tuned model are worth: calibration, weight in the mix, and the histories for which it helps.

Everything here is fitted on samples of the validation split. Zero-shot probabilities of language models are badly
calibrated (ReLLa prints a LogLoss of .93 on BookCrossing), so raw ones must not be mixed with those of a CTR model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.contract.knowledge import FloatArray
from models.contract.lookup import IntArray
from models.contract.reranker import HistoryBand, Isotonic, Platt, blend
from offline.training.bootstrap import Resamples as UserResamples
from offline.training.bootstrap import difference
from offline.training.metrics import gauc as user_auc

Array = npt.NDArray[Any]

WEIGHTS: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(21))
EDGES = (0, 5, 30, 100, 200, 500)
"""Rising lengths of history at which a new bucket begins: those of the benchmark's slices."""
_NEWTON_STEPS = 25
_LEAST_ROWS = 50
"""A bucket with fewer samples says nothing."""


def fitted(kind: str, raw: FloatArray, label: Array) -> Platt | Isotonic:
    """Calibration of raw log-odds [n] to labels [n]."""
    return platt(raw, label) if kind == "platt" else isotonic(raw, label)


def platt(raw: FloatArray, label: Array) -> Platt:
    """Logistic regression on the raw log-odds, towards Platt's targets, which keep n samples from certainty."""
    x, positive = raw.astype(np.float64), np.asarray(label) > 0.5
    wanted = np.where(positive, (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2))
    scale = max(float(x.std()), 1e-6)
    inputs = np.stack([(x - x.mean()) / scale, np.ones(len(x))], axis=1)

    def loss(at: Array) -> float:
        odds = inputs @ at
        return float(np.mean(np.logaddexp(0, odds) - wanted * odds))

    at = np.array([1.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-(inputs @ at)))
        gradient = inputs.T @ (chance - wanted) / len(x)
        curvature = inputs.T @ (inputs * (chance * (1 - chance))[:, None]) / len(x) + 1e-9 * np.eye(2)
        step, length = np.linalg.solve(curvature, gradient), 1.0
        while loss(at - length * step) > loss(at) and length > 1e-6:
            length /= 2  # far from the minimum a whole step may overshoot
        at = at - length * step
    slope, middle = at.tolist()
    return Platt(slope=slope / scale, intercept=middle - slope * float(x.mean()) / scale)


def isotonic(raw: FloatArray, label: Array) -> Isotonic:
    """Pool adjacent violators, and log-odds of each pool with half a sample of either kind added."""
    from sklearn.isotonic import IsotonicRegression

    x, y = raw.astype(np.float64), (np.asarray(label) > 0.5).astype(np.float64)
    shares = IsotonicRegression(y_min=0.0, y_max=1.0).fit(x, y).predict(x)
    pools, place = np.unique(shares, return_inverse=True)
    positives, counts = np.bincount(place, y), np.bincount(place)
    share = (positives + 0.5) / (counts + 1.0)
    calibrated = np.maximum.accumulate(np.log(share) - np.log1p(-share))
    knots: dict[float, float] = {}
    for pool in range(len(pools)):
        inside = x[place == pool]
        for knot in (float(inside.min()), float(inside.max())):
            knots.setdefault(knot, float(calibrated[pool]))
    return Isotonic(raw=tuple(sorted(knots)), calibrated=tuple(knots[one] for one in sorted(knots)))


def best_weight(label: Array, ctr: FloatArray, calibrated: FloatArray) -> float:
    """The weight of ``WEIGHTS`` with the highest AUC of the mix to four digits; of equal ones the smallest."""
    aucs = [round(auc(label, blend(ctr, calibrated, weight)), 4) for weight in WEIGHTS]
    return WEIGHTS[int(np.argmax(aucs))]


def helped(
    label: Array, user: Array, events: IntArray, ctr: FloatArray, mixed: FloatArray, resamples: int = 1000
) -> HistoryBand | None:
    """The widest run of buckets of history lengths ``events`` [n] in each of which the mix has a higher AUC than the
    CTR model, and over all of which the 95 % interval of the difference lies above zero. None if there is no such run:
    a mix that is not shown to help is not used."""
    bucket = np.searchsorted(EDGES, events, side="right") - 1
    better = [_gain(label, user, ctr, mixed, bucket == one, 0) > 0 for one in range(len(EDGES))]
    runs = [
        (first, last)
        for first in range(len(EDGES))
        for last in range(first, len(EDGES))
        if all(better[first : last + 1])
    ]
    for first, last in sorted(runs, key=lambda run: -int(((bucket >= run[0]) & (bucket <= run[1])).sum())):
        if _gain(label, user, ctr, mixed, (bucket >= first) & (bucket <= last), resamples) > 0:
            longest = EDGES[last + 1] - 1 if last + 1 < len(EDGES) else None
            return HistoryBand(shortest=EDGES[first], longest=longest)
    return None


def _gain(label: Array, user: Array, ctr: FloatArray, mixed: FloatArray, mask: Array, resamples: int) -> float:
    """AUC of the mix above that of the CTR model where ``mask`` holds: the lower bound of its interval, or, without
    resamples, itself. Nothing where too little is there to say."""
    inside = label[mask]
    if len(inside) < _LEAST_ROWS or inside.min() == inside.max():
        return float("-inf")
    if not resamples:
        return auc(inside, mixed[mask]) - auc(inside, ctr[mask])
    measure = UserResamples(inside, user[mask], resamples)
    return difference(measure.auc(mixed[mask]), measure.auc(ctr[mask])).low


def auc(label: Array, score: FloatArray) -> float:
    """Over all samples, as if one user had them."""
    return user_auc(label, score, np.zeros(len(label)))


def probability_of(raw: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-raw.astype(np.float64))), np.float32)
