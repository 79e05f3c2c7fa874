"""Who is in which arm: splits, ramps, slots, holdout, forced and sticky arms, and units that are missing."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract.experiments import DEFAULT, Boost, Epsilon, ExperimentsFile, parse_experiments
from models.contract.exposures import ArmTaken
from service.ab.assignment import FileExperiments
from service.ab.hashing import fnv1a32, layer_seed, second_hash
from service.errors import InvalidRequest
from service.ranking.types import ArmPlan, ArmSettings, SideArm
from tests.contract.experiments import TWO_LAYERS, experiment

NOW = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
UNITS = [f"user-{at}" for at in range(20_000)]


def file_of(text: str) -> ExperimentsFile:
    return parse_experiments(text.encode())


def one_layer(experiments: str, head: str = "") -> FileExperiments:
    return FileExperiments(file_of(f'{head}\n[[layers]]\nname = "ranking"\n{experiments}'))


def arms_of(experiments: FileExperiments, now: float = NOW) -> dict[str, str | None]:
    plans = {unit: experiments.assign(unit, {}, now) for unit in UNITS}
    return {unit: plan.arms[0].arm if plan.arms else None for unit, plan in plans.items()}


def test_shares_follow_the_weights_and_layers_split_independently() -> None:
    experiments = FileExperiments(file_of(TWO_LAYERS))
    plans = [experiments.assign(unit, {}, NOW) for unit in UNITS]
    shares = Counter((plan.arms[0].arm, plan.arms[1].arm) for plan in plans)
    for first, weight in (("plain", 0.3), ("full", 0.7)):
        for second in ("none", "twenty"):
            assert shares[first, second] / len(plans) == pytest.approx(weight / 2, abs=0.02)
    assert {plan.arms[1].arm for plan in plans} == {"none", "twenty"}


def test_assignments_are_growthbooks() -> None:
    """Of its own SDK, with coverage and weights."""
    growthbook = pytest.importorskip("growthbook")
    ours = one_layer(experiment("e", "coverage = 0.6\nseed = 's'", (0.2, 0.5, 0.3)))
    arms: Counter[str | None] = Counter()
    for unit in UNITS[:3000]:
        experiment_there = growthbook.Experiment(
            key="e", variations=["a", "b", "c"], seed="s", hashVersion=2, weights=[0.2, 0.5, 0.3], coverage=0.6
        )
        result = growthbook.GrowthBook(attributes={"id": unit}).run(experiment_there)
        expected = result.value if result.inExperiment else None
        plan = ours.assign(unit, {}, NOW)
        assert (plan.arms[0].arm if plan.arms else None) == expected
        arms[expected] += 1
    assert min(arms.values()) > 100
    assert len(arms) == 4


def test_ramping_moves_nobody_from_arm_to_arm() -> None:
    before: dict[str, str | None] = dict.fromkeys(UNITS)
    for coverage in (0.01, 0.05, 0.2, 0.5, 1.0):
        after = arms_of(one_layer(experiment("e", f"coverage = {coverage}", (0.5, 0.3, 0.2))))
        assert all(before[unit] in (None, after[unit]) for unit in UNITS)
        share = sum(arm is not None for arm in after.values()) / len(UNITS)
        assert share == pytest.approx(coverage, abs=0.015)
        before = after


def test_experiments_of_a_layer_exclude_each_other() -> None:
    both = one_layer(experiment("e", "slots = [0.0, 0.5]") + experiment("f", "slots = [0.5, 0.8]", (1.0,)))
    taken = Counter(plan.arms[0].experiment if plan.arms else None for plan in (both.assign(u, {}, NOW) for u in UNITS))
    assert taken["e"] / len(UNITS) == pytest.approx(0.5, abs=0.02)
    assert taken["f"] / len(UNITS) == pytest.approx(0.3, abs=0.02)
    alone = arms_of(one_layer(experiment("e", "slots = [0.0, 0.5]")))
    for unit in UNITS:
        plan = both.assign(unit, {}, NOW)
        assert [arm.experiment for arm in plan.arms].count("e") == (alone[unit] is not None)


def test_slots_of_different_layers_are_independent() -> None:
    """Also where names differ in the last character, which GrowthBook's hash of namespaces only shifts units for."""
    for names in (("ranking1", "ranking2"), ("a1", "a9"), ("x", "y")):
        seeds = [fnv1a32(layer_seed(name)) for name in names]
        inside = np.array([[second_hash(seed, unit) < 0.3 for unit in UNITS] for seed in seeds])
        assert inside.mean(axis=1) == pytest.approx([0.3, 0.3], abs=0.01)
        assert inside.all(axis=0).mean() == pytest.approx(0.09, abs=0.01)


