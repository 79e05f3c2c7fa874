"""The distribution of a model's scores, and how it has moved. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.contract.arrays import Array, FloatArray

BUCKETS = 10
_CHANCE = 16.9
"""The 95 % point of chi-square with 9 degrees of freedom."""


def score_buckets(label: FloatArray, score: FloatArray) -> list[dict[str, Any]]:
    """Test samples by tenths of their scores, lowest first: the lowest score that belongs to each (``low``),
    ``samples``, mean ``score`` and the share ``liked``. Fewer of scores that coincide.

    As many samples in each, so that rare likes, whose scores all lie near 0, are told from each other."""
    tenths = np.unique(np.quantile(score.astype(np.float64), np.arange(1, BUCKETS) / BUCKETS))
    edges = np.concatenate([[float(score.min())], tenths[tenths > score.min()]])
    of_bucket = np.searchsorted(edges, score, side="right") - 1
    return [
        {
            "low": float(edges[bucket]),
            "samples": int(inside.sum()),
            "score": float(score[inside].mean()),
            "liked": float(label[inside].mean()),
        }
        for bucket in range(len(edges))
        if (inside := of_bucket == bucket).any()
    ]


def histogram(score: FloatArray) -> list[int]:
    """Samples in each of ten equal parts of the scores from 0 to 1."""
    return [int(count) for count in np.histogram(score, BUCKETS, (0.0, 1.0))[0]]


def stability(before: Sequence[dict[str, Any]], score: Array) -> tuple[float, float]:
    """The population stability index of scores [n] against former ``score_buckets``, the sum of (p - q) ln(p / q) over
    buckets; and the value that as many samples exceed by chance once in twenty times (Yurdakul and Naranjo, Journal of
    Risk Model Validation 14, 2020)."""
    samples = np.array([bucket["samples"] for bucket in before], np.float64)
    edges = [bucket["low"] for bucket in before[1:]]
    now = np.bincount(np.searchsorted(edges, score, side="right"), minlength=len(before))
    # Half a sample more in each: a logarithm needs something, and few samples leave buckets empty by chance.
    expected, actual = ((counts + 0.5) / (counts.sum() + 0.5 * len(before)) for counts in (samples, now))
    index = float(((actual - expected) * np.log(actual / expected)).sum())
    return index, float(_CHANCE * (1 / samples.sum() + 1 / len(score)))
