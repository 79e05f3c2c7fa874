"""A Bayesian linear regression for each user on factors of items, over the user's whole history.

Values minus the item's mean are explained by a level and by factors of the item, which alternating least squares finds
in the training period. The weights of all users of that period give the prior of one user's; a sample is scored by the
posterior of what its user did before, wherever that lies. No ids of users, no profile, no fields of items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from models.contract.arrays import FloatArray, IntArray
from offline.data.files import write_arrays
from offline.metrics import auc
from research.quality.peers import CANDIDATES, PeerResult, PeerSettings, RegressionSettings, timed
from research.quality.peers.events import Events
from research.quality.peers.samples import PeerSamples

Doubles = npt.NDArray[np.float64]

_JITTER = 1e-6
_LEAST_NOISE = 1e-2
"""Variance of one value: that of values that are all equal would be 0."""
_STEPS, _RIDGE = 25, 1e-3
_LARGEST_LOGIT = 15.0


def train_regression(
    samples: PeerSamples, settings: PeerSettings, seed: int, folder: Path, progress: bool = True
) -> PeerResult:
    """Factors, prior and noise from the training period; three numbers of calibration from the validation samples.

    The seed is that of the factors that alternating least squares begins with. There is one epoch, the last round.
    """
    start = perf_counter()
    model = _fit(samples.events, settings.regression, seed, progress)
    validation = samples.of("validation")
    expected = model.expected(samples, validation)
    weights = _calibration(expected, samples.label[validation])
    seconds = perf_counter() - start
    write_arrays(folder / "Bayesian.npz", rows=model.rows, means=model.means, prior=model.prior, spread=model.spread)
    scores = _scores(expected, weights)
    request = samples.one_user(CANDIDATES, seed)
    posterior = model.posterior(request.events, int(request.user[0]), int(request.earlier[0]))
    return PeerResult(
        validation=scores,
        test=_scores(model.expected(samples, samples.of("test")), weights),
        epochs=(auc(samples.label[validation], scores),),
        ms_per_500=timed(lambda: _scores(model.above(request.item, posterior, samples.liked_above), weights)),
        parameters=sum(array.size for array in (model.rows[:, 1:], model.means, model.prior, model.spread, weights))
        + 1,
        seconds=seconds,
    )


Posterior = tuple[Doubles, Doubles]
"""Mean [1 + factors] and covariance of a user's weights."""


@dataclass(frozen=True, slots=True, eq=False)
class _Regression:
    """``rows`` [items, 1 + factors]: 1 and an item's factors; ``means`` [items] of their values. A user's weights come
    from a normal distribution of mean ``prior`` and covariance ``spread``; ``noise`` is the variance of one value."""

    rows: Doubles
    means: Doubles
    prior: Doubles
    spread: Doubles
    noise: float

    def expected(self, samples: PeerSamples, places: IntArray) -> Doubles:
        """What ``above`` gives [n, 2] for samples at these places, each by what its user did before."""
        expected = np.empty((len(places), 2))
        order = np.lexsort([samples.earlier[places], samples.user[places]])
        for of_user in _runs(samples.user[places[order]]):
            mine = order[of_user]
            user, earlier = int(samples.user[places[mine[0]]]), samples.earlier[places[mine]]
            posterior, known = self.posterior(samples.events, user, int(earlier[0])), int(earlier[0])
            for at, count in zip(mine, earlier.tolist(), strict=True):
                for event in range(samples.events.start[user] + known, samples.events.start[user] + count):
                    posterior = self._after(posterior, samples.events.item[event], samples.events.value[event])
                known = count
                item = samples.item[places[at : at + 1]]
                expected[at] = self.above(item, posterior, samples.liked_above)[0]
        return expected

    def posterior(self, events: Events, user: int, count: int) -> Posterior:
        """Of a user's weights after the first ``count`` events."""
        places = slice(events.start[user], events.start[user] + count)
        rows = self.rows[events.item[places]]
        surplus = events.value[places] - self.means[events.item[places]]
        precision = np.linalg.inv(self.spread)
        covariance = np.asarray(np.linalg.inv(precision + rows.T @ rows / self.noise), np.float64)
        return covariance @ (precision @ self.prior + rows.T @ surplus / self.noise), covariance

    def _after(self, posterior: Posterior, item: int, value: float) -> Posterior:
        """After one more event."""
        (mean, covariance), row = posterior, self.rows[item]
        moved = covariance @ row
        gain = moved / (row @ moved + self.noise)
        return mean + gain * (value - self.means[item] - row @ mean), covariance - np.outer(gain, moved)

    def above(self, items: IntArray, posterior: Posterior, liked_above: float) -> Doubles:
        """By how much the values of items are expected above ``liked_above``, and their standard deviations [n, 2]."""
        (mean, covariance), rows = posterior, self.rows[items]
        variance = ((rows @ covariance) * rows).sum(axis=1) + self.noise
        return np.stack([self.means[items] + rows @ mean - liked_above, np.sqrt(variance)], axis=1)


