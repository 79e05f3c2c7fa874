"""The choice behind ``served = "auto"``: its rule, its bounds, and that it is made once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract.artifact import ArtifactManifest
from models.contract.schema import RunningSpec
from models.onnx_runtime import onnx_runtime
from offline.config import ChoiceConfig, JobConfig, Served
from offline.data.arrival import draw_negatives
from offline.data.catalogue import DataError
from offline.data.config import LabelsConfig
from offline.knowledge.vectors import Knowledge
from offline.metrics import quality
from offline.training import choose as choosing
from offline.training import cost, run
from offline.training.bootstrap import Resamples
from offline.training.candidates import (
    Choice,
    ModelSpec,
    as_trained,
    candidate_config,
    former_choice,
    save_choice,
    settings_of,
    specs,
)
from offline.training.choose import Tried, choice_lines, choose
from offline.training.fit import fit, predict
from offline.training.lifelong import as_torch
from offline.training.report import TrainingError
from offline.training.run import encoders, load_served, train
from offline.training.samples import SampleEncoder, split_samples
from tests.synthetic import SCHEMA, Synthetic, job_config, synthetic

LABEL = np.random.default_rng(0).integers(0, 2, 3000).astype(np.float32)
USER = np.arange(3000) // 10


def tried(architecture: Served, strength: float, *, milliseconds: float = 1.0, seed: int = 1) -> Tried:
    """A candidate whose scores know so much of the labels."""
    noise = np.random.default_rng(seed).normal(size=len(LABEL))
    scores = (1 / (1 + np.exp(-strength * (strength * (2 * LABEL - 1) + noise)))).astype(np.float32)
    return Tried(architecture, scores, quality(LABEL, scores, USER), milliseconds, 10.0)


def chosen(*candidates: Tried, ceiling_ms: float = 3.0) -> Choice:
    return choosing._chosen(candidates, Resamples(LABEL, USER), LABEL, ceiling_ms)


def test_a_better_model_is_chosen() -> None:
    choice = chosen(tried("tree", 0.8), tried("din", 1.2))
    assert choice.architecture == "din"
    assert choice.sentence == (
        "auto serves DIN (target attention): the lowest LogLoss, and shown to be better than whatever is simpler"
    )
    middle, low, high = choice.table[0]["logloss_difference"]
    assert 0 < low < middle < high
    assert "logloss_difference" not in choice.table[1]


def test_the_simplest_may_be_the_best() -> None:
    choice = chosen(tried("tree", 1.2), tried("din", 0.8))
    assert choice.sentence == "auto serves boosted trees: the lowest LogLoss, and none that is fast enough is simpler"


def test_the_simplest_is_chosen_among_those_that_nothing_tells_apart() -> None:
    choice = chosen(tried("tree", 1.0, seed=1), tried("dcnv2", 1.01, seed=2), tried("din", 1.005, seed=3))
    assert choice.architecture == "tree"
    assert "is not shown to be better" in choice.sentence


def test_auc_alone_keeps_a_simpler_model_out() -> None:
    """Calibrated alike, but shown to be worse in AUC."""
    better = tried("din", 1.2)
    constant = Tried("tree", np.full(3000, LABEL.mean()), quality(LABEL, np.full(3000, LABEL.mean()), USER), 1.0, 1.0)
    assert chosen(constant, better).architecture == "din"


def test_what_is_too_slow_is_not_chosen() -> None:
    slow = tried("lifelong", 1.5, milliseconds=3.4)
    assert chosen(tried("tree", 0.8), tried("din", 1.2), slow).architecture == "din"
    assert chosen(tried("tree", 0.8), tried("din", 1.2), slow, ceiling_ms=4.0).architecture == "lifelong"
    assert chosen(tried("tree", 0.8), tried("din", 1.2, milliseconds=3.2)).architecture == "din"  # within the doubt


def test_what_is_too_slow_is_not_trained(few: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its time is told all the same."""
    times = iter([9.0, 2.0])
    monkeypatch.setattr(choosing, "export_artifact", lambda *_: (b"", 0.0))
    monkeypatch.setattr(choosing, "scoring_milliseconds", lambda *_: next(times))
    config = auto(tmp_path, candidates=("dcnv2", "din"), ceiling_ms=3.0)
    choice = choose(config, few.catalogue, few.log, few.knowledge)
    assert choice.architecture == "din"
    assert choice.table[0] == {"architecture": "dcnv2", "milliseconds": 9.0}
    assert choice_lines(choice, 3.0)[2] == "| DCNv2 |  |  |  |  | 9.00 | not trained: too slow |"


