"""LIBER's vectors: one per closed partition, in a frozen space that knows the training period only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.events import Interaction
from models.contract.schema import KnowledgeSpec
from offline.config import JobConfig
from offline.data.log import InteractionLog
from offline.knowledge.errors import NotFittedError
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.liber.produce import produce
from offline.knowledge.vectors import UserVectors
from tests.offline.knowledge.fakes import EchoModel, inputs
from tests.synthetic import Synthetic, synthetic

DIM = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    small = synthetic(tmp_path_factory.mktemp("synthetic"), users=12, items=20, events=17)
    spec = KnowledgeSpec(name="liber", side="user", rows=2, dim=DIM)
    schema = small.config.feature_schema.model_copy(update={"knowledge": (spec,)})
    return replace(small, config=small.config.model_copy(update={"feature_schema": schema}))


def configured(data: Synthetic, **liber: Any) -> JobConfig:
    knowledge = data.config.knowledge
    changed = knowledge.model_copy(update={"liber": knowledge.liber.model_copy(update=liber)})
    return data.config.model_copy(update={"knowledge": changed})


def knowledge(
    data: Synthetic,
    folder: Path,
    *,
    log: InteractionLog | None = None,
    trained_rows: int = 120,
    model: EchoModel | None = None,
    config: JobConfig | None = None,
) -> UserVectors:
    config, log = config or data.config, log or data.log
    read = inputs(config, data.catalogue, log, folder, trained_rows=trained_rows, model=model)
    users = produce(read).users
    assert users is not None
    return users


def test_every_closed_partition_is_a_version(data: Synthetic, tmp_path: Path) -> None:
    users = knowledge(data, tmp_path)
    partitions = close_partitions(data.log, data.config.knowledge.liber.trigger)
    assert users.vectors.shape == (36, DIM)
    np.testing.assert_array_equal(users.start, partitions.start)
    np.testing.assert_array_equal(users.since, partitions.closed_at)
    assert len(users.of_user(4)) == 2
    shift = users.vectors[:, DIM // 2 :]
    assert (~shift.any(axis=1)).tolist() == partitions.first_of_user().tolist()
    assert users.vectors[:, : DIM // 2].any(axis=1).all()


def test_without_shifts_the_summary_has_all_dimensions(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel()
    users = knowledge(data, tmp_path, model=model, config=configured(data, shift=False))
    assert "interest shifts" not in model.asked
    assert np.abs(users.vectors).min(axis=0).all()


def test_old_versions_stay_when_the_log_grows(data: Synthetic, tmp_path: Path) -> None:
    first = knowledge(data, tmp_path)
    entries = [Interaction(user_id="u1", item_id=f"i{at}", value=5, time_ms=at) for at in range(10)]
    grown, _ = data.log.extended(entries, "1")
    second = knowledge(data, tmp_path, log=grown, trained_rows=len(grown))
    assert second.space == first.space
    assert len(second.vectors) == len(first.vectors) + 2
    old = np.delete(np.arange(38), [6, 7])  # u1's fourth and fifth
    np.testing.assert_array_equal(second.vectors[old], first.vectors)


def test_only_the_training_period_shapes_the_space(data: Synthetic, tmp_path: Path) -> None:
    partitions = close_partitions(data.log, data.config.knowledge.liber.trigger)
    trained = int(np.sort(partitions.closed_at)[24])
    changed = replace(data.log, value=np.where(np.arange(len(data.log)) < trained, data.log.value, 1.0))
    first, second = (
        knowledge(data, tmp_path / "a", trained_rows=trained),
        knowledge(data, tmp_path / "b", log=changed, trained_rows=trained),
    )
    assert first.space == second.space
    old = first.since < trained
    np.testing.assert_array_equal(first.vectors[old], second.vectors[old])
    assert (first.vectors[~old] != second.vectors[~old]).any()
    # With all texts allowed to shape it, the two spaces differ: what is asserted above is not vacuous.
    three = knowledge(data, tmp_path / "c", trained_rows=len(data.log))
    four = knowledge(data, tmp_path / "d", log=changed, trained_rows=len(data.log))
    assert three.space.fingerprint != four.space.fingerprint


@pytest.mark.parametrize(
    ("liber", "model_id"),
    [({"summary_tokens": 65}, "echo"), ({"shift_tokens": 65}, "echo"), ({"dtype": "int8"}, "echo"),
     ({"partition_size": 4}, "echo"), ({"titles": 1}, "echo"), ({}, "another model")],
)  # fmt: skip
def test_whatever_shapes_vectors_makes_another_space(
    data: Synthetic, tmp_path: Path, liber: dict[str, object], model_id: str
) -> None:
    before = knowledge(data, tmp_path)
    after = knowledge(data, tmp_path, config=configured(data, **liber), model=EchoModel(name=model_id))
    assert after.space.fingerprint != before.space.fingerprint


def test_a_space_is_not_fitted_on_what_happens_to_be_there(data: Synthetic, tmp_path: Path) -> None:
    model = EchoModel(absent=lambda prompt: len(prompt.messages[-1][1]) % 2 == 0)
    with pytest.raises(NotFittedError, match="still missing"):
        knowledge(data, tmp_path, model=model)
    assert not list(tmp_path.iterdir())


def test_a_fitted_space_takes_what_is_there(data: Synthetic, tmp_path: Path) -> None:
    whole = knowledge(data, tmp_path)
    missing = inputs(data.config, data.catalogue, data.log, tmp_path, trained_rows=120).texts.summary_prompts[1]
    part = knowledge(data, tmp_path, model=EchoModel(absent=lambda prompt: prompt == missing))
    assert part.space == whole.space
    assert part.start[:3].tolist() == [0, 2, 5]
    np.testing.assert_array_equal(part.vectors[0], whole.vectors[0])
    assert not part.vectors[1, DIM // 2 :].any()  # the shift from the missing one is missing too
    np.testing.assert_array_equal(part.vectors[2:], whole.vectors[3:])


def test_people_can_read_what_the_newest_version_says(data: Synthetic, tmp_path: Path) -> None:
    texts = produce(inputs(data.config, data.catalogue, data.log, tmp_path, trained_rows=120)).texts
    assert set(texts) == set(data.log.user_ids)
    assert texts["u0"].startswith("Likes ")
    assert "; less " in texts["u0"]
