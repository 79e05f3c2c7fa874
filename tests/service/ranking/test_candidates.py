"""Drawing with propensities, team draft, boosts and seen items: what they promise, counted over many draws."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from models.contract.events import Interaction, unpack_history
from models.contract.experiments import Boost, Epsilon, PlackettLuce
from service.ranking.candidates import Slate, order_by
from service.ranking.exploring import Order, dice, draw_head, team_draft
from service.ranking.state import ResolvedArm
from service.ranking.types import ArmSettings, RankRequest, UserState
from tests.service.conftest import Running
from tests.service.tiny import ITEMS

SCORES = np.array([0.1, 0.5, 0.9, 0.3], np.float32)
ORDER = order_by(SCORES, None)


def epsilon(amount: float, positions: int) -> Epsilon:
    return Epsilon(kind="epsilon", epsilon=amount, positions=positions)


def plackett_luce(temperature: float, positions: int) -> PlackettLuce:
    return PlackettLuce(kind="plackett-luce", temperature=temperature, positions=positions)


KINDS = pytest.mark.parametrize(
    "explore",
    [epsilon(0.4, 2), plackett_luce(1.0, 2), plackett_luce(3.0, 4)],
    ids=["epsilon-0.4", "plackett-luce-1", "plackett-luce-3"],
)


def draws(explore: Epsilon | PlackettLuce, count: int = 6_000, last: np.ndarray | None = None) -> list[Order]:
    random = np.random.default_rng(0)
    return [draw_head(order_by(SCORES, last), SCORES, explore, last, random) for _ in range(count)]


@KINDS
def test_propensities_are_the_frequencies(explore: Epsilon | PlackettLuce) -> None:
    """Of every beginning, as the product of its positions' propensities."""
    frequencies: Counter[tuple[int, ...]] = Counter()
    said: dict[tuple[int, ...], float] = {}
    for order in draws(explore):
        assert sorted(order.positions.tolist()) == [0, 1, 2, 3]
        assert len(order.propensities) == explore.positions
        beginning = tuple(order.positions[: explore.positions].tolist())
        frequencies[beginning] += 1
        said[beginning] = float(np.prod(order.propensities))
    total = frequencies.total()
    assert sum(said.values()) == pytest.approx(1.0, abs=1e-3)
    for beginning, share in said.items():
        assert frequencies[beginning] / total == pytest.approx(share, abs=4 * np.sqrt(share / total) + 1e-3)


def test_a_temperature_of_one_is_softmax_of_log_odds() -> None:
    odds = SCORES / (1 - SCORES)
    first = Counter(int(order.positions[0]) for order in draws(plackett_luce(1.0, 1)))
    for at, share in enumerate(odds / odds.sum()):
        assert first[at] / first.total() == pytest.approx(share, abs=0.015)


@KINDS
def test_candidates_that_come_last_are_never_draw_head(explore: Epsilon | PlackettLuce) -> None:
    last = np.array([False, False, True, True])
    for order in draws(explore, 500, last):
        assert set(order.positions[:2].tolist()) == {0, 1}
        assert order.positions[2:].tolist() == [2, 3]
        assert len(order.propensities) == 2


def test_what_is_not_drawn_keeps_its_order() -> None:
    for order in draws(plackett_luce(1.0, 1), 200):
        rest = order.positions[1:].tolist()
        assert rest == [at for at in ORDER.tolist() if at in rest]


def test_seen_and_scores_order() -> None:
    assert ORDER.tolist() == [2, 1, 3, 0]
    assert order_by(np.array([0.5, 0.5, 0.7], np.float32), None).tolist() == [2, 0, 1], "ties stay as they came"
    assert order_by(SCORES, np.array([False, False, True, False])).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_team_draft_is_fair_and_complete(count: int) -> None:
    first, second = np.arange(8), np.arange(8)[::-1].copy()
    random = np.random.default_rng(1)
    openings: Counter[int] = Counter()
    for _ in range(2000):
        order = team_draft(first, second, count, random)
        assert sorted(order.positions.tolist()) == list(range(8))
        assert len(order.teams) == count
        assert abs(order.teams.count(0) - order.teams.count(1)) <= 1
        for team, queue in enumerate((first, second)):
            picked = [int(at) for at, by in zip(order.positions, order.teams, strict=False) if by == team]
            assert picked == [at for at in queue.tolist() if at in picked], "each team picks in its own order"
        openings[order.teams[0]] += 1
    assert openings[0] / 2000 == pytest.approx(0.5, abs=0.05)


def test_equal_orders_are_merged_into_themselves() -> None:
    for first in permutations(range(3)):
        order = np.asarray(first)
        assert team_draft(order, order, 3, np.random.default_rng(0)).positions.tolist() == list(first)


def test_propensities_are_numbers_at_any_temperature() -> None:
    scores = np.linspace(0.01, 0.99, 50, dtype=np.float32)
    for temperature in (1e-6, 0.005, 0.01, 1.0, 100.0):
        for name in ("r1", "r2"):
            order = draw_head(np.argsort(-scores), scores, plackett_luce(temperature, 10), None, dice(name))
            assert all(0.0 < propensity <= 1.0 for propensity in order.propensities)


def test_a_repeated_request_repeats_its_draws() -> None:
    explore = plackett_luce(1.0, 4)
    first, again, other = (draw_head(ORDER, SCORES, explore, None, dice(name)) for name in ("r1", "r1", "r3"))
    assert first.positions.tolist() == again.positions.tolist()
    assert first.propensities != other.propensities


async def test_boosts_add_to_log_odds_and_seen_items_are_found(service: Running) -> None:
    release = service.app.state.service.live.current()
    candidates = (*(item.id for item in ITEMS), "new")
    request = RankRequest("r", "u", candidates, {"new": {"genre": "horror"}})

    def slate(*boosts: Boost, user: UserState = UserState(), exclude_seen: bool = True) -> Slate:
        settings = ArmSettings(boosts=boosts, exclude_seen=exclude_seen)
        return Slate.build(ResolvedArm(settings, release), request, user, 0.0)

    def boost(field: str, value: str, add: float) -> Boost:
        return Boost(field=field, value=value, add=add)

    scores = np.full(len(candidates), 0.5, np.float32)
    boosted = slate(boost("genre", "horror", 1.0), boost("genre", "comedy", 0.5)).apply_boosts(scores)
    assert boosted == pytest.approx([0.5, 0.5, 0.5, 1 / (1 + np.exp(-1.5)), 0.5, 1 / (1 + np.exp(-1.0))])
    for without_effect in (boost("genre", "unheard", 1.0), boost("nowhere", "horror", 1.0)):
        assert slate(without_effect).apply_boosts(scores) is scores
    packed = b"".join(Interaction(user_id="u", item_id=item, value=4, time_ms=1).pack() for item in ("b", "zz"))
    user = UserState(events=unpack_history("u", packed)[0])
    for known, expected in ((user, [False, True, False, False, False, False]), (UserState(), [False] * 6)):
        seen = slate(user=known).seen(known)
        assert seen is not None
        assert seen.tolist() == expected
    assert slate(exclude_seen=False).seen(user) is None
