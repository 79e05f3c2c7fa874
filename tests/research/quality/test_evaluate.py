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
from offline.metrics import expected_calibration_error, gauc, ndcg_at
from offline.training.bootstrap import Resamples, difference
from research.quality import measuring
from research.quality.evaluation import Candidate, CandidateRow, Evaluation
from research.quality.measuring import Measure
from research.quality.predictions import Trained
from research.quality.slices import slices_of
from research.test_set_ledger import Ledger
from tests.research.quality.fakes import RESAMPLES, World


def row(evaluation: Evaluation, model: str, **candidate: str) -> CandidateRow:
    row_of = evaluation.row(Candidate(model, **candidate))  # type: ignore[arg-type]
    assert row_of is not None
    return row_of


def scored(model: Trained) -> np.ndarray:
    return np.asarray(model.score[model.split == "test"])


def test_numbers_of_a_row(small: World, everything: Evaluation) -> None:
    test = small.splits.rows["test"]
    label, user = small.liked[test].astype(np.float32), small.log.user[test]
    scores = [scored(model) for model in small.everything() if model.model == "peer 1"]
    actual = row(everything, "peer 1")
    aucs = [roc_auc_score(label, score) for score in scores]
    assert actual.seeds == (1, 2)
    assert actual.auc.middle == pytest.approx(np.mean(aucs))
    assert actual.auc.deviation == pytest.approx(abs(aucs[0] - aucs[1]) / math.sqrt(2))
    assert actual.logloss.middle == pytest.approx(
        np.mean([log_loss(label, score.astype(np.float64)) for score in scores])
    )
    within = [gauc(label, score, user, least=1) for score in scores]
    assert actual.gauc.middle == pytest.approx(np.mean(within))
    assert actual.ndcg.middle == pytest.approx(np.mean([ndcg_at(label, score, user, 10) for score in scores]))
    assert actual.ece.middle == pytest.approx(np.mean([expected_calibration_error(label, score) for score in scores]))
    assert actual.ms_per_500 is not None
    assert (actual.ms_per_500.low, actual.ms_per_500.middle, actual.ms_per_500.high) == (3.25, 4.0, 7.0)
    assert sum(actual.reliability.count) == 2 * len(test)
    assert (everything.samples, everything.users) == (len(test), len(np.unique(user)))


def test_intervals_are_paired_with_the_best_peer(small: World, everything: Evaluation) -> None:
    test = small.splits.rows["test"]
    label, user = small.liked[test], small.log.user[test]
    resamples = Resamples(label, user, RESAMPLES)
    of = {
        name: resamples.mean_auc({model.seed: scored(model) for model in small.everything() if _is(model, name)})
        for name in ("ours", "peer 2")
    }
    expected = difference(of["ours"], of["peer 2"])
    actual = row(everything, "ours").auc_against
    assert actual is not None
    assert (actual.middle, actual.low, actual.high) == pytest.approx((expected.middle, expected.low, expected.high))
    loss = row(everything, "ours").logloss_against
    assert loss is not None
    gap = row(everything, "ours").logloss.middle - row(everything, "peer 2").logloss.middle
    assert loss.middle == pytest.approx(gap)
    assert loss.low < loss.middle < loss.high < 0
    assert row(everything, "peer 2").auc_against is None
    assert row(everything, "peer 2").logloss_against is None


def _is(model: Trained, name: str) -> bool:
    return (model.model, model.statistics, model.share) == (name, "frozen", 1.0)


def test_the_slices_of_ours(small: World, everything: Evaluation) -> None:
    test = small.splits.rows["test"]
    label = small.liked[test]
    scores = [scored(part) for part in small.everything() if _is(part, "ours")]
    actual = row(everything, "ours").slices
    judged_slices = {
        part.name: part.mask for part in slices_of(small.log, small.splits) if len(set(label[part.mask].tolist())) == 2
    }
    assert set(actual) == set(judged_slices) == set(row(everything, "peer 2").slices)
    for name, mask in judged_slices.items():
        expected = np.mean([roc_auc_score(label[mask], score[mask]) for score in scores])
        against, peer = actual[name].against, row(everything, "peer 2").slices[name]
        assert actual[name].auc == pytest.approx(expected)
        assert against is not None
        assert against.middle == pytest.approx(expected - peer.auc)
        assert peer.against is None
    assert row(everything, "peer 1").slices == {}
    assert {part.name for part in everything.slices} >= set(judged_slices)


