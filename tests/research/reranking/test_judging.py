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
from research.reranking import judging
from research.reranking.judging import CTR, MIXED, JudgedReranker, judge
from research.reranking.report import markdown, marker
from tests.offline.reranking.conftest import Tuned

pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")


@pytest.fixture
def ready(tuned: Tuned, cheap: None) -> Prepared:
    return tuned.ready()


@pytest.fixture
def judged(tuned: Tuned, ready: Prepared, ledger: Path) -> JudgedReranker:
    return judge(ready, ready.tuned(), tuned.manifest, ctr_of(tuned.job, ready), ledger, "test")


def test_four_ways_alone_and_the_mixes(judged: JudgedReranker, ready: Prepared) -> None:
    assert [one.model for one in judged.alone] == [
        f"{when}, {how}" for when in ("zero-shot", "tuned") for how in ("recent", "relevant")
    ]
    assert [one.model for one in judged.mixed][:3] == [CTR, f"{MIXED}, recent", f"{MIXED}, relevant"]
    rows = ready.rows("test")
    raw = ready.log_odds(ready.tuned(), "recent", rows, "again")
    assert judged.alone[2].auc == pytest.approx(auc(ready.label(rows), probability_of(raw)))
    assert judged.alone[2].other == "zero-shot, recent"
    assert judged.mixed[1].other == CTR
    assert judged.samples == len(rows)


def test_every_look_is_noted_before_anything_is_measured(
    tuned: Tuned, ready: Prepared, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_lines", None)
    with pytest.raises(TypeError):
        judge(ready, ready.tuned(), tuned.manifest, ctr_of(tuned.job, ready), ledger)
    noted = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(noted) == len({one["model"] for one in noted}) >= 10
    assert all(f"({len(ready.rows('test'))} rows)" in one["model"] for one in noted)


def test_judging_again_is_no_further_look(tuned: Tuned, ready: Prepared, ledger: Path) -> None:
    found = [judge(ready, ready.tuned(), tuned.manifest, ctr_of(tuned.job, ready), ledger) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].looks == len(ledger.read_text().splitlines())


def test_outside_of_its_band_the_mix_is_the_ctr_model(tuned: Tuned, ready: Prepared, ledger: Path) -> None:
    nowhere = tuned.manifest.model_copy(update={"band": HistoryBand(shortest=10**6)})
    found = judge(ready, ready.tuned(), nowhere, ctr_of(tuned.job, ready), ledger)
    banded = next(one for one in found.mixed if "only where" in one.model)
    assert banded.auc == found.mixed[0].auc
    assert banded.against is not None
    assert (banded.against.low, banded.against.high) == (0.0, 0.0)


def test_test_labels_change_no_calibration_and_no_weight(tuned: Tuned, ready: Prepared) -> None:
    ctr, rows = ctr_of(tuned.job, ready), ready.rows("test")
    value = ready.log.value.copy()
    value[rows] = 6.0 - value[rows]
    other = replace(ready, log=replace(ready.log, value=value))  # the prompts keeps the log that prompts are made of
    raw = np.linspace(-2, 2, len(rows), dtype=np.float32)
    odds, weight = judging._calibrated(ready, ready.tuned(), "recent", raw, ctr)
    again, same = judging._calibrated(other, ready.tuned(), "recent", raw, ctr)
    assert weight == same
    np.testing.assert_array_equal(odds, again)


def test_the_page_shows_every_row(judged: JudgedReranker) -> None:
    page = markdown(judged)
    assert marker(judged) == "reranking small"
    for one in (*judged.alone, *judged.mixed):
        assert f"| {one.model} |" in page
    for part in judged.slices:
        assert f"| {part.name} | {part.samples} |" in page


def test_a_judgement_is_kept_as_numbers(judged: JudgedReranker, tmp_path: Path) -> None:
    judged.save(tmp_path / "judged.json")
    document = json.loads((tmp_path / "judged.json").read_text())
    assert document["alone"][0]["model"] == "zero-shot, recent"
    assert document["mixed"][0]["auc"] == judged.mixed[0].auc