def _fit(events: Events, settings: RegressionSettings, seed: int, progress: bool) -> _Regression:
    users = np.repeat(np.arange(len(events.start) - 1), np.diff(events.start))[events.trained]
    items, values = events.item[events.trained], events.value[events.trained].astype(np.float64)
    count = events.items
    weight = np.bincount(items, minlength=count)
    means = (np.bincount(items, values, count) + settings.mean_weight * values.mean()) / (weight + settings.mean_weight)
    surplus = values - means[items]
    generator = np.random.default_rng(seed)
    rows = np.concatenate([np.ones((count, 1)), 0.1 * generator.normal(size=(count, settings.factors))], axis=1)
    of_users, of_items = _grouped(users, len(events.start) - 1), _grouped(items, count)
    for _ in tqdm(range(settings.rounds), desc="  factors", unit="round", mininterval=1.0, disable=not progress):
        weights = np.zeros((len(of_users), settings.factors + 1))
        for user, places in enumerate(of_users):
            weights[user] = _ridge(rows[items[places]], surplus[places], settings.user_penalty)
        for item, places in enumerate(of_items):
            mine = weights[users[places]]
            rows[item, 1:] = _ridge(mine[:, 1:], surplus[places] - mine[:, 0], settings.item_penalty)
    prior, covariance, noise = _prior(rows, items, surplus, [p for p in of_users if len(p)], settings)
    return _Regression(rows, means, prior, covariance, noise)


def _prior(
    rows: Doubles, items: IntArray, surplus: Doubles, of_users: list[IntArray], settings: RegressionSettings
) -> tuple[Doubles, Doubles, float]:
    """Mean and covariance of users' weights, and the variance of the noise, by expectation and maximisation."""
    size = rows.shape[1]
    squares = np.array([rows[items[places]].T @ rows[items[places]] for places in of_users])
    products = np.array([rows[items[places]].T @ surplus[places] for places in of_users])
    prior, covariance, noise = np.zeros(size), np.eye(size), max(float(surplus.var()), _LEAST_NOISE)
    for _ in range(settings.prior_rounds):
        precision = np.linalg.inv(covariance)
        spreads = np.linalg.inv(precision + squares / noise)
        means = np.einsum("uij,uj->ui", spreads, precision @ prior + products / noise)
        prior = means.mean(axis=0)
        moved = means - prior
        covariance = spreads.mean(axis=0) + moved.T @ moved / len(means) + _JITTER * np.eye(size)
        fitted = 2 * (means * products).sum() - np.einsum("ui,uij,uj->", means, squares, means)
        errors = (surplus**2).sum() - fitted + np.einsum("uij,uji->", spreads, squares)
        noise = max(float(errors) / len(surplus), _LEAST_NOISE)
    return prior, covariance, noise


def _ridge(rows: Doubles, values: Doubles, penalty: float) -> Doubles:
    return np.asarray(np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ values))


def _grouped(owners: IntArray, count: int) -> list[IntArray]:
    """Places of each owner."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owners, minlength=count))[:-1])


def _runs(values: IntArray) -> Iterator[slice]:
    """Slices of equal neighbours."""
    ends = [*(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield slice(start, end)


def _calibrated(expected: Doubles) -> Doubles:
    """Rows [n, 3] whose weighted sums are logits: the expected value in standard deviations, their inverse, which moves
    the bound that is liked above, and 1."""
    value, deviation = expected.T
    return np.stack([value / deviation, 1 / deviation, np.ones(len(value))], axis=1)


def _calibration(expected: Doubles, labels: FloatArray) -> Doubles:
    """Weights [3] of the lowest LogLoss, by Newton's steps."""
    rows, weights = _calibrated(expected), np.zeros(3)
    for _ in range(_STEPS):
        chance = _sigmoid(rows @ weights)
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows + _RIDGE * np.eye(3)
        weights = weights - np.linalg.solve(curvature, rows.T @ (chance - labels))
    return weights


def _scores(expected: Doubles, weights: Doubles) -> FloatArray:
    """Probabilities [n]."""
    return _sigmoid(_calibrated(expected) @ weights).astype(np.float32)


def _sigmoid(logits: Doubles) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT))))