def test_statistics_and_shares_are_rows_of_their_own(everything: Evaluation) -> None:
    assert next(str(point.candidate) for point in everything.rows if point.family == "ours") == "ours, live statistics"
    assert all(point.candidate.share == 1 for point in everything.rows)
    assert everything.chosen == Candidate("ours")  # the live one is better, and does not count
    points = [(point.candidate.model, point.candidate.share) for point in everything.shares]
    names = ("ours", "ours without knowledge")
    assert points == [(name, share) for name in names for share in (0.01, 0.1, 1.0)]
    by_share = [point.auc.middle for point in everything.shares][:3]
    assert by_share == sorted(by_share)
    ours, without = everything.shares[:3], everything.shares[3:]
    assert [point.chosen_over for point in ours] == [None] * 3
    for mine, theirs in zip(ours, without, strict=True):
        assert theirs.chosen_over is not None
        assert theirs.chosen_over.middle == pytest.approx(mine.auc.middle - theirs.auc.middle)
        assert theirs.chosen_over.low < theirs.chosen_over.middle < theirs.chosen_over.high


def test_best_is_who_is_best_on_the_validation_split(small: World, tmp_path: Path) -> None:
    trained = [
        small.trained("steady", skill=1.0),
        small.trained("lucky", skill=0.2, test_skill=3.0),
        small.trained("ours", skill=1.0, family="ours"),
        small.trained("our lucky", skill=0.2, test_skill=3.0, family="ours"),
    ]
    evaluation = small.evaluate(trained, tmp_path)
    assert row(evaluation, "lucky").auc.middle > row(evaluation, "steady").auc.middle
    assert (evaluation.best_peer, evaluation.chosen) == (Candidate("steady"), Candidate("ours"))


def test_epochs_stand_in_for_validation_scores(small: World, tmp_path: Path) -> None:
    trained = [
        small.trained("one", splits=("test",), epochs=(0.6, 0.9, 0.7)),
        small.trained("two", splits=("test",), epochs=(0.8,)),
        small.trained("nothing", splits=("test",), epochs=()),
    ]
    evaluation = small.evaluate(trained, tmp_path)
    assert [row(evaluation, name).validation_auc for name in ("one", "two", "nothing")] == [0.9, 0.8, None]
    assert evaluation.best_peer == Candidate("one")


