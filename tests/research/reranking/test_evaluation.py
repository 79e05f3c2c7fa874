"""Judging on test samples: everything is noted first, nothing is fitted on them, and the page says what came out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.reranker import HistoryBand
from offline.metrics import auc
from offline.reranking.calibrate import probability_of
from offline.reranking.prepared import Prepared
from offline.reranking.run import ctr_of
from research.reranking import evaluation
from research.reranking.evaluation import CTR, MIXED, RerankerEvaluation, evaluate_reranker
from research.reranking.report import marker, page_section
from research.test_set_ledger import Ledger
from tests.offline.reranking.conftest import Tuned

pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")


@pytest.fixture
def ready(tuned: Tuned, cheap: None) -> Prepared:
    return tuned.ready()


@pytest.fixture
def result(tuned: Tuned, ready: Prepared, ledger: Ledger) -> RerankerEvaluation:
    return evaluate_reranker(ready, ready.tuned(), tuned.manifest, ctr_of(tuned.job, ready), ledger)


def test_four_ways_alone_and_the_mixes(result: RerankerEvaluation, ready: Prepared) -> None:
    assert [line.model for line in result.alone] == [
        f"{when}, {how}" for when in ("zero-shot", "tuned") for how in ("recent", "relevant")
    ]
    assert [line.model for line in result.mixed][:3] == [CTR, f"{MIXED}, recent", f"{MIXED}, relevant"]
    rows = ready.rows("test")
    raw = ready.log_odds(ready.tuned(), "recent", rows, "again")
    assert result.alone[2].auc == pytest.approx(auc(ready.label(rows), probability_of(raw)))
    assert result.alone[2].other == "zero-shot, recent"
    assert result.mixed[1].other == CTR
    assert result.samples == len(rows)


def test_every_look_is_noted_before_anything_is_measured(
    tuned: Tuned, ready: Prepared, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_lines", None)
    with pytest.raises(TypeError):
        evaluate_reranker(ready, ready.tuned(), tuned.manifest, ctr_of(tuned.job, ready), ledger)
    noted = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert len(noted) == len({entry["model"] for entry in noted}) >= 10
    assert all(f"({len(ready.rows('test'))} rows)" in entry["model"] for entry in noted)


def test_judging_again_is_no_further_look(tuned: Tuned, ready: Prepared, ledger: Ledger) -> None:
    results = [
        evaluate_reranker(ready, ready.tuned(), tuned.manifest, ctr_of(tuned.job, ready), ledger) for _ in range(2)
    ]
    assert results[0] == results[1]
    assert results[0].test_set_uses == len(ledger.path.read_text().splitlines())


def test_outside_of_its_band_the_mix_is_the_ctr_model(tuned: Tuned, ready: Prepared, ledger: Ledger) -> None:
    nowhere = tuned.manifest.model_copy(update={"band": HistoryBand(shortest=10**6)})
    result = evaluate_reranker(ready, ready.tuned(), nowhere, ctr_of(tuned.job, ready), ledger)
    banded = next(line for line in result.mixed if "only where" in line.model)
    assert banded.auc == result.mixed[0].auc
    assert banded.against is not None
    assert (banded.against.low, banded.against.high) == (0.0, 0.0)


def test_test_labels_change_no_calibration_and_no_weight(tuned: Tuned, ready: Prepared) -> None:
    ctr, rows = ctr_of(tuned.job, ready), ready.rows("test")
    value = ready.log.value.copy()
    value[rows] = 6.0 - value[rows]
    other = replace(ready, log=replace(ready.log, value=value))  # the teller keeps the log that prompts are made of
    raw = np.linspace(-2, 2, len(rows), dtype=np.float32)
    odds, weight = evaluation._calibrated(ready, ready.tuned(), "recent", raw, ctr)
    again, same = evaluation._calibrated(other, ready.tuned(), "recent", raw, ctr)
    assert weight == same
    np.testing.assert_array_equal(odds, again)


def test_the_page_shows_every_row(result: RerankerEvaluation) -> None:
    page = page_section(result)
    assert marker(result) == "reranking small"
    for line in (*result.alone, *result.mixed):
        assert f"| {line.model} |" in page
    for part in result.slices:
        assert f"| {part.name} | {part.samples} |" in page


def test_a_judgement_is_kept_as_numbers(result: RerankerEvaluation, tmp_path: Path) -> None:
    result.save(tmp_path / "judged.json")
    document = json.loads((tmp_path / "judged.json").read_text())
    assert document["alone"][0]["model"] == "zero-shot, recent"
    assert document["mixed"][0]["auc"] == result.mixed[0].auc
