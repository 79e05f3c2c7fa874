"""The worth of a shadow policy, from logs whose truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from offline.ab.attribution import Attribution, attribute
from offline.ab.inputs import DAY_MS, EXPOSURES, ClickRule
from offline.ab.offpolicy import off_policy
from tests.offline.ab.simulate import START_MS, World, drawn


def attributed(exposures: pl.DataFrame, interactions: pl.DataFrame) -> Attribution:
    return attribute(exposures, interactions, ClickRule(), DAY_MS, START_MS)


def test_the_best_item_by_the_shadow_scores_is_worth_what_it_is() -> None:
    exposures, interactions, truth = drawn(World(units=1200, seed=2))
    policy = off_policy(exposures, attributed(exposures, interactions).clicks, "control")
    assert policy is not None
    assert (policy.requests, policy.left_out) == (exposures.height, 0)
    values = {value.estimator: value for value in policy.values}
    assert list(values) == ["on-policy", "IPS", "SNIPS", "DR"]
    for name in ("IPS", "SNIPS", "DR"):
        assert values[name].low < truth < values[name].high
    assert min(values["SNIPS"].low, values["DR"].low) > values["on-policy"].value
    assert values["DR"].high - values["DR"].low < values["SNIPS"].high - values["SNIPS"].low


def test_candidates_that_were_not_shown_belong_to_the_question() -> None:
    exposures, interactions, _ = drawn(World(units=300, seed=2))
    clicks = attributed(exposures, interactions).clicks.filter(pl.col("position") < 3)
    cut = exposures.with_columns(
        *(pl.col(name).list.head(3) for name in ("items", "scores", "shadow")),
        unshown=pl.col("items").list.slice(3),
        unshown_scores=pl.col("scores").list.slice(3),
        unshown_shadow=pl.col("shadow").list.slice(3),
    )
    whole, policy = off_policy(exposures, clicks, "control"), off_policy(cut, clicks, "control")
    assert policy == whole
    unknown = off_policy(cut.with_columns(unshown_shadow=None), clicks, "control")
    assert unknown is not None
    assert unknown.left_out == unknown.requests == exposures.height


def row(request: str, unit: str, shadow: list[float] | None, **given: object) -> dict[str, object]:
    record = {
        "request_id": request,
        "unit": unit,
        "arm": "on",
        "items": ["b", "a"],
        "scores": [0.5, 0.4],
        "shadow": shadow,
    }
    return {**record, "candidates": 2, "propensities": [0.5], **given}


CLICKED = pl.DataFrame({"request_id": ["q1", "q2", "q2"], "position": [0, 1, 0], "item": ["b", "a", "b"]})


def test_values_by_hand() -> None:
    rows = [
        row("q1", "ann", [0.9, 0.1]),
        row("q2", "bob", [0.1, 0.9]),
        row("q3", "bob", [0.9, 0.1], propensities=[0.25]),
    ]
    policy = off_policy(pl.DataFrame(rows, EXPOSURES), CLICKED, "on")
    assert policy is not None
    values = {value.estimator: value.value for value in policy.values}
    assert values["on-policy"] == pytest.approx(2 / 3)
    assert values["IPS"] == pytest.approx((2 + 0 + 0) / 3)
    assert values["SNIPS"] == pytest.approx(2 / (2 + 4))


def test_of_equal_shadow_scores_the_position_does_not_decide() -> None:
    policy = off_policy(
        pl.DataFrame([row("q1", "ann", [0.5, 0.5]), row("q2", "bob", [0.1, 0.9])], EXPOSURES), CLICKED, "on"
    )
    assert policy is not None
    assert [value.estimator for value in policy.values] == ["on-policy", "IPS", "DR"]
    assert [value.value for value in policy.values][:2] == [1.0, 0.0]


@pytest.mark.parametrize(
    "given",
    [
        {"shadow": None},
        {"shadow": []},
        {"shadow": [0.1]},
        {"shadow": [0.1, float("nan")]},
        {"shadow": [0.1, None]},
        {"candidates": 3},
        {"candidates": None},
    ],
)
def test_where_the_best_candidate_is_not_known_a_request_is_left_out(given: dict[str, object]) -> None:
    rows = [row("q1", "ann", [0.9, 0.1]), row("q2", "bob", [0.9, 0.1]), {**row("q3", "bob", [0.9, 0.1]), **given}]
    policy = off_policy(pl.DataFrame(rows, EXPOSURES), CLICKED, "on")
    assert policy is not None
    assert (policy.requests, policy.left_out, policy.values[0].value) == (2, 1, 1.0)
    alone = off_policy(pl.DataFrame(rows[2:], EXPOSURES), CLICKED, "on")
    assert alone is not None
    assert (alone.requests, alone.left_out, len(alone.values)) == (1, 1, 1)
    assert np.isnan(alone.values[0].low)


def test_an_order_that_was_not_drawn_has_no_propensities() -> None:
    rows = [row("q1", "ann", [0.9, 0.1], propensities=None), row("q2", "ann", [0.9, 0.1], propensities=[])]
    assert off_policy(pl.DataFrame(rows, EXPOSURES), CLICKED, "on") is None
    assert off_policy(pl.DataFrame([row("q1", "ann", None)], EXPOSURES), CLICKED, "off") is None


@pytest.mark.parametrize("propensity", [0.0, 1.5, None])
def test_propensities_that_are_none_are_refused(propensity: float | None) -> None:
    rows = [row("q1", "ann", [0.9, 0.1], propensities=[propensity])]
    with pytest.raises(ValueError, match="propensities"):
        off_policy(pl.DataFrame(rows, EXPOSURES), CLICKED, "on")