def test_the_fastest_is_chosen_if_all_are_too_slow() -> None:
    choice = chosen(tried("tree", 0.8, milliseconds=9.0), tried("din", 1.2, milliseconds=8.0))
    assert choice.architecture == "din"
    assert choice.sentence.endswith("no candidate scores 500 items in 3 ms, this one is the fastest")


@pytest.mark.parametrize(("tree_ms", "trained"), [(2.0, ["tree"]), (20.0, ["tree", "din"])])
def test_the_fastest_network_is_tried_if_nothing_is_fast_enough(
    few: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree_ms: float, trained: list[str]
) -> None:
    times = iter([9.0, 8.0, tree_ms])
    monkeypatch.setattr(choosing, "export_artifact", lambda *_: (b"", 0.0))
    monkeypatch.setattr(choosing, "scoring_milliseconds", lambda *_: next(times))
    config = auto(tmp_path, candidates=("tree", "dcnv2", "din"), ceiling_ms=3.0)
    choice = choose(config, few.catalogue, few.log, few.knowledge)
    assert [row["architecture"] for row in choice.table] == ["tree", "dcnv2", "din"]
    assert [row["architecture"] for row in choice.table if "seconds" in row] == trained
    assert choice.architecture == trained[-1]


def test_a_time_is_told_in_runs_of_the_yardstick() -> None:
    """However fast this machine is: a ratio of two processor times that are taken in turns."""
    yardstick = cost._yardstick()
    alone = cost.ratio_to_yardstick(yardstick)
    assert cost.ratio_to_yardstick(lambda: [yardstick() for _ in range(4)]) > 2 * alone


def auto(workdir: Path, **choice: object) -> JobConfig:
    """A configuration that leaves the choice to its samples."""
    config = job_config(
        workdir,
        lifelong={"tokens": 200, "process_epochs": 1, "folds": 2, "factors": 4},
        tree={"trees": 20, "leaves": 4, "least_samples": 2},
        choice={"epochs": 1, "window": 5, "ceiling_ms": 1000.0, **choice},
    )
    training = config.training.model_copy(update={"served": "auto"})
    schema = SCHEMA.model_copy(update={"running": RunningSpec(half_lives_days=(1.0, 30.0))})
    return config.model_copy(update={"training": training, "feature_schema": schema})


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("few"), users=30, items=15, events=14)


def test_every_candidate_is_tried_on_bounded_samples_and_the_choice_is_told(
    few: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "export_artifact", lambda *_: (b"", 0.0))  # takes most of the time
    monkeypatch.setattr(choosing, "scoring_milliseconds", lambda *_: 1.0)
    config = auto(tmp_path, least_samples=150)
    choice = choose(config, few.catalogue, few.log, few.knowledge)
    assert [row["architecture"] for row in choice.table] == ["tree", "dcnv2", "din", "lifelong"]
    assert 150 <= choice.samples < 150 + 14 < len(split_samples(config.samples, few.log).rows["train"])
    assert choice.settings == settings_of(config)
    for row in choice.table:
        assert row["milliseconds"] > 0
        assert row["seconds"] < choice.seconds
    lines = choice_lines(choice, 1000.0)
    assert len(lines) == 2 + 4 + 2
    assert lines[-1] == f"{choice.sentence}."


def test_large_sets_are_tried_on_a_share_and_small_ones_wholly() -> None:
    settings = ChoiceConfig()
    assert [settings.samples_of(count) for count in (10, 100_000, 300_000, 4_000_000)] == [
        10, 100_000, 100_000, 1_000_000,
    ]  # fmt: skip