def test_the_test_split_is_not_judged_without_a_ledger(small: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ledger"):
        small.evaluate([small.trained("DIN")], tmp_path, ledger=None)


def test_every_candidate_is_noted_before_anything_is_scored(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Measure, score: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Measure, "whole", stopped)
    with pytest.raises(KeyboardInterrupt):
        small.evaluate(small.everything(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert {line["model"] for line in lines} >= {"peer 0", "ours, live statistics", "ours, 10 % of the training rows"}
    assert {(line["data"], line["command"], line["fingerprint"]) for line in lines} == {("ml-1m", "benchmark", "same")}
    assert len(lines) == len({(model.model, model.statistics, model.share) for model in small.everything()})


def test_looks_are_counted_once_per_candidate(small: World, tmp_path: Path) -> None:
    first = [small.trained("DIN"), small.trained("ours", family="ours")]
    assert small.evaluate(first, tmp_path).test_set_uses == 2
    assert small.evaluate(first, tmp_path).test_set_uses == 2
    assert small.evaluate([*first, small.trained("DIN", seed=2)], tmp_path).test_set_uses == 2
    changed = replace(first[1], score=first[1].score ** 2)
    assert small.evaluate([first[0], changed], tmp_path).test_set_uses == 3
    other = replace(first[1], circumstances="other")
    assert small.evaluate([first[0], other], tmp_path).test_set_uses == 4


def test_the_validation_split_takes_no_look(small: World, tmp_path: Path) -> None:
    evaluation = small.evaluate(small.everything(), tmp_path, split="validation")
    assert evaluation.test_set_uses is None
    assert Ledger(tmp_path / "looks.jsonl").count("ml-1m") == 0
    label = small.liked[small.splits.rows["validation"]]
    scores = [model.score[model.split == "validation"] for model in small.everything() if _is(model, "ours")]
    expected = np.mean([roc_auc_score(label, score) for score in scores])
    assert row(evaluation, "ours").auc.middle == row(evaluation, "ours").validation_auc == pytest.approx(expected)


def test_who_was_not_scored_on_the_split_is_left_out_and_not_looked_at(small: World, tmp_path: Path) -> None:
    trained = [small.trained("DIN"), small.trained("kept back", splits=("validation",), skill=3.0)]
    evaluation = small.evaluate(trained, tmp_path)
    assert (evaluation.left_out, evaluation.test_set_uses, evaluation.best_peer) == (
        ("kept back",),
        1,
        Candidate("DIN"),
    )
    with pytest.raises(DataError, match="no model has scores of the test split"):
        small.evaluate(trained[1:], tmp_path)


def test_orders_say_nothing(small: World, tmp_path: Path, everything: Evaluation) -> None:
    generator = np.random.default_rng(0)
    shuffled = []
    for model in reversed(small.everything()):
        order = generator.permutation(len(model.rows))
        columns = {name: getattr(model, name)[order] for name in ("rows", "split", "label", "score")}
        shuffled.append(replace(model, **columns))
    assert small.evaluate(shuffled, tmp_path) == everything


def test_what_was_measured_is_kept(small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = small.evaluate(small.everything(), tmp_path, cache=cache)
    monkeypatch.setattr(measuring, "Resamples", refusing)
    assert small.evaluate(small.everything(), tmp_path, cache=cache) == first
    with pytest.raises(AssertionError, match="measured again"):
        small.evaluate([small.trained("another")], tmp_path, cache=cache)
    with pytest.raises(AssertionError, match="measured again"):
        small.evaluate(small.everything(), tmp_path, cache=cache, resamples=RESAMPLES + 1)


def refusing(*arguments: object) -> Resamples:
    """Resamples that refuse to measure."""

    class Refusing(Resamples):
        def auc(self, score: np.ndarray) -> np.ndarray:
            raise AssertionError("measured again")

    return Refusing(*arguments)  # type: ignore[arg-type]


def test_one_model_with_one_seed(small: World, tmp_path: Path) -> None:
    evaluation = small.evaluate([small.trained("ours", family="ours", ms_per_500=())], tmp_path)
    (only,) = evaluation.rows
    assert (evaluation.best_peer, evaluation.chosen, evaluation.shares) == (None, Candidate("ours"), ())
    assert (only.auc.deviation, only.auc_against, only.ms_per_500) == (None, None, None)
    assert all(part.against is None for part in only.slices.values())


def test_seeds_of_trees_may_differ_in_size(small: World, tmp_path: Path) -> None:
    members = [small.trained("trees", seed=seed, parameters=n) for seed, n in ((1, 50), (2, 90), (3, 60))]
    (only,) = small.evaluate(members, tmp_path).rows
    assert only.parameters == 60


def test_what_does_not_belong_together_is_refused(small: World, tmp_path: Path) -> None:
    model = small.trained("DIN")
    for others, problem in (
        ([model], "twice with one seed"),
        ([small.trained("DIN", seed=2, circumstances="other")], "different circumstances"),
        ([small.trained("DIN", seed=2, family="ours")], "different circumstances"),
        ([replace(small.trained("SIM"), label=1 - model.label)], "disagree about the labels"),
        ([replace(small.trained("SIM"), rows=model.rows + 1)], "SIM, seed 1, has scored other samples"),
        ([replace(small.trained("SIM"), split=model.split[::-1].copy())], "SIM, seed 1, has scored other samples"),
    ):
        with pytest.raises(DataError, match=problem):
            small.evaluate([model, *others], tmp_path)
    with pytest.raises(DataError, match="one label only"):
        small.evaluate([replace(model, label=np.ones_like(model.label))], tmp_path)
    assert not (tmp_path / "looks.jsonl").exists()


def test_it_is_saved_as_json(everything: Evaluation, tmp_path: Path) -> None:
    everything.save(tmp_path / "judged.json")
    document = json.loads((tmp_path / "judged.json").read_text())
    assert document["best_peer"] == {"model": "peer 2", "statistics": "frozen", "share": 1.0}
    assert document["rows"][0]["auc"]["middle"] == everything.rows[0].auc.middle
    assert document["looks"] == 10
