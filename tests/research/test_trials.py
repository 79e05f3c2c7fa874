"""Trials: kept by all that shapes a model, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema
from offline.data.catalogue import DataError
from offline.data.files import read_arrays
from offline.knowledge.vectors import Knowledge, Produced
from offline.training.candidates import ModelSpec
from offline.training.fit import Fitted, fit, predict
from offline.training.samples import SampleEncoder
from research import trials
from research.trials import Trial, TrialRunner, TrialSpec
from tests.research.quick import trained_quickly
from tests.synthetic import SCHEMA, Synthetic, synthetic

MARC = SCHEMA.with_knowledge(("marc",))


@pytest.fixture
def data(tmp_path: Path) -> Synthetic:
    return synthetic(tmp_path, users=40, events=25)


def trial(data: Synthetic, schema: FeatureSchema = MARC, seed: int = 1, label: str = "MARC") -> Trial:
    runner = TrialRunner(data.config, data.catalogue, data.log, data.config.workdir / "trials")
    (result,) = runner.trials([TrialSpec(schema, data.knowledge, label, seed)])
    return result


def trains(data: Synthetic, monkeypatch: pytest.MonkeyPatch, schema: FeatureSchema = MARC, seed: int = 1) -> bool:
    """Whether the trial has to be trained."""
    trainings = trained_quickly(monkeypatch)
    trial(data, schema, seed)
    return bool(trainings.fitted)


def with_marc(data: Synthetic, produced: Produced) -> Synthetic:
    return replace(data, knowledge=Knowledge({**data.knowledge.produced, "marc": produced}))


def marc_of(data: Synthetic) -> Produced:
    return data.knowledge.produced["marc"]


def with_a_vector_of_a_user(data: Synthetic) -> Synthetic:
    users = data.knowledge.users["marc"]
    vectors = users.vectors.copy()
    vectors[2, 0] += 1.0
    return with_marc(data, replace(marc_of(data), users=replace(users, vectors=vectors)))


def with_a_vector_of_an_item(data: Synthetic) -> Synthetic:
    items = data.knowledge.items["marc"]
    vectors = items.vectors.copy()
    vectors[0, 3] += 1.0
    return with_marc(data, replace(marc_of(data), items=replace(items, vectors=vectors)))


def with_later_versions(data: Synthetic) -> Synthetic:
    users = data.knowledge.users["marc"]
    return with_marc(data, replace(marc_of(data), users=replace(users, since=users.since + 1)))


def with_later_slices(data: Synthetic) -> Synthetic:
    items = data.knowledge.items["marc"]
    later = items.from_row + (items.from_row > 0)
    assert later.any()
    return with_marc(data, replace(marc_of(data), items=replace(items, from_row=later)))


def with_another_space(data: Synthetic) -> Synthetic:
    items = data.knowledge.items["marc"]
    space = Space.model_validate({**items.space.model_dump(), "components": {"made": "otherwise"}})
    return with_marc(data, replace(marc_of(data), items=replace(items, space=space)))


def with_another_value(data: Synthetic) -> Synthetic:
    value = data.log.value.copy()
    value[7] = 5.0 if value[7] != 5.0 else 4.0
    return replace(data, log=replace(data.log, value=value))


def with_another_item_in_the_log(data: Synthetic) -> Synthetic:
    item = data.log.item.copy()
    item[7] = (item[7] + 1) % len(data.log.item_ids)
    return replace(data, log=replace(data.log, item=item))


def with_another_description(data: Synthetic) -> Synthetic:
    age = 60 if data.catalogue.users["u3"]["age"] < 45 else 20
    users = {**data.catalogue.users, "u3": {**data.catalogue.users["u3"], "age": age}}
    return replace(data, catalogue=replace(data.catalogue, users=users))


def trained_otherwise(data: Synthetic, **training: object) -> Synthetic:
    changed = data.config.training.model_copy(update=training)
    return replace(data, config=data.config.model_copy(update={"training": changed}))


@pytest.mark.parametrize(
    "changed",
    [
        with_a_vector_of_a_user, with_a_vector_of_an_item, with_later_versions, with_later_slices, with_another_space,
        with_another_value, with_another_item_in_the_log, with_another_description,
        lambda data: trained_otherwise(data, learning_rate=0.5),
        lambda data: trained_otherwise(data, fusion="learned"),
    ],
)  # fmt: skip
def test_what_shapes_a_model_trains_it_again(
    data: Synthetic, monkeypatch: pytest.MonkeyPatch, changed: Callable[[Synthetic], Synthetic]
) -> None:
    assert trains(data, monkeypatch)
    assert not trains(data, monkeypatch)
    assert trains(changed(data), monkeypatch)
    assert not trains(data, monkeypatch)  # and the first one is still there


def test_each_seed_and_each_choice_of_knowledge_is_a_trial(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trains(data, monkeypatch)
    assert trains(data, monkeypatch, seed=2)
    assert trains(data, monkeypatch, SCHEMA)
    assert trains(data, monkeypatch, SCHEMA.with_knowledge(()))


def test_what_a_model_does_not_read_trains_nothing(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SCHEMA.with_knowledge(("text",))
    assert trains(data, monkeypatch, text)
    assert not trains(with_a_vector_of_an_item(data), monkeypatch, text)
    assert not trains(trained_otherwise(data, compare=True, seeds=(1, 2, 3), retrain_growth=0.5), monkeypatch, text)
    later = replace(data.log, time_ms=data.log.time_ms + 1000)
    assert not trains(replace(data, log=later), monkeypatch, text)


def test_a_trial_that_was_interrupted_leaves_nothing(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_quickly(monkeypatch).stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        trial(data)
    assert trains(data, monkeypatch)


def test_knowledge_that_does_not_fill_the_schema_is_a_clear_error(data: Synthetic) -> None:
    with pytest.raises(DataError, match="item/marc"):
        trial(with_marc(data, replace(marc_of(data), items=None)))


def test_a_real_trial(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial is what training and predicting by hand give, bit for bit, when made and when read again."""
    config = trained_otherwise(data, epochs=2).config
    data = replace(data, config=config)
    trained = trial(data, seed=3)
    monkeypatch.setattr(trials, "fit", None)
    again = trial(data, seed=3)
    runner = TrialRunner(config, data.catalogue, data.log, data.config.workdir)
    encoder = SampleEncoder(MARC, data.catalogue, data.log, data.knowledge, runner.splits.trained_rows)
    with trials.one_thread():
        by_hand: Fitted = fit(ModelSpec("m", "din"), config.training, encoder, runner.splits, 3)
        expected = predict(by_hand.model, encoder, runner.splits.rows["test"])
    for result in (trained, again):
        np.testing.assert_array_equal(result.test, expected)
        assert result.epochs == by_hand.validation_auc
        assert result.validation_auc == by_hand.auc
    (path,) = (data.config.workdir / "trials").iterdir()
    assert set(read_arrays(path)) == {"test", "epochs", "epoch"}


@pytest.mark.slow(small="tests/research/test_trials.py::test_a_real_trial")
def test_several_processes_give_the_same_trials(data: Synthetic) -> None:
    data = trained_otherwise(data, epochs=1)
    specs = [TrialSpec(schema, data.knowledge, "MARC", seed) for schema in (SCHEMA, MARC) for seed in (1, 2)]
    files = {}
    for workers in (1, 2):
        folder = data.config.workdir / f"workers{workers}"
        results = TrialRunner(data.config, data.catalogue, data.log, folder).trials(specs, workers)
        files[workers] = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert len({result.test.tobytes() for result in results}) == 4
    assert files[1] == files[2]
    assert len(files[1]) == 4


def test_an_error_in_a_process_is_told(data: Synthetic) -> None:
    without_items = with_marc(data, replace(marc_of(data), items=None)).knowledge
    runner = TrialRunner(data.config, data.catalogue, data.log, data.config.workdir / "trials")
    with pytest.raises(DataError, match="item/marc"):
        runner.trials([TrialSpec(MARC, without_items, "MARC", seed) for seed in (1, 2)], 2)
