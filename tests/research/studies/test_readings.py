"""Readings of knowledge: what each row leaves out, and that all are judged on the validation samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.contract.arrays import IntArray
from models.contract.schema import FeatureSchema
from models.ctr.calibration import Calibrated
from offline.config import LifelongConfig
from offline.training.fit import predict
from offline.training.samples import SampleEncoder, split_samples
from research.studies.readings import compare_readings, readings, readings_table
from tests.synthetic import SCHEMA, Synthetic, synthetic


@pytest.fixture
def data(tmp_path: Path) -> Synthetic:
    plain = synthetic(tmp_path, users=40, events=20)
    own = LifelongConfig(factors=4, tokens=256, process_epochs=1, folds=1, attention=False)
    training = plain.config.training.model_copy(update={"served": "lifelong", "lifelong": own})
    schema = SCHEMA.model_copy(update={"history_length": 40})
    return replace(plain, config=plain.config.model_copy(update={"training": training, "feature_schema": schema}))


def test_each_reading_differs_from_the_first_in_one_thing(data: Synthetic) -> None:
    first, *others = readings(data.config, data.knowledge)
    assert first.schema.sequence is not None
    assert {row.name: (set(first.schema.knowledge) - set(row.schema.knowledge)) for row in others} == {
        "no knowledge": set(first.schema.knowledge),
        "no partitions": {first.schema.sequence},
        "partitions fused: learned": set(),
        "adaptor: experts": set(),
    }
    changed = {row.name: row.config.training for row in others if row.config != first.config}
    assert {name: (training.fusion, training.knowledge_adaptor) for name, training in changed.items()} == {
        "partitions fused: learned": ("learned", "linear"),
        "adaptor: experts": ("target", "experts"),
    }


def test_without_a_sequence_there_is_nothing_to_fuse(data: Synthetic) -> None:
    names = [row.name for row in readings(data.config, data.knowledge.of(("text", "marc")))]
    assert names == ["all", "no knowledge", "adaptor: experts"]


def test_a_table_trains_once_and_never_scores_the_test_part(data: Synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = set(split_samples(data.config.samples, data.log).rows["validation"].tolist())
    trained: list[FeatureSchema] = []

    def noted(model: Calibrated, encoder: SampleEncoder, rows: IntArray) -> object:
        assert set(rows.tolist()) == validation
        trained.append(encoder.schema)
        return predict(model, encoder, rows)

    monkeypatch.setattr("research.studies.readings.predict", noted)
    chosen = readings(data.config, data.knowledge)[::2]
    assert [row.name for row in chosen] == ["all", "no partitions", "adaptor: experts"]

    def table() -> str:
        folder = data.config.workdir / "readings"
        return readings_table(compare_readings(chosen, data.catalogue, data.log, data.knowledge, folder, 1))

    first = table()
    assert trained == [row.schema for row in chosen]
    monkeypatch.setattr("research.trials.fit", None)  # whoever trains again fails
    assert table() == first
    assert [line.split(" | ")[0] for line in first.splitlines()[2:]] == [f"| {row.name}" for row in chosen]
