"""Buckets of scores, their calibration error and their stability, against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from offline.training.scores import histogram, score_buckets, stability

EVEN: FloatArray = np.linspace(0, 0.999, 1000).astype(np.float32)


def test_buckets_are_tenths_of_the_samples_however_low_the_scores_are() -> None:
    label = (np.arange(1000) % 4 == 0).astype(np.float32)
    for scale in (1.0, 0.01):
        buckets = score_buckets(label, (EVEN * scale).astype(np.float32))
        assert [bucket["samples"] for bucket in buckets] == [100] * 10
        assert [bucket["liked"] for bucket in buckets] == [0.25] * 10
        assert buckets[3]["score"] == pytest.approx(0.3495 * scale)
        assert buckets[0]["low"] == 0.0


def test_scores_that_coincide_share_a_bucket() -> None:
    score = np.array([0.2] * 50 + [0.7] * 50, np.float32)
    buckets = score_buckets(np.ones(100, np.float32), score)
    assert [bucket["samples"] for bucket in buckets] == [50, 50]
    assert [bucket["samples"] for bucket in score_buckets(np.ones(9, np.float32), np.full(9, 0.4, np.float32))] == [9]


def test_the_histogram_has_ten_bars() -> None:
    assert histogram(np.array([0.0, 0.05, 0.55, 1.0], np.float32)) == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_the_stability_index() -> None:
    before = score_buckets(np.ones(1000, np.float32), EVEN)
    assert stability(before, EVEN)[0] == pytest.approx(0, abs=1e-6)
    lower = np.tile(np.array([0.05, 0.15, 0.25, 0.35, 0.45], np.float32), 200)
    halved, by_chance = stability(before, lower)  # twice as many in each of the lower five, none above
    assert halved == pytest.approx(5 * sum((share - 0.1) * np.log(share / 0.1) for share in (200.5 / 1005, 0.5 / 1005)))
    assert by_chance == pytest.approx(16.9 * 2 / 1000)
