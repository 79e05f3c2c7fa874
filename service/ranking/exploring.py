"""Orders that chance has a part in: a head that is drawn with propensities, and two orders merged by team draft.

Knows arrays. Does not know candidates, arms or requests.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from models.contract.experiments import Epsilon, PlackettLuce

_CLOSEST = 1e-6
"""How near to 0 or 1 a probability may be to have log-odds."""


@dataclass(frozen=True, slots=True)
class Order:
    """Positions of candidates, best first. ``propensities`` [n] of the first positions, the others being certain;
    empty if nothing was drawn. ``teams`` [n] 0 or 1, by whose order the position was filled; empty without teams."""

    positions: IntArray
    propensities: tuple[float, ...] = ()
    teams: tuple[int, ...] = ()


def dice(request_id: str) -> np.random.Generator:
    """Random numbers that a repeated request repeats."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "little"))


def log_odds(scores: FloatArray) -> FloatArray:
    """float64 [C] of probabilities [C]."""
    probabilities = np.clip(scores.astype(np.float64), _CLOSEST, 1.0 - _CLOSEST)
    return np.log(probabilities / (1.0 - probabilities))


def draw_head(
    order: IntArray,
    scores: FloatArray,
    explore: Epsilon | PlackettLuce,
    last: BoolArray | None,
    random: np.random.Generator,
) -> Order:
    """The order with its first positions drawn from the candidates that are not ``last``."""
    eligible = len(order) if last is None else int(np.count_nonzero(~last))
    count = min(explore.positions, eligible)
    if isinstance(explore, Epsilon):
        return _epsilon(order, eligible, count, explore.epsilon, random)
    return _plackett_luce(order, log_odds(scores) / explore.temperature, eligible, count, random)


def _epsilon(order: IntArray, eligible: int, count: int, epsilon: float, random: np.random.Generator) -> Order:
    remaining = order[:eligible].tolist()
    head, propensities = [], []
    for _ in range(count):
        at = int(random.integers(len(remaining))) if random.random() < epsilon else 0
        propensities.append(epsilon / len(remaining) + (1.0 - epsilon if at == 0 else 0.0))
        head.append(remaining.pop(at))
    return Order(np.concatenate([np.asarray([*head, *remaining], np.int64), order[eligible:]]), tuple(propensities))


def _plackett_luce(
    order: IntArray, utility: FloatArray, eligible: int, count: int, random: np.random.Generator
) -> Order:
    """By the Gumbel trick: the largest of utilities with Gumbel noise are draws without replacement (Kool et al., ICML
    2019). What was not drawn keeps its order."""
    noisy = utility[order[:eligible]] + random.gumbel(size=eligible)
    chosen = np.argsort(-noisy, kind="stable")[:count]
    others = np.setdiff1d(np.arange(eligible), chosen)
    positions = order[np.concatenate([chosen, others])]
    logits = utility[positions]
    # In logarithms: at a low temperature the weights of all but one would be 0.
    remaining = np.logaddexp.accumulate(logits[::-1])[::-1]
    chances = np.clip(np.exp(logits[:count] - remaining[:count]), np.finfo(np.float64).tiny, 1.0)
    return Order(np.concatenate([positions, order[eligible:]]), tuple(chances.tolist()))


def team_draft(first: IntArray, second: IntArray, count: int, random: np.random.Generator) -> Order:
    """Team draft (Radlinski, Kurup and Joachims, CIKM 2008): in each round a coin says which order picks its best item
    that is left, and then the other one does. ``count`` positions are filled so, the others by the first order."""
    queues = [first.tolist(), second.tolist()]
    at, picked, positions, teams = [0, 0], set[int](), list[int](), list[int]()
    count = min(count, len(first))
    while len(positions) < count:
        starts = int(random.integers(2))
        for team in (starts, 1 - starts):
            if len(positions) == count:
                break
            while queues[team][at[team]] in picked:
                at[team] += 1
            item = queues[team][at[team]]
            picked.add(item)
            positions.append(item)
            teams.append(team)
    others = [item for item in queues[0] if item not in picked]
    return Order(np.asarray([*positions, *others], np.int64), teams=tuple(teams))
