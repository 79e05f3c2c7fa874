"""The manifest of a reranker: round trip, calibration, the mix, and what broken rerankers look like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from models.contract.artifact import ModelName
from models.contract.prompts import PromptParts, RerankPrompt
from models.contract.reranker import (
    Canary,
    FittedTo,
    HistoryBand,
    Isotonic,
    Platt,
    RerankerError,
    RerankerManifest,
    blend,
    calibrated,
    log_odds,
)

CANARIES = (
    Canary(prompts=(PromptParts("u\n", "Candidate: a"), PromptParts("v\n", "Candidate: b")), probabilities=(0.8, 0.3)),
    Canary(prompts=(PromptParts("u\n", "Candidate: a"), PromptParts("v\n", "Candidate: c")), probabilities=(0.6, 0.5)),
)
LIVE = FittedTo(model=ModelName(name="ml-1m-din", version="a1"), artifact_sha256="1" * 64)
MANIFEST = RerankerManifest(
    name="ml-1m",
    model="model@0123456789abcdef/bfloat16",
    base="smollm2",
    dtype="bfloat16",
    prompt=RerankPrompt(),
    label_ids=(19, 23),
    calibration=Isotonic(raw=(-1.0, 0.0, 2.0), calibrated=(-0.5, 0.0, 0.5)),
    weight=0.25,
    band=HistoryBand(shortest=5, longest=29),
    fitted_to=LIVE,
    canaries=CANARIES,
    items="0" * 64,
    trained_until_ms=1,
)


def test_a_manifest_comes_back_as_it_was() -> None:
    assert RerankerManifest.from_json(MANIFEST.model_dump_json()) == MANIFEST


def test_one_of_before_the_ctr_model_was_noted_is_read() -> None:
    text = MANIFEST.model_dump_json().replace(f'"fitted_to":{LIVE.model_dump_json()},', "")
    assert "fitted_to" not in text
    older = RerankerManifest.from_json(text)
    assert older == MANIFEST.model_copy(update={"fitted_to": None})
    assert older.mismatch(LIVE) == ""


def test_it_says_so_when_another_ctr_model_is_live() -> None:
    assert MANIFEST.mismatch(LIVE) == ""
    renamed = LIVE.model_copy(update={"model": ModelName(name="ml-1m-din", version="9")})
    assert MANIFEST.mismatch(renamed) == "", "the artifact counts, not its name"
    other = FittedTo(model=ModelName(name="ml-1m-din", version="b1"), artifact_sha256="2" * 64)
    assert MANIFEST.mismatch(other) == (
        "weight and band were fitted against model ml-1m-din a1, and ml-1m-din b1 is live: run `tune-reranker`"
    )


@pytest.mark.parametrize("text", ["", "{}", "[1]", MANIFEST.model_dump_json().replace('"format":1', '"format":2', 1)])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(RerankerError, match="not understood"):
        RerankerManifest.from_json(text)


def test_it_mixes_only_inside_its_band() -> None:
    assert [MANIFEST.mixes(events) for events in (4, 5, 29, 30)] == [False, True, True, False]
    assert MANIFEST.model_copy(update={"band": HistoryBand(shortest=5)}).mixes(10_000)
    assert not MANIFEST.model_copy(update={"band": None}).mixes(10)


def test_log_odds_are_finite_and_symmetric() -> None:
    odds = log_odds(np.array([0.0, 0.5, 1.0], np.float32))
    assert np.isfinite(odds).all()
    assert odds[1] == 0
    assert odds[0] == pytest.approx(-odds[2], rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.5, math.inf])
def test_no_verdict_is_a_failure_and_no_low_score(bad: float) -> None:
    with pytest.raises(RerankerError):
        log_odds(np.array([0.5, bad], np.float32))


def test_platt_scales_log_odds() -> None:
    raw = np.array([0.2, 0.5, 0.9], np.float32)
    np.testing.assert_allclose(
        calibrated(Platt(slope=2.0, intercept=-1.0), raw), 2 * np.log(raw / (1 - raw)) - 1, rtol=1e-5
    )


def test_isotonic_interpolates_and_ends_flat() -> None:
    calibration = Isotonic(raw=(-1.0, 0.0, 2.0), calibrated=(-0.5, 0.0, 0.5))
    np.testing.assert_allclose(calibration.log_odds(np.array([-9, -0.5, 1, 9], np.float32)), [-0.5, -0.25, 0.25, 0.5])


@pytest.mark.parametrize("knots", [((0.0, 0.0), (0.0, 1.0)), ((0.0, 1.0), (1.0, 0.0)), ((0.0, 1.0), (0.0,)), ((), ())])
def test_knots_that_do_not_rise_are_refused(knots: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError):
        Isotonic(raw=knots[0], calibrated=knots[1])


def test_the_mix_is_between_both_and_ends_at_each() -> None:
    ctr, odds = np.array([0.2, 0.7], np.float32), np.array([1.0, -2.0], np.float32)
    np.testing.assert_allclose(blend(ctr, odds, 0.0), ctr, rtol=1e-5)
    np.testing.assert_allclose(blend(ctr, odds, 1.0), 1 / (1 + np.exp(-odds)), rtol=1e-5)
    mixed = blend(ctr, odds, 0.5)
    assert 0.2 < mixed[0] < 0.74
    assert 0.11 < mixed[1] < 0.7


def test_good_answers_to_canaries_pass() -> None:
    assert MANIFEST.broken([(0.8, 0.3), (0.6, 0.5)]) == ""
    assert MANIFEST.broken([(0.75, 0.35), (0.66, 0.44)]) == "", "another implementation rounds otherwise"
    assert MANIFEST.model_copy(update={"canaries": ()}).broken([]) == ""


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([(0.5, 0.5), (0.5, 0.5)], "all canaries"),
        ([(math.nan, 0.3), (0.6, 0.5)], "no probability"),
        ([(1.8, 0.3), (0.6, 0.5)], "no probability"),
        ([(0.3, 0.8), (0.5, 0.6)], "wrong order"),
        ([(0.99, 0.3), (0.6, 0.5)], "0.1900 off"),
        ([(0.8, 0.3)], "answers of shape"),
        ([], "answers of shape"),
    ],
)
def test_broken_rerankers_are_noticed(answers: list[tuple[float, float]], reason: str) -> None:
    assert reason in MANIFEST.broken(answers)


def test_a_canary_without_an_order_is_refused() -> None:
    with pytest.raises(ValidationError):
        Canary(prompts=(PromptParts("u\n", "a"), PromptParts("u\n", "b")), probabilities=(0.5, 0.5))
