"""Calibration finds a planted distortion, the weight finds the better mix, and help must be shown to be used."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize  # type: ignore[import-untyped]  # has no types

from models.contract.reranker import HistoryBand, blend
from offline.reranking.calibrate import (
    best_weight,
    fit_calibration,
    fit_mix,
    helped_band,
    isotonic,
    platt,
    probability_of,
)


def planted(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], ...]:
    """(true log-odds, labels)"""
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=rows).astype(np.float32)
    return truth, (draw.random(rows) < probability_of(truth)).astype(np.float32)


def test_platt_undoes_a_scale_and_a_shift() -> None:
    truth, label = planted()
    calibration = platt(4.0 * truth + 3.0, label)
    assert calibration.slope == pytest.approx(0.25, rel=0.15)
    assert calibration.intercept == pytest.approx(-0.75, rel=0.2)


@pytest.mark.parametrize("rows", [4, 60, 2000])
def test_platt_is_the_minimum_of_the_cross_entropy_towards_his_targets(rows: int) -> None:
    truth, label = planted(rows, seed=rows)
    raw = 3.0 * truth + 1.0
    positives = float(label.sum())
    target = np.where(label > 0.5, (positives + 1) / (positives + 2), 1 / (rows - positives + 2))

    def loss(line: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        odds = line[0] * raw + line[1]
        return float(np.mean(np.logaddexp(0, odds) - target * odds))

    reference = minimize(loss, [0.1, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15})
    calibration = platt(raw, label)
    assert loss(np.array([calibration.slope, calibration.intercept])) <= reference.fun + 1e-12
    np.testing.assert_allclose(calibration.log_odds(raw), reference.x[0] * raw + reference.x[1], atol=1e-5)


def test_answers_that_are_all_alike_say_how_often_and_not_which() -> None:
    calibration = platt(np.full(10, 2.0, np.float32), np.array([1] * 6 + [0] * 4, np.float32))
    assert calibration.slope == 0.0
    assert probability_of(np.array([calibration.intercept]))[0] == pytest.approx(0.59, abs=0.02)


def test_isotonic_undoes_what_platt_cannot() -> None:
    truth, label = planted()
    bent = np.where(truth < 0, 0.01 * truth, 5.0 * truth).astype(np.float32)
    odds = isotonic(bent, label).log_odds(bent)
    assert np.abs(probability_of(odds) - probability_of(truth)).mean() < 0.04
    assert np.abs(probability_of(platt(bent, label).log_odds(bent)) - probability_of(truth)).mean() > 0.04


def test_certain_and_few_answers_stay_finite() -> None:
    raw, label = np.array([-3, -2, 2, 3], np.float32), np.array([0, 0, 1, 1], np.float32)
    for kind in ("platt", "isotonic"):
        assert np.abs(fit_calibration(kind, raw, label).log_odds(raw)).max() < 5


def test_the_weight_is_of_the_better_mix() -> None:
    truth, label = planted()
    noise = np.random.default_rng(1).normal(size=len(truth)).astype(np.float32)
    assert best_weight(label, probability_of(truth), noise) <= 0.05
    assert best_weight(label, probability_of(truth), np.zeros_like(noise)) == 0.0, "of equal ones the smallest"
    assert best_weight(label, probability_of(noise), truth) >= 0.95
    first = probability_of(truth + noise)
    second = truth + np.random.default_rng(2).normal(size=len(truth)).astype(np.float32)
    assert 0.3 < best_weight(label, first, second) < 0.7


def test_the_band_is_where_the_mix_helps() -> None:
    truth, label = planted(6000)
    draw = np.random.default_rng(3)
    noise = draw.normal(size=len(truth)).astype(np.float32)
    events = draw.choice([10, 50, 150, 300, 900], len(truth))
    ctr = probability_of(np.where(events < 100, noise, truth).astype(np.float32))
    mixed = probability_of(np.where(events < 100, truth, truth + 0.3 * noise).astype(np.float32))
    assert helped_band(label, np.arange(len(label)) % 500, events, ctr, mixed) == HistoryBand(shortest=5, longest=99)


def test_without_help_there_is_no_band() -> None:
    truth, label = planted()
    ctr = probability_of(truth)
    noise = np.random.default_rng(1).normal(size=len(truth)).astype(np.float32)
    events = np.full(len(truth), 50)
    user = np.arange(len(truth)) % 100
    assert helped_band(label, user, events, ctr, blend(ctr, noise, 0.3)) is None
    assert helped_band(label, user, events, ctr, ctr) is None
    assert helped_band(label[:20], user[:20], events[:20], probability_of(noise[:20]), ctr[:20]) is None, "too few"


def test_help_at_the_longest_histories_has_no_end() -> None:
    truth, label = planted()
    noise = np.random.default_rng(1).normal(size=len(truth)).astype(np.float32)
    band = helped_band(
        label, np.arange(len(label)) % 100, np.full(len(label), 2000), probability_of(noise), probability_of(truth)
    )
    assert band == HistoryBand(shortest=500, longest=None)


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_the_mix_is_calibration_weight_and_band_together(kind: str) -> None:
    truth, label = planted(6000)
    noise = np.random.default_rng(3).normal(size=len(truth)).astype(np.float32)
    ctr, raw = probability_of(noise), 3.0 * truth + 1.0
    user, events = np.arange(len(label)) % 500, np.full(len(label), 50)
    mix = fit_mix(kind, raw, ctr, label, user, events)
    assert mix.calibration == fit_calibration(kind, raw, label)
    assert mix.weight == best_weight(label, ctr, mix.calibration.log_odds(raw)) > 0.5
    assert mix.band == HistoryBand(shortest=30, longest=99)
    np.testing.assert_array_equal(mix.scores(raw, ctr), blend(ctr, mix.calibration.log_odds(raw), mix.weight))
    useless = fit_mix(kind, noise, probability_of(truth), label, user, events)
    assert useless.band is None