def test_what_is_split_says_how_many_buckets_each_arm_had() -> None:
    experiments = one_layer(experiment("e", "coverage = 0.01", (1, 1, 1)))
    plan = next(assigned for assigned in (experiments.assign(unit, {}, NOW) for unit in UNITS) if assigned.arms)
    assert plan.arms[0].split == {"a": 34, "b": 33, "c": 33}, "a range holds whole buckets only"
    assert experiments.assign("u", {"ranking": "a"}, NOW).arms[0].split == {}


def test_the_holdout_is_in_no_experiment() -> None:
    experiments = one_layer(experiment(), "[holdout]\nshare = 0.1")
    plans = {unit: experiments.assign(unit, {}, NOW) for unit in UNITS}
    out = [plan for plan in plans.values() if plan.held_out]
    assert len(out) / len(UNITS) == pytest.approx(0.1, abs=0.01)
    assert all(plan.arms == () for plan in out)
    assert all(plan.arms for plan in plans.values() if not plan.held_out)
    held_out = next(unit for unit, plan in plans.items() if plan.held_out)
    assert experiments.assign(held_out, {"ranking": "b"}, NOW).arms[0].how == "forced"


def test_an_experiment_runs_from_its_start_to_its_end() -> None:
    timed = one_layer(experiment("e", "start = 2026-11-01T00:00:00Z\nend = 2026-12-01T00:00:00+01:00"))
    for day, runs in (
        (datetime(2026, 10, 31, 23, 59, tzinfo=UTC), False),
        (datetime(2026, 11, 1, tzinfo=UTC), True),
        (datetime(2026, 11, 30, 22, 59, tzinfo=UTC), True),
        (datetime(2026, 11, 30, 23, 0, tzinfo=UTC), False),
    ):
        assert bool(timed.assign("u", {}, day.timestamp()).arms) is runs


def test_named_units_are_forced_and_not_split() -> None:
    named = one_layer(experiment("e", 'coverage = 0.0\nforced = { "tester" = "b" }'), "[holdout]\nshare = 1.0")
    assert named.assign("tester", {}, NOW).arms == (ArmTaken(layer="ranking", experiment="e", arm="b", how="forced"),)
    assert named.assign("other", {}, NOW).arms == ()
    assert named.assign("other", {}, NOW).held_out


def test_sticky_arms_outlast_weights_and_coverage() -> None:
    sticky = one_layer(experiment("e", "sticky_days = 30\ncoverage = 0.5", (1.0, 0.0)))
    assert sticky.keeps_arms
    plan = next(assigned for assigned in (sticky.assign(unit, {}, NOW, {}) for unit in UNITS) if assigned.arms)
    assert plan.arms[0].how == "split"
    assert plan.keep == {"e__0": ("a", 30.0)}
    for unit in UNITS[:50]:
        again = sticky.assign(unit, {}, NOW, {"e__0": "b"})
        assert again.arms == (ArmTaken(layer="ranking", experiment="e", arm="b", how="sticky"),)
        assert again.keep == {}
        assert all(arm.how == "unread" for arm in sticky.assign(unit, {}, NOW, None).arms)
        assert all(arm.how == "split" for arm in sticky.assign(unit, {}, NOW, {"e__0": "gone", "other__0": "b"}).arms)


