"""Calibration: how far scores are from outcomes. Nothing here depends on the order of the samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.contract.arrays import Array


@dataclass(frozen=True, slots=True)
class Reliability:
    """Mean score, share of positives and number of samples of each bin."""

    centres: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]


def reliability(label: Array, score: Array, bins: int = 15) -> Reliability:
    """Bins of equal mass over the ranks of the scores [n]. Equal scores share their mean rank and so a bin, which makes
    some bins larger, or leaves them out."""
    _, value, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count + 1) / 2  # of each value, from 0
    place = (rank * bins // len(score)).astype(np.int64)[value]
    _, place, count = np.unique(place, return_inverse=True, return_counts=True)
    centres, observed = (np.bincount(place, column.astype(np.float64)) / count for column in (score, label))
    return Reliability(tuple(centres.tolist()), tuple(observed.tolist()), tuple(count.tolist()))


def expected_calibration_error(label: Array, score: Array, bins: int = 15) -> float:
    """Mean distance between scores and outcomes over bins of equal mass, weighted by samples (arXiv 1706.04599, eq. 3,
    whose bins are of equal width)."""
    curve = reliability(label, score, bins)
    distance = np.abs(np.array(curve.centres) - np.array(curve.observed))
    return float(np.average(distance, weights=curve.count))
