"""AutoGraph as a producer: vectors and codes of both sides, fitted once, assigned afterwards, blind to the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from models.contract.schema import KnowledgeSpec
from offline.data.log import InteractionLog
from offline.knowledge.autograph.produce import produce
from offline.knowledge.config import AutoGraphConfig, FittingConfig, NetworkConfig, QuantiserConfig
from offline.knowledge.errors import NotFittedError
from offline.knowledge.vectors import Produced
from tests.offline.knowledge.fakes import EchoModel, inputs
from tests.synthetic import Synthetic, synthetic

DIM, TRAINED = 8, 900


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    few = synthetic(tmp_path_factory.mktemp("synthetic"), users=40, items=20, events=30)
    specs = (
        KnowledgeSpec(name="autograph", side="user", dim=DIM),
        KnowledgeSpec(name="autograph", side="item", dim=DIM),
    )
    schema = few.config.feature_schema.model_copy(update={"knowledge": specs})
    codes = QuantiserConfig(size=4, hidden=8, dim=4, steps=5, batch=32)
    small = AutoGraphConfig(
        user_factors=codes,
        item_factors=codes,
        network=NetworkConfig(hidden=8, heads=2, dim=DIM, slices=3),
        fitting=FittingConfig(epochs=1, refit=False),
    )
    knowledge = few.config.knowledge.model_copy(update={"autograph": small})
    return replace(few, config=few.config.model_copy(update={"feature_schema": schema, "knowledge": knowledge}))


def knowledge(
    data: Synthetic, folder: Path, *, log: InteractionLog | None = None, model: EchoModel | None = None
) -> Produced:
    return produce(inputs(data.config, data.catalogue, log or data.log, folder, trained_rows=TRAINED, model=model))


def test_both_sides_get_vectors_and_codes(data: Synthetic, tmp_path: Path) -> None:
    produced = knowledge(data, tmp_path)
    assert produced.users is not None
    assert produced.items is not None
    assert produced.users.codes is not None
    assert produced.items.codes is not None
    assert produced.users.vectors.shape == (40 * 6, DIM)
    assert produced.items.vectors.shape == (4, 20, DIM)
    assert produced.items.from_row.tolist() == [0, 300, 600, TRAINED]
    assert produced.users.codes.shape == (240, 3)
    assert produced.items.codes.shape == (20, 3)


def test_a_second_run_assigns_with_the_frozen_parts(data: Synthetic, tmp_path: Path) -> None:
    first = knowledge(data, tmp_path)
    entries = [Interaction(user_id="u1", item_id=f"i{at}", value=5, time_ms=at) for at in range(5)]
    grown, _ = data.log.extended(entries, "1")
    second = knowledge(data, tmp_path, log=grown)
    assert second.spaces == first.spaces
    assert first.users is not None
    assert second.users is not None
    assert first.items is not None
    assert second.items is not None
    old = np.delete(np.arange(len(second.users.vectors)), int(second.users.start[2]) - 1)
    np.testing.assert_array_equal(second.users.vectors[old], first.users.vectors)
    np.testing.assert_array_equal(second.items.vectors, first.items.vectors)


def test_the_future_changes_neither_the_space_nor_older_vectors(data: Synthetic, tmp_path: Path) -> None:
    late = np.arange(len(data.log)) >= TRAINED
    changed = replace(data.log, value=np.where(late, 1.0, data.log.value).astype(np.float32))
    produced, other = knowledge(data, tmp_path / "a"), knowledge(data, tmp_path / "b", log=changed)
    assert produced.spaces == other.spaces
    assert produced.users is not None
    assert other.users is not None
    assert produced.items is not None
    assert other.items is not None
    before = produced.users.since < TRAINED
    np.testing.assert_array_equal(produced.users.vectors[before], other.users.vectors[before])
    np.testing.assert_array_equal(produced.items.vectors, other.items.vectors)
    assert (produced.users.vectors[~before] != other.users.vectors[~before]).any()


def test_it_waits_for_the_texts_of_the_training_period(data: Synthetic, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="still missing"):
        knowledge(data, tmp_path, model=EchoModel(absent=lambda prompt: "Film 3" in prompt.messages[0][1]))