def test_a_new_bucket_version_forgets_and_a_minimum_excludes() -> None:
    newer = one_layer(experiment("e", "sticky_days = 30\nbucket_version = 1", (1.0, 0.0)))
    assert newer.assign("u", {}, NOW, {"e__0": "b"}).arms[0].arm == "a"
    excluding = one_layer(experiment("e", "sticky_days = 30\nbucket_version = 1\nmin_bucket_version = 1", (1.0, 0.0)))
    assert excluding.assign("u", {}, NOW, {"e__0": "b"}).arms == ()
    assert excluding.assign("u", {}, NOW, {"e__1": "b"}).arms[0].arm == "b"
    assert excluding.assign("u", {}, NOW, {"e__0": "b", "e__1": "b"}).arms == ()
    by_date = "sticky_days = 30\nbucket_version = 20261101\nmin_bucket_version = 20261101"
    assert one_layer(experiment("e", by_date)).assign("u", {}, NOW, {"e__20261031": "b"}).arms == ()
    assert one_layer(experiment("e", by_date)).assign("u", {}, NOW, {"other__1": "b", "e__x": "b"}).arms


def test_arms_set_what_they_name() -> None:
    experiments = FileExperiments(file_of(TWO_LAYERS))
    plan = experiments.assign("u", {"ranking": "plain", "head": "twenty"}, NOW)
    assert plan.settings == ArmSettings(knowledge="off", rerank_top_n=20)
    assert [arm.how for arm in plan.arms] == ["forced", "forced"]
    assert experiments.assign("u", {"ranking": "full", "head": "none"}, NOW).settings == ArmSettings()
    everything = one_layer(
        experiment(
            arms="""
[[layers.experiments.arms]]
name = "all"
weight = 1
release = "r-1"
exclude_seen = true
explore = { kind = "epsilon", epsilon = 0.1, positions = 5 }
boosts = [{ field = "genre", value = "drama", add = 0.5 }]
"""
        )
    )
    assert everything.assign("u", {}, NOW).settings == ArmSettings(
        release="r-1",
        explore=Epsilon(kind="epsilon", epsilon=0.1, positions=5),
        exclude_seen=True,
        boosts=(Boost(field="genre", value="drama", add=0.5),),
    )
    assert everything.file.releases == ("r-1",)


def test_teams_and_shadows_have_the_settings_of_all_other_layers() -> None:
    text = TWO_LAYERS.replace('name = "full"\nweight = 70', 'name = "full"\nweight = 70\nshadow = "plain"')
    text = text.replace('name = "never"\nweight = 0', 'name = "mixed"\nweight = 0\ninterleave = ["none", "twenty"]')
    plan = FileExperiments(file_of(text)).assign("u", {"ranking": "full", "head": "mixed"}, NOW)
    assert plan.shadow == SideArm("plain", ArmSettings(knowledge="off"))
    assert plan.teams == (SideArm("none", ArmSettings()), SideArm("twenty", ArmSettings(rerank_top_n=20)))
    plan = FileExperiments(file_of(text)).assign("u", {"ranking": "plain", "head": "mixed"}, NOW)
    assert plan.shadow is None
    assert plan.teams is not None
    assert [team.settings.knowledge for team in plan.teams] == ["off", "off"]


def test_a_missing_unit_gets_the_control() -> None:
    plan = FileExperiments(file_of(TWO_LAYERS + "[holdout]\nshare = 1.0\n")).assign("", {}, NOW)
    assert [(arm.arm, arm.how) for arm in plan.arms] == [("plain", "missing"), ("none", "missing")]
    assert plan.unit_missing
    assert not plan.held_out


@given(st.text(min_size=1, max_size=40))
def test_every_unit_has_one_arm_and_keeps_it(unit: str) -> None:
    experiments = FileExperiments(file_of(TWO_LAYERS))
    assert experiments.assign(unit, {}, NOW) == experiments.assign(unit, {}, NOW)
    assert len(experiments.assign(unit, {}, NOW).arms) == 2


def test_without_experiments_there_is_nothing_to_take() -> None:
    assert FileExperiments(DEFAULT).assign("u", {}, NOW) == ArmPlan()


@pytest.mark.parametrize("forced", [{"nowhere": "x"}, {"ranking": "x"}])
def test_forced_arms_must_exist(forced: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        FileExperiments(file_of(TWO_LAYERS)).assign("u", forced, NOW)
    assert caught.value.field == f"arms.{next(iter(forced))}"
