"""From scores to an order: boosts, seen items last, drawing with propensities, and merging two orders. Arrays only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.contract.arrays import BoolArray, FloatArray, IntArray
from service.ranking.plan import Boost, Explore
from service.ranking.slate import Slate
from service.ranking.types import Release, UserState

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


def boosted(scores: FloatArray, boosts: Sequence[Boost], release: Release, slate: Slate) -> FloatArray:
    """Scores [C] with ``boosts`` added to their log-odds."""
    added = np.zeros(len(scores), np.float64)
    categorical = slate.categorical()
    at = 0
    for field in release.schema.item_fields:
        columns = categorical[:, at : at + field.slots]
        at += field.slots
        for boost in boosts:
            if boost.field == field.name:
                (index,) = field.encode(boost.value)[:1]
                added += boost.add * ((columns == index).any(axis=1) & (index != 0))
    if not added.any():
        return scores
    return (1.0 / (1.0 + np.exp(-(_log_odds(scores) + added)))).astype(np.float32)


def seen(release: Release, slate: Slate, user: UserState) -> BoolArray:
    """bool [C]: candidates that the user's history holds, as far as it was read. Items must be of the catalogue."""
    history = release.table.rows_of_hashes(user.events["item"])
    return np.isin(slate.rows, history[history > 0])


def ordered(scores: FloatArray, last: BoolArray | None) -> IntArray:
    """Positions by falling score; those marked ``last`` behind all others."""
    keys = (-scores,) if last is None else (-scores, last)
    return np.lexsort(keys)


def drawn(
    order: IntArray, scores: FloatArray, explore: Explore, last: BoolArray | None, random: np.random.Generator
) -> Order:
    """The order with its first positions drawn from the candidates that are not ``last``."""
    among = len(order) if last is None else int(np.count_nonzero(~last))
    count = min(explore.positions, among)
    if explore.kind == "epsilon":
        return _epsilon(order, among, count, explore.amount, random)
    return _plackett_luce(order, _log_odds(scores) / explore.amount, among, count, random)


def _epsilon(order: IntArray, among: int, count: int, epsilon: float, random: np.random.Generator) -> Order:
    left = order[:among].tolist()
    first, propensities = [], []
    for _ in range(count):
        at = int(random.integers(len(left))) if random.random() < epsilon else 0
        propensities.append(epsilon / len(left) + (1.0 - epsilon if at == 0 else 0.0))
        first.append(left.pop(at))
    return Order(np.concatenate([np.asarray([*first, *left], np.int64), order[among:]]), tuple(propensities))


def _plackett_luce(order: IntArray, utility: FloatArray, among: int, count: int, random: np.random.Generator) -> Order:
    """By the Gumbel trick: the largest of utilities with Gumbel noise are draws without replacement (Kool et al., ICML
    2019). What was not drawn keeps its order."""
    eligible = order[:among]
    noisy = utility[eligible] + random.gumbel(size=among)
    chosen = np.argsort(-noisy, kind="stable")[:count]
    rest = np.setdiff1d(np.arange(among), chosen)
    positions = eligible[np.concatenate([chosen, rest])]
    logits = utility[positions]
    # In logarithms: at a low temperature the weights of all but one would be 0.
    left = np.logaddexp.accumulate(logits[::-1])[::-1]
    chances = np.clip(np.exp(logits[:count] - left[:count]), np.finfo(np.float64).tiny, 1.0)
    return Order(np.concatenate([positions, order[among:]]), tuple(chances.tolist()))


def drafted(first: IntArray, second: IntArray, count: int, random: np.random.Generator) -> Order:
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
    rest = [one for one in queues[0] if one not in picked]
    return Order(np.asarray([*positions, *rest], np.int64), teams=tuple(teams))


def _log_odds(scores: FloatArray) -> FloatArray:
    probabilities = np.clip(scores.astype(np.float64), _CLOSEST, 1.0 - _CLOSEST)
    return np.log(probabilities / (1.0 - probabilities))
