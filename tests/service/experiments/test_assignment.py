"""Assignment is GrowthBook's hash version 2, and its edge cases are decided here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.experiments.assignment import FileExperiments, fnv1a32, unit_hash
from service.experiments.config import DEFAULT, ExperimentsError, ExperimentsFile, read_experiments
from service.ranking.types import ArmChoice

TWO_LAYERS = """
[[layers]]
name = "ranking"
[layers.experiment]
name = "knowledge"
[[layers.experiment.arms]]
name = "plain"
weight = 30
knowledge = "off"
[[layers.experiment.arms]]
name = "full"
weight = 70

[[layers]]
name = "head"
[layers.experiment]
name = "rerank"
seed = "another"
[[layers.experiment.arms]]
name = "none"
weight = 1.0
[[layers.experiment.arms]]
name = "twenty"
weight = 1
rerank_top_n = 20
[[layers.experiment.arms]]
name = "never"
weight = 0
"""


@pytest.fixture
def file(tmp_path: Path) -> ExperimentsFile:
    path = tmp_path / "experiments.toml"
    path.write_text(TWO_LAYERS)
    return read_experiments(path)


@pytest.mark.parametrize(("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_fnv1a32_reference_values(text: str, value: int) -> None:
    """From the reference vectors of the FNV specification."""
    assert fnv1a32(text) == value


@pytest.mark.parametrize(
    ("seed", "unit", "value"),
    [
        ("seed", "a", 0.0505),
        ("seed", "b", 0.2696),
        ("foo", "ab", 0.2575),
        ("foo", "def", 0.2019),
        ("90850943850283058242805", "123", 0.7516),
        ("()**(%$##$%#$#", '___)((*":&', 0.0128),
    ],
)
def test_growthbook_vectors(seed: str, unit: str, value: float) -> None:
    """Version 2 cases of ``hash`` in GrowthBook's published cases.json."""
    assert unit_hash(seed, unit) == value


def test_ids_beyond_ascii_hash_by_code_point() -> None:
    value = 0x811C9DC5
    for point in (0xE9, 0x1F600):
        value = ((value ^ point) * 0x01000193) % 2**32
    assert fnv1a32("é😀") == value


def test_shares_follow_the_weights(file: ExperimentsFile) -> None:
    experiments = FileExperiments(file)
    plans = [experiments.assign(f"user-{at}", {}) for at in range(20_000)]
    shares = Counter((plan.choices[0].arm, plan.choices[1].arm) for plan in plans)
    for first, weight in (("plain", 0.3), ("full", 0.7)):
        for second in ("none", "twenty"):
            # The layers split independently: every pair has the product of its shares.
            assert shares[first, second] / len(plans) == pytest.approx(weight / 2, abs=0.02)
    assert sum(shares.values()) == shares.total() == len(plans)
    assert {plan.choices[1].arm for plan in plans} == {"none", "twenty"}


def test_arms_set_what_they_name(file: ExperimentsFile) -> None:
    plan = FileExperiments(file).assign("u", {"ranking": "plain", "head": "twenty"})
    assert plan.choices == (ArmChoice("ranking", "knowledge", "plain"), ArmChoice("head", "rerank", "twenty"))
    assert not plan.knowledge
    assert plan.rerank_top_n == 20
    plan = FileExperiments(file).assign("u", {"ranking": "full", "head": "none"})
    assert plan.knowledge
    assert plan.rerank_top_n == 0


@pytest.mark.parametrize("unit", ["null", "undefined", "None", " ", "\t\n"])
def test_missing_units_get_the_control(file: ExperimentsFile, unit: str) -> None:
    plan = FileExperiments(file).assign(unit, {})
    assert [choice.arm for choice in plan.choices] == ["plain", "none"]
    assert plan.unit_missing


@given(st.text(min_size=1, max_size=40))
def test_every_unit_has_one_arm_and_keeps_it(unit: str) -> None:
    experiments = FileExperiments(DEFAULT)
    assert experiments.assign(unit, {}) == experiments.assign(unit, {})
    assert experiments.assign(unit, {}).choices == (ArmChoice("ranking", "default", "knowledge"),)
    assert 0.0 <= unit_hash("s", unit) < 1.0


@pytest.mark.parametrize("forced", [{"nowhere": "x"}, {"ranking": "x"}])
def test_forced_arms_must_exist(file: ExperimentsFile, forced: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        FileExperiments(file).assign("u", forced)
    assert caught.value.field == f"arms.{next(iter(forced))}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("weight = 30", "weigth = 30"), "weigth"),
        (("weight = 30", "weight = -1"), "weight"),
        (("weight = 30", "weight = nan"), "weight"),
        (("weight = 30", 'weight = "30"'), "weight"),
        (('name = "full"', 'name = "plain"'), "repeats an arm"),
        (('name = "head"', 'name = "ranking"'), "repeated"),
        (('knowledge = "off"', 'knowledge = "maybe"'), "knowledge"),
        (('knowledge = "off"', "rerank_top_n = 5"), "more than one layer: ranking, head"),
        (("[[layers]]", "[[layer]]"), "layer"),
        (("[[layers]]", "[[layers]"), "toml"),
        (("weight = 1.0", "weight = 0"), ""),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "experiments.toml"
    text = TWO_LAYERS.replace(*change)
    if change[0] == "weight = 1.0":
        text = text.replace("weight = 1\n", "weight = 0\n")
        message = "gives no arm any weight"
    path.write_text(text)
    with pytest.raises(ExperimentsError, match=message):
        read_experiments(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentsError, match=r"none\.toml"):
        read_experiments(tmp_path / "none.toml")
    assert read_experiments(None) is DEFAULT
