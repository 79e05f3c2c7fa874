"""The Bayesian regression: its posteriors by hand, what it sees, and data that it can say nothing about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from research.quality.peers import PeerSettings, RegressionSettings, bayesian, train_peer
from research.quality.peers.samples import PeerSamples, peer_samples
from tests.synthetic import synthetic

SETTINGS = RegressionSettings(factors=3, rounds=5, user_penalty=1.0, item_penalty=1.0, prior_rounds=5)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> PeerSamples:
    data = synthetic(tmp_path_factory.mktemp("synthetic"), seed=4, users=30, items=20, events=25)
    return peer_samples(data.config, data.catalogue, data.log)


def fitted(samples: PeerSamples) -> bayesian._Regression:
    return bayesian._fit(samples.events, SETTINGS, 1, progress=False)


def test_each_sample_is_scored_by_the_posterior_of_what_its_user_did_before(samples: PeerSamples) -> None:
    model, places = fitted(samples), np.random.default_rng(0).permutation(samples.of("test"))
    expected = model.expected(samples, places)
    for place, (above, deviation) in zip(places, expected, strict=True):
        start, row = samples.events.start[samples.user[place]], model.rows[samples.item[place]]
        past = slice(start, start + samples.earlier[place])
        rows = model.rows[samples.events.item[past]]
        surplus = samples.events.value[past] - model.means[samples.events.item[past]]
        precision = np.linalg.inv(model.spread) + rows.T @ rows / model.noise
        weights = np.linalg.solve(
            precision, np.linalg.solve(model.spread, model.prior) + rows.T @ surplus / model.noise
        )
        mean = model.means[samples.item[place]] + row @ weights - samples.liked_above
        assert above == pytest.approx(mean, abs=1e-8)
        assert deviation**2 == pytest.approx(row @ np.linalg.solve(precision, row) + model.noise, abs=1e-8)


def test_nothing_is_fitted_on_events_after_training(samples: PeerSamples) -> None:
    later = ~samples.events.trained
    changed = replace(samples.events, value=np.where(later, 6 - samples.events.value, samples.events.value))
    other = fitted(replace(samples, events=changed))
    for name in ("rows", "means", "prior", "spread", "noise"):
        np.testing.assert_array_equal(getattr(other, name), getattr(fitted(samples), name))


def test_more_of_the_past_is_less_uncertain(samples: PeerSamples) -> None:
    model = fitted(samples)
    deviations = [
        model.above(np.arange(20), model.posterior(samples.events, 0, count), 3.0)[:, 1] for count in (0, 5, 20)
    ]
    assert (deviations[0] > deviations[1]).all()
    assert (deviations[1] > deviations[2]).all()


def test_calibration_finds_shares(samples: PeerSamples) -> None:
    generator = np.random.default_rng(0)
    expected = np.stack([generator.normal(size=20_000), generator.uniform(0.5, 1.5, 20_000)], axis=1)
    chance = 1 / (1 + np.exp(-(1.5 * expected[:, 0] - 0.4) / expected[:, 1] - 0.2))
    labels = (generator.random(20_000) < chance).astype(np.float32)
    assert bayesian._calibration(expected, labels) == pytest.approx([1.5, -0.4, 0.2], abs=0.15)


def test_equal_values_are_no_error(samples: PeerSamples, tmp_path: Path) -> None:
    """Purchases: every value is 1. There is nothing to learn from them, and nothing to fail by."""
    events = replace(samples.events, value=np.ones_like(samples.events.value))
    result = train_peer(
        "Bayesian", replace(samples, events=events), PeerSettings(regression=SETTINGS), 1, tmp_path, progress=False
    )
    assert np.ptp(result.test) < 1e-3
    assert result.test.mean() == pytest.approx(samples.label[samples.of("validation")].mean(), abs=0.01)
    assert (tmp_path / "Bayesian.npz").is_file()
