"""The benchmark as a whole, on a small data set: what it trains, that it goes on, and that it judges what is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from offline.config import BenchmarkConfig, LifelongConfig
from offline.data.catalogue import DataError
from offline.knowledge.vectors import Knowledge
from research.quality import ours
from research.quality import run as runs
from research.quality import trainings as trainings_module
from research.quality.evaluate import evaluate
from research.quality.peers import PEERS
from research.quality.predictions import Trained
from research.quality.run import Bench, run
from research.quality.trainings import OURS, WITHOUT_KNOWLEDGE, Training, trainings
from research.test_set_ledger import Ledger
from tests.synthetic import synthetic

pytest.importorskip("lightgbm")
pytest.importorskip("fuxictr")

LIFELONG = LifelongConfig(factors=4, tokens=256, process_epochs=6, folds=2, attention=False)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    data = synthetic(folder, seed=5, users=40, items=30, events=30)
    training = data.config.training.model_copy(update={"served": "lifelong", "epochs": 10, "lifelong": LIFELONG})
    schema = data.config.feature_schema.model_copy(update={"history_length": 64})
    config = data.config.model_copy(
        update={
            "training": training,
            "feature_schema": schema,
            "benchmark": BenchmarkConfig(shares=(0.5,), share_seeds=1, peer_history=6),
        }
    )
    return Bench(config, data.catalogue, data.log, data.knowledge, folder / "answers")


def small(bench: Bench) -> list[Training]:
    """A training of each kind: ours, ours of half the samples, ours without knowledge, and a peer."""
    return [
        training
        for training in trainings(bench.config, bench.knowledge, 1, 1)
        if training.peer in ("", "LightGBM") and (training.model, training.share) != (WITHOUT_KNOWLEDGE, 0.5)
    ]


@pytest.fixture(scope="module")
def trained(bench: Bench) -> list[Trained]:
    return run(bench, small(bench))


def test_the_plan_is_ours_with_and_without_knowledge_its_shares_and_every_peer(bench: Bench) -> None:
    planned = trainings(bench.config, bench.knowledge, 2, 3)
    assert [training.seed for training in planned] == sorted(training.seed for training in planned)
    whole = [(training.model, training.seed) for training in planned if training.share == 1.0]
    assert len(whole) == len(set(whole)) == 2 + 1 + 3 * len(PEERS)
    assert {(training.model, training.share) for training in planned if training.share < 1.0} == {
        (OURS, 0.5),
        (WITHOUT_KNOWLEDGE, 0.5),
    }
    reads = {training.model: training.producers for training in planned}
    assert reads[OURS] == tuple(bench.knowledge.produced)
    assert reads[WITHOUT_KNOWLEDGE] == ()


def test_no_model_goes_by_the_name_of_one_with_knowledge(bench: Bench) -> None:
    with pytest.raises(DataError, match="make it first"):
        trainings(bench.config, Knowledge({}), 1, 1)


def test_answers_are_of_all_validation_and_test_samples(bench: Bench, trained: list[Trained]) -> None:
    splits = bench.splits()
    assert len(trained) == len(small(bench)) + 1, "ours is scored twice: with frozen and with live statistics"
    for answers in trained:
        for name in ("validation", "test"):
            np.testing.assert_array_equal(answers.rows[answers.split == name], splits.rows[name])
        expected = bench.log.value[answers.rows] > bench.config.feature_schema.liked_above
        np.testing.assert_array_equal(answers.label > 0, expected)


def test_the_artifact_that_was_judged_has_learned_the_rule(trained: list[Trained]) -> None:
    ours = next(
        answers
        for answers in trained
        if answers.model == OURS and answers.share == 1.0 and answers.statistics == "frozen"
    )
    chosen = ours.split == "test"
    assert roc_auc_score(ours.label[chosen], ours.score[chosen]) > 0.7
    assert len(ours.ms_per_500) > 0
    assert min(ours.ms_per_500) > 0


def test_live_statistics_change_test_scores_only_through_other_users(trained: list[Trained]) -> None:
    frozen, live = (
        next(
            answers
            for answers in trained
            if answers.model == OURS and answers.share == 1.0 and answers.statistics == statistics
        )
        for statistics in ("frozen", "live")
    )
    assert frozen.epochs == live.epochs, "one training"
    assert np.abs(frozen.score - live.score).max() > 1e-4


def test_a_second_run_trains_nothing(bench: Bench, trained: list[Trained], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> str:
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "_train", never)
    again = run(bench, small(bench))
    assert [answers.model for answers in again] == [answers.model for answers in trained]
    for answers, other in zip(again, trained, strict=True):
        np.testing.assert_array_equal(answers.score, other.score)


def test_other_settings_are_another_training(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = small(bench)
    before = bench.circumstances(planned)
    settings = bench.config.training.model_copy(update={"dropout": 0.2})
    other = replace(bench, config=bench.config.model_copy(update={"training": settings}))
    for training, old, new in zip(planned, before, other.circumstances(planned), strict=True):
        assert (old == new) == bool(training.peer), "a peer does not depend on our settings"
    monkeypatch.setattr(trainings_module, "_CODE", 99)
    assert all(a != b for a, b in zip(before, bench.circumstances(planned), strict=True))


@pytest.mark.slow(small="tests/research/quality/test_run.py::test_a_second_run_trains_nothing")
def test_what_is_exported_otherwise_is_scored_again_without_training(
    bench: Bench, trained: list[Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(trainings_module, "_SERVING", 99)
    monkeypatch.setattr(ours, "fit", never)
    scored = []
    monkeypatch.setattr(runs, "save_trained", lambda _, key, answers: scored.append((key, answers)))
    planned = [training for training in small(bench) if not training.peer]
    for training, given in zip(planned, bench.circumstances(planned), strict=True):
        runs._train(bench, training, given)
    before = [answers for answers in trained if answers.family == "ours"]
    assert len({key for key, _ in scored}) == len(scored) == len(before)
    for (_, new), old in zip(scored, before, strict=True):
        np.testing.assert_allclose(new.score, old.score, atol=1e-6)
        assert (new.epochs, new.seconds) == (old.epochs, old.seconds)
        assert new.circumstances != old.circumstances


def test_a_protocol_that_gives_other_counts_stops_the_run(bench: Bench) -> None:
    settings = BenchmarkConfig(samples=(1, 2, 3))
    other = replace(bench, config=bench.config.model_copy(update={"benchmark": settings}))
    with pytest.raises(DataError, match=r"the protocol gives \(1, 2, 3\) samples"):
        run(other, small(bench))


def test_a_judgement_is_a_look_once(
    bench: Bench, trained: list[Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path / "looks.jsonl")
    evaluate("synthetic", trained, bench.log, bench.splits(), split="validation", resamples=20)
    assert not ledger.path.exists()
    for _ in range(2):
        evaluate("synthetic", trained, bench.log, bench.splits(), ledger=ledger, resamples=20)
        assert ledger.count("synthetic") == len(trained)
