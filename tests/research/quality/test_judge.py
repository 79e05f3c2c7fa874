"""The judgement: numbers against scikit-learn, who is compared with whom, and that no look goes uncounted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from offline.data.catalogue import DataError
from offline.metrics import ndcg_at, quality
from offline.training.bootstrap import Resamples, difference
from research.ledger import looks
from research.quality import measuring
from research.quality.judged import Candidate, Judged, Row
from research.quality.measuring import Measure
from research.quality.predictions import Trained
from research.quality.reliability import expected_calibration_error
from research.quality.slices import slices_of
from tests.research.quality.fakes import RESAMPLES, World


def row(judged: Judged, model: str, **candidate: str) -> Row:
    found = judged.row(Candidate(model, **candidate))  # type: ignore[arg-type]
    assert found is not None
    return found


def scored(one: Trained) -> np.ndarray:
    return np.asarray(one.score[one.split == "test"])


def test_numbers_of_a_row(small: World, everything: Judged) -> None:
    test = small.splits.rows["test"]
    label, user = small.liked[test].astype(np.float32), small.log.user[test]
    scores = [scored(one) for one in small.everything() if one.model == "peer 1"]
    found = row(everything, "peer 1")
    each = [quality(label, score, user) for score in scores]
    aucs = [roc_auc_score(label, score) for score in scores]
    assert found.seeds == (1, 2)
    assert found.auc.middle == pytest.approx(np.mean(aucs))
    assert found.auc.deviation == pytest.approx(abs(aucs[0] - aucs[1]) / math.sqrt(2))
    assert found.logloss.middle == pytest.approx(
        np.mean([log_loss(label, score.astype(np.float64)) for score in scores])
    )
    assert found.gauc.middle == pytest.approx(np.mean([one.gauc for one in each]))
    assert found.ndcg.middle == pytest.approx(np.mean([ndcg_at(label, score, user, 10) for score in scores]))
    assert found.ece.middle == pytest.approx(np.mean([expected_calibration_error(label, score) for score in scores]))
    assert found.ms_per_500 is not None
    assert (found.ms_per_500.low, found.ms_per_500.middle, found.ms_per_500.high) == (3.25, 4.0, 7.0)
    assert sum(found.reliability.count) == 2 * len(test)
    assert (everything.samples, everything.users) == (len(test), len(np.unique(user)))


def test_intervals_are_paired_with_the_best_peer(small: World, everything: Judged) -> None:
    test = small.splits.rows["test"]
    label, user = small.liked[test], small.log.user[test]
    resamples = Resamples(label, user, RESAMPLES)
    of = {
        name: resamples.mean_auc({one.seed: scored(one) for one in small.everything() if _is(one, name)})
        for name in ("ours", "peer 2")
    }
    expected = difference(of["ours"], of["peer 2"])
    found = row(everything, "ours").auc_against
    assert found is not None
    assert (found.middle, found.low, found.high) == pytest.approx((expected.middle, expected.low, expected.high))
    loss = row(everything, "ours").logloss_against
    assert loss is not None
    apart = row(everything, "ours").logloss.middle - row(everything, "peer 2").logloss.middle
    assert loss.middle == pytest.approx(apart)
    assert loss.low < loss.middle < loss.high < 0
    assert row(everything, "peer 2").auc_against is None
    assert row(everything, "peer 2").logloss_against is None


def _is(one: Trained, name: str) -> bool:
    return (one.model, one.statistics, one.share) == (name, "frozen", 1.0)


def test_the_slices_of_ours(small: World, everything: Judged) -> None:
    test = small.splits.rows["test"]
    label = small.liked[test]
    scores = [scored(one) for one in small.everything() if _is(one, "ours")]
    found = row(everything, "ours").slices
    judged_slices = {
        one.name: one.mask for one in slices_of(small.log, small.splits) if len(set(label[one.mask].tolist())) == 2
    }
    assert set(found) == set(judged_slices) == set(row(everything, "peer 2").slices)
    for name, mask in judged_slices.items():
        expected = np.mean([roc_auc_score(label[mask], score[mask]) for score in scores])
        against, peer = found[name].against, row(everything, "peer 2").slices[name]
        assert found[name].auc == pytest.approx(expected)
        assert against is not None
        assert against.middle == pytest.approx(expected - peer.auc)
        assert peer.against is None
    assert row(everything, "peer 1").slices == {}
    assert {one.name for one in everything.slices} >= set(judged_slices)


def test_statistics_and_shares_are_rows_of_their_own(everything: Judged) -> None:
    assert next(str(one.candidate) for one in everything.rows if one.family == "ours") == "ours, live statistics"
    assert all(one.candidate.share == 1 for one in everything.rows)
    assert everything.chosen == Candidate("ours")  # the live one is better, and does not count
    points = [(one.candidate.model, one.candidate.share) for one in everything.shares]
    names = ("ours", "ours without knowledge")
    assert points == [(name, share) for name in names for share in (0.01, 0.1, 1.0)]
    by_share = [one.auc.middle for one in everything.shares][:3]
    assert by_share == sorted(by_share)
    ours, without = everything.shares[:3], everything.shares[3:]
    assert [one.chosen_over for one in ours] == [None] * 3
    for one, other in zip(ours, without, strict=True):
        assert other.chosen_over is not None
        assert other.chosen_over.middle == pytest.approx(one.auc.middle - other.auc.middle)
        assert other.chosen_over.low < other.chosen_over.middle < other.chosen_over.high


def test_best_is_who_is_best_on_the_validation_split(small: World, tmp_path: Path) -> None:
    trained = [
        small.trained("steady", skill=1.0),
        small.trained("lucky", skill=0.2, test_skill=3.0),
        small.trained("ours", skill=1.0, family="ours"),
        small.trained("our lucky", skill=0.2, test_skill=3.0, family="ours"),
    ]
    found = small.judge(trained, tmp_path)
    assert row(found, "lucky").auc.middle > row(found, "steady").auc.middle
    assert (found.best_peer, found.chosen) == (Candidate("steady"), Candidate("ours"))


def test_epochs_stand_in_for_validation_scores(small: World, tmp_path: Path) -> None:
    trained = [
        small.trained("one", splits=("test",), epochs=(0.6, 0.9, 0.7)),
        small.trained("two", splits=("test",), epochs=(0.8,)),
        small.trained("nothing", splits=("test",), epochs=()),
    ]
    found = small.judge(trained, tmp_path)
    assert [row(found, name).validation_auc for name in ("one", "two", "nothing")] == [0.9, 0.8, None]
    assert found.best_peer == Candidate("one")


def test_the_test_split_is_not_judged_without_a_ledger(small: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ledger"):
        small.judge([small.trained("DIN")], tmp_path, ledger=None)


def test_every_candidate_is_noted_before_anything_is_scored(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Measure, score: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Measure, "whole", stopped)
    with pytest.raises(KeyboardInterrupt):
        small.judge(small.everything(), tmp_path, command="benchmark")
    lines = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert {line["model"] for line in lines} >= {"peer 0", "ours, live statistics", "ours, 10 % of the training rows"}
    assert {(line["data"], line["command"], line["fingerprint"]) for line in lines} == {("ml-1m", "benchmark", "same")}
    assert len(lines) == len({(one.model, one.statistics, one.share) for one in small.everything()})


def test_looks_are_counted_once_per_candidate(small: World, tmp_path: Path) -> None:
    first = [small.trained("DIN"), small.trained("ours", family="ours")]
    assert small.judge(first, tmp_path).looks == 2
    assert small.judge(first, tmp_path).looks == 2
    assert small.judge([*first, small.trained("DIN", seed=2)], tmp_path).looks == 2
    changed = replace(first[1], score=first[1].score ** 2)
    assert small.judge([first[0], changed], tmp_path).looks == 3
    other = replace(first[1], circumstances="other")
    assert small.judge([first[0], other], tmp_path).looks == 4


def test_the_validation_split_takes_no_look(small: World, tmp_path: Path) -> None:
    found = small.judge(small.everything(), tmp_path, split="validation")
    assert found.looks is None
    assert looks(tmp_path / "looks.jsonl", "ml-1m") == 0
    label = small.liked[small.splits.rows["validation"]]
    scores = [one.score[one.split == "validation"] for one in small.everything() if _is(one, "ours")]
    expected = np.mean([roc_auc_score(label, score) for score in scores])
    assert row(found, "ours").auc.middle == row(found, "ours").validation_auc == pytest.approx(expected)


def test_who_was_not_scored_on_the_split_is_left_out_and_not_looked_at(small: World, tmp_path: Path) -> None:
    trained = [small.trained("DIN"), small.trained("kept back", splits=("validation",), skill=3.0)]
    found = small.judge(trained, tmp_path)
    assert (found.left_out, found.looks, found.best_peer) == (("kept back",), 1, Candidate("DIN"))
    with pytest.raises(DataError, match="no model has scores of the test split"):
        small.judge(trained[1:], tmp_path)


def test_orders_say_nothing(small: World, tmp_path: Path, everything: Judged) -> None:
    generator = np.random.default_rng(0)
    shuffled = []
    for one in reversed(small.everything()):
        order = generator.permutation(len(one.rows))
        columns = {name: getattr(one, name)[order] for name in ("rows", "split", "label", "score")}
        shuffled.append(replace(one, **columns))
    assert small.judge(shuffled, tmp_path) == everything


def test_what_was_measured_is_kept(small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = small.judge(small.everything(), tmp_path, cache=cache)
    monkeypatch.setattr(measuring, "Resamples", refusing)
    assert small.judge(small.everything(), tmp_path, cache=cache) == first
    with pytest.raises(AssertionError, match="measured again"):
        small.judge([small.trained("another")], tmp_path, cache=cache)
    with pytest.raises(AssertionError, match="measured again"):
        small.judge(small.everything(), tmp_path, cache=cache, resamples=RESAMPLES + 1)


def refusing(*arguments: object) -> Resamples:
    """Resamples that refuse to measure."""

    class Refusing(Resamples):
        def auc(self, score: np.ndarray) -> np.ndarray:
            raise AssertionError("measured again")

    return Refusing(*arguments)  # type: ignore[arg-type]


def test_one_model_with_one_seed(small: World, tmp_path: Path) -> None:
    found = small.judge([small.trained("ours", family="ours", ms_per_500=())], tmp_path)
    (only,) = found.rows
    assert (found.best_peer, found.chosen, found.shares) == (None, Candidate("ours"), ())
    assert (only.auc.deviation, only.auc_against, only.ms_per_500) == (None, None, None)
    assert all(one.against is None for one in only.slices.values())


def test_seeds_of_trees_may_differ_in_size(small: World, tmp_path: Path) -> None:
    members = [small.trained("trees", seed=seed, parameters=n) for seed, n in ((1, 50), (2, 90), (3, 60))]
    (only,) = small.judge(members, tmp_path).rows
    assert only.parameters == 60


def test_what_does_not_belong_together_is_refused(small: World, tmp_path: Path) -> None:
    one = small.trained("DIN")
    for others, problem in (
        ([one], "twice with one seed"),
        ([small.trained("DIN", seed=2, circumstances="other")], "different circumstances"),
        ([small.trained("DIN", seed=2, family="ours")], "different circumstances"),
        ([replace(small.trained("SIM"), label=1 - one.label)], "disagree about the labels"),
        ([replace(small.trained("SIM"), rows=one.rows + 1)], "SIM, seed 1, has scored other samples"),
        ([replace(small.trained("SIM"), split=one.split[::-1].copy())], "SIM, seed 1, has scored other samples"),
    ):
        with pytest.raises(DataError, match=problem):
            small.judge([one, *others], tmp_path)
    with pytest.raises(DataError, match="one label only"):
        small.judge([replace(one, label=np.ones_like(one.label))], tmp_path)
    assert not (tmp_path / "looks.jsonl").exists()


def test_it_is_saved_as_json(everything: Judged, tmp_path: Path) -> None:
    everything.save(tmp_path / "judged.json")
    document = json.loads((tmp_path / "judged.json").read_text())
    assert document["best_peer"] == {"model": "peer 2", "statistics": "frozen", "share": 1.0}
    assert document["rows"][0]["auc"]["middle"] == everything.rows[0].auc.middle
    assert document["looks"] == 10
