"""Off-policy values against a bandit whose true values are known, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from statsmodels.stats.weightstats import DescrStatsW

from offline.ab.offpolicy import Log, Outlook, Value, doubly_robust, ips, on_policy, snips
from tests.offline.ab.bandit import Bandit

REPETITIONS = 300


@pytest.fixture(scope="module")
def repeated() -> dict[str, list[Value]]:
    bandit, random = Bandit(), np.random.default_rng(1)
    values: dict[str, list[Value]] = {"on-policy": [], "IPS": [], "SNIPS": [], "DR": []}
    for _ in range(REPETITIONS):
        log, outlook = bandit.log(random, 250)
        for value in (on_policy(log), ips(log), snips(log), doubly_robust(log, outlook)):
            values[value.estimator].append(value)
    return values


@pytest.mark.parametrize("estimator", ["on-policy", "IPS", "SNIPS", "DR"])
def test_the_truth_is_in_95_percent_of_intervals(repeated: dict[str, list[Value]], estimator: str) -> None:
    truth = Bandit().values()[estimator != "on-policy"]
    values = np.array([value.value for value in repeated[estimator]])
    assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(REPETITIONS) + 1e-3
    assert 0.90 <= np.mean([value.low <= truth <= value.high for value in repeated[estimator]]) <= 0.99


def test_a_reward_model_and_normalised_weights_make_it_sharper(repeated: dict[str, list[Value]]) -> None:
    spread = {name: np.std([value.value for value in estimates]) for name, estimates in repeated.items()}
    assert max(spread["DR"], spread["SNIPS"]) < 0.9 * spread["IPS"]


def test_more_for_every_action_is_more_for_the_policy() -> None:
    log, outlook = Bandit().log(np.random.default_rng(7), 100)
    more = Log(log.reward + 10, log.logging, log.target, log.cluster)
    plain, raised = snips(log), snips(more)
    assert (raised.value, raised.low, raised.high) == pytest.approx((plain.value + 10, plain.low + 10, plain.high + 10))
    assert doubly_robust(more, outlook).value == pytest.approx(doubly_robust(log, outlook).value + 10)
    assert ips(more).high - ips(more).low > 2 * (raised.high - raised.low)


def test_rows_of_a_unit_are_not_independent() -> None:
    log, _ = Bandit().log(np.random.default_rng(2), 2000)
    alone = Log(log.reward, log.logging, log.target, np.arange(len(log.reward)))
    both = [value.high - value.low for value in (on_policy(log), on_policy(alone))]
    assert both[0] > 1.1 * both[1]


def small(**given: Any) -> Log:
    columns = {
        "reward": [1, 0, 1, 0],
        "logging": [0.5, 0.5, 0.1, 0.4],
        "target": [1.0, 0.0, 0.5, 0.4],
        "cluster": list("aabc"),
    }
    return Log(**{name: np.asarray(column) for name, column in {**columns, **given}.items()})


def test_by_hand() -> None:
    weights = np.array([2, 0, 5, 1])
    value = ips(small())
    assert value.value == pytest.approx(7 / 4)
    assert value.effective_rows == pytest.approx(64 / 30)
    assert (value.mean_weight, value.clipped_share, value.rows, value.clusters) == (2, 0, 4, 3)
    assert snips(small()).value == pytest.approx(7 / weights.sum())
    assert on_policy(small()).value == pytest.approx(0.5)
    clipped = snips(small(), clip=2)
    assert clipped.value == pytest.approx(4 / 5)
    assert (clipped.clipped_share, clipped.mean_weight) == (0.25, 1.25)


def test_the_logging_policy_has_its_own_value() -> None:
    log, _ = Bandit().log(np.random.default_rng(3), 100)
    same = Log(log.reward, log.logging, log.logging, log.cluster)
    assert ips(same).value == snips(same).value == pytest.approx(log.reward.mean())
    assert (ips(same).low, ips(same).high) == pytest.approx((on_policy(log).low, on_policy(log).high))
    assert ips(same).effective_rows == pytest.approx(len(log.reward))


def test_a_model_that_is_right_needs_no_weights() -> None:
    random = np.random.default_rng(4)
    features = random.normal(size=(200, 2, 3))
    worth = features @ [1.0, 2.0, 3.0]
    log = Log(worth[:, 0], np.full(200, 0.5), np.full(200, 0.2), np.arange(200))
    target = np.tile([0.2, 0.8], (200, 1))
    value = doubly_robust(log, Outlook(features[:, 0], features, target), model=LinearRegression())
    assert value.value == pytest.approx((target * worth).sum(axis=1).mean())


def test_a_feature_that_does_not_vary_says_nothing() -> None:
    random = np.random.default_rng(9)
    features, reward = random.normal(size=(4000, 1)), random.random(4000)
    log = Log(reward, np.full(4000, 0.5), np.full(4000, 0.5), np.arange(4000))
    more = np.column_stack([features, np.full(4000, np.log1p(20))])
    outlooks = [Outlook(logged, logged[:, None], np.ones((4000, 1))) for logged in (features, more)]
    assert doubly_robust(log, outlooks[0]).value == pytest.approx(doubly_robust(log, outlooks[1]).value)


def test_the_order_of_rows_does_not_matter() -> None:
    log, _ = Bandit().log(np.random.default_rng(5), 50)
    mixed = np.random.default_rng(6).permutation(len(log.reward))
    other = Log(*(column[mixed] for column in (log.reward, log.logging, log.target, log.cluster)))
    for estimator in (ips, snips, on_policy):
        plain, shuffled = estimator(log), estimator(other)
        assert (plain.value, plain.low, plain.high) == pytest.approx((shuffled.value, shuffled.low, shuffled.high))


def test_one_cluster_has_a_value_and_no_interval() -> None:
    log = small(cluster=list("aaaa"))
    assert ips(log).value == pytest.approx(7 / 4)
    assert np.isnan([ips(log).low, ips(log).high]).all()
    with pytest.raises(ValueError, match="two clusters"):
        doubly_robust(log, Outlook(np.ones((4, 1)), np.ones((4, 1, 1)), np.ones((4, 1))))


def test_a_policy_that_takes_nothing_that_was_logged() -> None:
    none = small(target=[0.0] * 4)
    assert (ips(none).value, ips(none).effective_rows) == (0, 0)
    with pytest.raises(ValueError, match="denominators"):
        snips(none)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"reward": [1.0]}, "one length"),
        ({name: [] for name in ("reward", "logging", "target", "cluster")}, "empty"),
        ({"reward": [1.0, 2.0, np.nan, 0.0]}, "finite"),
        ({"logging": [0.5, 0.5, 0.0, 0.5]}, "propensities"),
        ({"target": [0.5, 0.5, 1.5, 0.5]}, "propensities"),
    ],
)
def test_a_log_that_is_none(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        small(**given)


def test_features_that_do_not_fit() -> None:
    for logged, target, problem in (((4, 2), (4, 2), "fit"), ((4, 3), (4, 1), "fit"), ((4, 3), (4, 2), "add up")):
        with pytest.raises(ValueError, match=problem):
            Outlook(np.ones(logged), np.ones((4, 2, 3)), np.ones(target))
    with pytest.raises(ValueError, match="clipped"):
        ips(small(), clip=0)


def test_the_interval_is_students() -> None:
    log, _ = Bandit().log(np.random.default_rng(3), 30)
    earned = np.bincount(log.cluster, log.reward) / np.bincount(log.cluster).mean()
    rate = log.reward.mean()
    values = rate + earned - rate * np.bincount(log.cluster) / np.bincount(log.cluster).mean()
    value = on_policy(log, alpha=0.1)
    assert (value.low, value.high) == pytest.approx(DescrStatsW(values).tconfint_mean(0.1))
