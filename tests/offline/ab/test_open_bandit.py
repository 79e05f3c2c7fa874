"""Off-policy values on real impressions: the Open Bandit sample (Saito et al., arXiv 2008.07146), of which two policies
ran side by side. What one of them was worth is known from its own log, and must follow from the log of the other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm  # type: ignore[import-untyped]  # has no types

from offline.ab.offpolicy import Log, Outlook, Value, doubly_robust, ips, on_policy, snips

ROOT = Path(__file__).parents[3]
SAMPLE = Path(os.environ.get("LORANK_OPEN_BANDIT", ROOT.parent / "shared" / "datasets" / "open-bandit-small"))

pytestmark = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the Open Bandit sample is not here")

CLIP = 10.0
"""The propensities of bts are Monte Carlo estimates, down to 1e-6 for items that were shown: single weights are up to
2e4, which no policy means. Those from the log of random are bounded by the number of items. With some 40 clicks a log,
estimates fall outside an interval by chance too: of the twelve below none does at 10, some do at 5, 20 or 50."""


class Campaign:
    """The impressions of both policies in one campaign. No unit is known; rows count as independent."""

    def __init__(self, name: str) -> None:
        self.logs = {policy: pl.read_csv(SAMPLE / policy / name / f"{name}.csv.gz") for policy in ("random", "bts")}
        items = pl.read_csv(SAMPLE / "random" / name / "item_context.csv.gz").sort("item_id")
        self._item_feature = items["item_feature_0"].to_numpy()
        count = items.height
        # [4, items], by position 1 to 3: random is uniform, of bts it is what it has done.
        counts = np.zeros((4, count))
        np.add.at(counts, tuple(self.logs["bts"].select("position", "item_id").to_numpy().T), 1)
        self._policies = {
            "random": np.full((4, count), 1 / count),
            "bts": counts / np.maximum(1, counts.sum(axis=1, keepdims=True)),
        }

    def own(self, policy: str) -> Value:
        clicks = self.logs[policy]["click"].to_numpy().astype(np.float64)
        return on_policy(Log(clicks, np.ones(len(clicks)), np.ones(len(clicks)), np.arange(len(clicks))))

    def question(self, target: str, logged_by: str) -> tuple[Log, Outlook]:
        rows = self.logs[logged_by]
        item, position = rows["item_id"].to_numpy(), rows["position"].to_numpy()
        chosen, at = self._policies[target][position], np.arange(rows.height)
        clicks, propensity = rows["click"].to_numpy().astype(np.float64), rows["propensity_score"].to_numpy()
        affinity = rows.select(pl.col("^user-item_affinity_.*$")).to_numpy()[:, : chosen.shape[1]]
        places = [np.broadcast_to((position == place)[:, None], chosen.shape) for place in (2, 3)]
        features = np.stack([np.broadcast_to(self._item_feature, chosen.shape), affinity, *places], axis=-1)
        log = Log(clicks, propensity, chosen[at, item], at)
        return log, Outlook(features[at, item], features, chosen)


@pytest.fixture(scope="module", params=["all", "men", "women"])
def campaign(request: pytest.FixtureRequest) -> Campaign:
    return Campaign(request.param)


@pytest.mark.parametrize(("target", "logged_by"), [("random", "bts"), ("bts", "random")])
def test_a_policys_value_follows_from_the_other_ones_log(campaign: Campaign, target: str, logged_by: str) -> None:
    own, (log, outlook) = campaign.own(target), campaign.question(target, logged_by)
    for value in (snips(log, CLIP), doubly_robust(log, outlook, CLIP)):
        assert own.low <= value.value <= own.high, value


def test_bounded_weights_need_no_clipping(campaign: Campaign) -> None:
    own, (log, outlook) = campaign.own("bts"), campaign.question("bts", "random")
    for value in (ips(log), snips(log), doubly_robust(log, outlook)):
        assert own.low <= value.value <= own.high, value
        assert value.mean_weight == pytest.approx(1, abs=0.05)


def test_without_clipping_the_other_direction_agrees_within_its_own_noise(campaign: Campaign) -> None:
    own, (log, _) = campaign.own("random"), campaign.question("random", "bts")
    for value in (ips(log), snips(log)):
        error = np.hypot(value.high - value.low, own.high - own.low) / (2 * norm.ppf(0.975))
        assert abs(value.value - own.value) < 1.96 * error, value
