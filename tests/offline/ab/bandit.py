"""A bandit whose policies' values are known: units have a taste, and come back in other contexts."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax  # type: ignore[import-untyped]  # has no types

from models.contract.arrays import Array
from offline.ab.offpolicy import Log, Outlook

ACTIONS, WIDTH = 4, 3


class Bandit:
    """Rewards are 0 and 1; the policies choose by the softmax of something linear in the context."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self._worth = random.normal(size=(WIDTH, ACTIONS))
        self._logging, self._target = random.normal(size=(2, WIDTH, ACTIONS)) * 0.7

    def log(self, random: np.random.Generator, units: int) -> tuple[Log, Outlook]:
        """The log of the logging policy for so many units."""
        unit = np.repeat(np.arange(units), 1 + random.poisson(random.lognormal(0.5, 0.8, units)))
        context, taste = self._contexts(random, unit, units)
        logging, target = (softmax(context @ policy, axis=1) for policy in (self._logging, self._target))
        action = (random.random((len(unit), 1)) > np.cumsum(logging, axis=1)).sum(axis=1)
        rows = np.arange(len(unit))
        reward = (random.random(len(unit)) < self._chances(context, taste)[rows, action]).astype(np.float64)
        own = np.column_stack([np.ones(len(unit)), context])
        actions = np.einsum("nd,ab->nabd", own, np.eye(ACTIONS)).reshape(len(unit), ACTIONS, -1)
        outlook = Outlook(actions[rows, action], actions, target)
        return Log(reward, logging[rows, action], target[rows, action], unit), outlook

    def values(self) -> tuple[float, float]:
        """Of the logging and of the target policy, each unit's rows counting as in ``log``: exact up to 1e-3."""
        random = np.random.default_rng(99)
        unit = np.arange(400_000)
        context, taste = self._contexts(random, unit, len(unit))
        chances = self._chances(context, taste)
        rewards = [
            (softmax(context @ policy, axis=1) * chances).sum(axis=1) for policy in (self._logging, self._target)
        ]
        return float(rewards[0].mean()), float(rewards[1].mean())

    def _contexts(self, random: np.random.Generator, unit: Array, units: int) -> tuple[Array, Array]:
        own = random.normal(size=(units, WIDTH))[unit]
        return 0.6 * own + 0.8 * random.normal(size=(len(unit), WIDTH)), random.normal(size=units)[unit]

    def _chances(self, context: Array, taste: Array) -> Array:
        return np.asarray(expit(context @ self._worth + taste[:, None] - 0.5))
