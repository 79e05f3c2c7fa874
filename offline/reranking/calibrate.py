"""Worth of the answers of a tuned model: calibration, weight in the mix, and the histories for which it helps.

Everything here is fitted on samples of the validation split. Zero-shot probabilities of language models are badly
calibrated (ReLLa prints a LogLoss of .93 on BookCrossing), so raw ones must not be mixed with those of a CTR model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.contract.arrays import Array, FloatArray, IntArray
from models.contract.reranker import HistoryBand, Isotonic, Platt, blend
from offline.metrics import auc
from offline.training.bootstrap import Resamples, difference

WEIGHTS: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(21))
EDGES = (0, 5, 30, 100, 200, 500)
"""Rising lengths of history at which a new bucket begins: those of the quality page's slices (docs/quality.md)."""
_LEAST_ROWS = 50
"""A bucket with fewer samples says nothing."""


@dataclass(frozen=True, slots=True)
class Mix:
    """The mix of the language model's answers with the CTR model's scores. ``band`` None: mixing is shown to help
    nobody."""

    calibration: Platt | Isotonic
    weight: float
    band: HistoryBand | None

    def scores(self, raw: FloatArray, ctr: FloatArray) -> FloatArray:
        """Probabilities [n] of the mix, whatever the band says: of raw log-odds [n] and the CTR model's
        probabilities [n]."""
        return blend(ctr, self.calibration.log_odds(raw), self.weight)


def fit_mix(kind: str, raw: FloatArray, ctr: FloatArray, label: Array, user: Array, events: IntArray) -> Mix:
    """Calibration (``kind`` "platt" or "isotonic"), weight and band, from the same validation samples.

    ``raw`` [n] are log-odds of the language model, ``ctr`` [n] probabilities of the CTR model, ``label`` [n] 0 or 1;
    ``events`` [n] counts the earlier interactions of each sample's ``user`` [n].
    """
    calibration = fit_calibration(kind, raw, label)
    weight = best_weight(label, ctr, calibration.log_odds(raw))
    mix = Mix(calibration, weight, None)
    if weight == 0:
        return mix
    return Mix(calibration, weight, helped_band(label, user, events, ctr, mix.scores(raw, ctr)))


def fit_calibration(kind: str, raw: FloatArray, label: Array) -> Platt | Isotonic:
    """Calibration of raw log-odds [n] to labels [n]."""
    return platt(raw, label) if kind == "platt" else isotonic(raw, label)


def platt(raw: FloatArray, label: Array) -> Platt:
    """Logistic regression on the raw log-odds, towards Platt's targets, which keep n samples from certainty. Raw
    log-odds that are all alike get the slope 0."""
    from sklearn.linear_model import LogisticRegression

    x, positive = raw.astype(np.float64), np.asarray(label) > 0.5
    target = np.where(positive, (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2))
    scale, mean = max(float(x.std()), 1e-6), float(x.mean())
    inputs = ((x - mean) / scale)[:, None]
    # A target between 0 and 1 is a positive and a negative sample that share a weight of 1.
    regression = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.concatenate([inputs, inputs]), np.repeat([1, 0], len(x)), np.concatenate([target, 1 - target])
    )
    slope = float(regression.coef_[0, 0]) / scale
    return Platt(slope=slope, intercept=float(regression.intercept_[0]) - slope * mean)


def isotonic(raw: FloatArray, label: Array) -> Isotonic:
    """Pool adjacent violators, and log-odds of each pool with half a sample of either kind added."""
    from scipy.special import logit  # type: ignore[import-untyped]  # has no types
    from sklearn.isotonic import IsotonicRegression

    x, y = raw.astype(np.float64), (np.asarray(label) > 0.5).astype(np.float64)
    shares = IsotonicRegression(y_min=0.0, y_max=1.0).fit(x, y).predict(x)
    pools, place = np.unique(shares, return_inverse=True)
    positives, counts = np.bincount(place, y), np.bincount(place)
    calibrated = np.maximum.accumulate(logit((positives + 0.5) / (counts + 1.0)))
    knots: dict[float, float] = {}
    for pool in range(len(pools)):
        inside = x[place == pool]
        for knot in (float(inside.min()), float(inside.max())):
            knots.setdefault(knot, float(calibrated[pool]))
    return Isotonic(raw=tuple(sorted(knots)), calibrated=tuple(knots[knot] for knot in sorted(knots)))


def best_weight(label: Array, ctr: FloatArray, calibrated: FloatArray) -> float:
    """The weight of ``WEIGHTS`` with the highest AUC of the mix to four digits; of equal ones the smallest."""
    aucs = [round(auc(label, blend(ctr, calibrated, weight)), 4) for weight in WEIGHTS]
    return WEIGHTS[int(np.argmax(aucs))]


def helped_band(
    label: Array, user: Array, events: IntArray, ctr: FloatArray, mixed: FloatArray, resamples: int = 1000
) -> HistoryBand | None:
    """The widest run of buckets of history lengths ``events`` [n] in each of which the mix has a higher AUC than the
    CTR model, and over all of which the 95 % interval of the difference lies above zero. None if there is no such run:
    a mix that is not shown to help is not used."""
    bucket = np.searchsorted(EDGES, events, side="right") - 1
    better = [_gain(label, user, ctr, mixed, bucket == number, 0) > 0 for number in range(len(EDGES))]
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
    """AUC of the mix above that of the CTR model where ``mask`` [n] holds: the lower bound of its interval, or, without
    resamples, itself. Minus infinity where there are too few samples, or samples of one label only."""
    inside = label[mask]
    if len(inside) < _LEAST_ROWS or inside.min() == inside.max():
        return float("-inf")
    if not resamples:
        return auc(inside, mixed[mask]) - auc(inside, ctr[mask])
    measure = Resamples(inside, user[mask], resamples)
    return difference(measure.auc(mixed[mask]), measure.auc(ctr[mask])).low


def probability_of(raw: FloatArray) -> FloatArray:
    """Probabilities, float32 [n], of log-odds [n]."""
    from scipy.special import expit

    return np.asarray(expit(raw.astype(np.float64)), np.float32)