def test_a_candidate_that_cannot_be_exported_is_left_out(
    few: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise TrainingError("the exported model differs")

    config = auto(tmp_path, candidates=("dcnv2", "din"))
    monkeypatch.setattr(choosing, "export_artifact", refused)
    with pytest.raises(TrainingError, match="no candidate of training"):
        choose(config, few.catalogue, few.log, few.knowledge)
    assert "DCNv2 is no candidate: the exported model differs" in capsys.readouterr().out


def test_the_chosen_one_is_trained_and_a_later_training_does_not_choose(
    few: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = auto(tmp_path, candidates=("tree",)), tmp_path / "models"
    with monkeypatch.context() as patch:
        patch.setattr(run, "export_artifact", lambda *_: (b"", 0.0))  # takes most of the time; the choice exports one
        report = train(config, few.catalogue, few.log, few.knowledge, folder)
    choice = former_choice(folder, config)
    assert choice is not None
    assert choice.architecture == report.architecture == "tree"
    assert choice.table[0]["milliseconds"] > 0
    assert [row["model"] for row in report.table] == ["boosted trees", "popularity (share of likes)"]

    def chosen_again(*_: object) -> Choice:
        raise AssertionError("chosen again")

    monkeypatch.setattr(run, "choose", chosen_again)
    other = replace(choice, architecture="din")
    again = train(config, few.catalogue, few.log, few.knowledge, folder, other)
    assert (again.architecture, again.choice) == ("din", other.document())
    assert [row["model"] for row in again.table][:2] == ["DIN (target attention) + knowledge", "boosted trees"]
    trained = as_trained(config, "din")
    assert trained.feature_schema.history_length == 5  # the window
    encoder = encoders(trained, few.catalogue, few.log, few.knowledge, again.trained_rows)[specs(trained)[0].label]
    session = onnx_runtime().InferenceSession(folder / again.artifact, providers=["CPUExecutionProvider"])
    manifest = ArtifactManifest.from_metadata(session.get_modelmeta().custom_metadata_map)
    assert manifest.feature_schema == encoder.schema
    model, row = load_served(config, again, encoder, folder), split_samples(config.samples, few.log).rows["test"][:1]
    tensors = encoder.tensors(row)
    with torch.inference_mode():
        expected = torch.sigmoid(model(as_torch(tensors))).numpy()
    answer = session.run(["score"], {name: tensors[name] for name in manifest.inputs})[0]
    np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_a_choice_outlives_a_training_that_does_not_end(
    few: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = auto(tmp_path)
    choice = Choice("din", settings_of(config), 10, "auto serves DIN", 1.0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "choose", lambda *_: choice)
    monkeypatch.setattr(run, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, few.catalogue, few.log, few.knowledge, tmp_path)
    assert former_choice(tmp_path, config) == choice


def test_a_choice_under_other_settings_or_of_no_training_is_none(tmp_path: Path) -> None:
    config = auto(tmp_path)
    choice = Choice("din", settings_of(config), 10, "auto serves DIN", 1.0)
    assert Choice.of(choice.document(), config) == choice
    assert Choice.of(choice.document(), auto(tmp_path, candidates=("tree", "din"))) is None
    for other in ({"share": 1.0}, {"least_samples": 10}, {"epochs": 7}, {"window": 3}, {"ceiling_ms": 9.0}):
        assert Choice.of(choice.document(), auto(tmp_path, **other)) is None, other
    assert Choice.of({}, config) is None
    assert former_choice(tmp_path, config) is None
    save_choice(choice, tmp_path)
    assert former_choice(tmp_path, config) == choice
    for damaged in ("{", "{}", json.dumps(choice.document() | {"colour": "red"})):
        (tmp_path / "choice.json").write_text(damaged)
        assert former_choice(tmp_path, config) is None


def test_auto_is_no_architecture_before_a_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is settled by a training"):
        specs(auto(tmp_path))
    with pytest.raises(DataError, match="names no architecture"):  # of a report of an earlier version
        as_trained(auto(tmp_path), "")


def test_whole_histories_are_whole_for_ratings_alone(tmp_path: Path) -> None:
    config = auto(tmp_path)
    assert candidate_config(config, "lifelong").feature_schema.history_length == SCHEMA.history_length
    assert candidate_config(config, "din").feature_schema.history_length == 5
    data = config.data.model_copy(update={"labels": LabelsConfig(kind="implicit", negatives=2)})
    implicit = config.model_copy(update={"data": data})
    assert candidate_config(implicit, "lifelong").feature_schema.history_length == 5


def test_whole_histories_learn_from_drawn_negatives(few: Synthetic, tmp_path: Path) -> None:
    """Without a process, since nobody gave a value; window by window."""
    labels = LabelsConfig(kind="implicit", negatives=2)
    log = draw_negatives(labels, few.log, SCHEMA.liked_above)
    config = auto(tmp_path)
    splits = split_samples(config.samples, log)
    encoder = SampleEncoder(config.feature_schema.with_knowledge(()), few.catalogue, log, Knowledge({}), 300)
    training = config.training.model_copy(update={"epochs": 4})
    fitted = fit(ModelSpec("implicit", "lifelong"), training, encoder, splits, 1, progress=False)
    assert getattr(fitted.model.model, "process", 0) is None
    assert fitted.validation_logloss[-1] < fitted.validation_logloss[0]
    assert predict(fitted.model, encoder, splits.rows["test"]).std() > 0.01
