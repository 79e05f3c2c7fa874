"""MARC as a producer: texts in, compressed vectors of both sides out, fitted on the training period only."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from models.contract.arrays import FloatArray
from models.contract.events import Interaction
from models.contract.schema import KnowledgeSpec
from offline.data.log import InteractionLog
from offline.engine.engines import BatchT, ResultT
from offline.knowledge.config import CompressionConfig
from offline.knowledge.errors import NotFittedError
from offline.knowledge.marc import states
from offline.knowledge.marc.produce import produce
from offline.knowledge.vectors import Produced
from tests.offline.engine.in_process import InProcess
from tests.offline.knowledge.fakes import EchoModel, inputs, vector_of
from tests.synthetic import Synthetic, synthetic

DIM = 8


class _TwoWorkers:
    """An engine under the name of one that has workers; remembers the batches that it was given."""

    workers = 2

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def map_batches(
        self, make: Callable[[], Callable[[BatchT], ResultT]], batches: Sequence[BatchT]
    ) -> Iterator[tuple[int, ResultT]]:
        self.batches += batches
        return InProcess().map_batches(pickle.loads(pickle.dumps(make)), batches)


class _Reader:
    """Stands in for the language model; remembers what it read."""

    id = "fake"
    former_ids: tuple[str, ...] = ()
    read_texts: tuple[str, ...] = ()

    opened: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, *arguments: Any, precision: str) -> None:
        _Reader.opened.append((*arguments, precision))

    def read(self, texts: Sequence[str], depths: Sequence[float]) -> dict[float, FloatArray]:
        _Reader.read_texts += tuple(texts)
        return {depth: np.array([vector_of(text) for text in texts], np.float32) for depth in depths}

    def read_chunks(
        self, chunks: Sequence[Sequence[str]], depths: Sequence[float]
    ) -> Iterator[tuple[int, dict[float, FloatArray]]]:
        for position, texts in enumerate(chunks):
            yield position, self.read(texts, depths)


@pytest.fixture(autouse=True)
def _no_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "LanguageModelStates", _Reader)
    monkeypatch.setattr(_Reader, "read_texts", ())
    monkeypatch.setattr(_Reader, "opened", [])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    few = synthetic(tmp_path_factory.mktemp("synthetic"), users=40, items=20, events=30)
    specs = (KnowledgeSpec(name="marc", side="user", dim=DIM), KnowledgeSpec(name="marc", side="item", dim=DIM))
    schema = few.config.feature_schema.model_copy(update={"knowledge": specs})
    small = CompressionConfig(hidden=16, matching_width=8, epochs=1, batch_size=256)
    marc = few.config.knowledge.marc.model_copy(update={"compression": small})
    knowledge = few.config.knowledge.model_copy(update={"marc": marc})
    return replace(few, config=few.config.model_copy(update={"feature_schema": schema, "knowledge": knowledge}))


def knowledge_of(
    data: Synthetic, folder: Path, *, log: InteractionLog | None = None, model: EchoModel | None = None
) -> Produced:
    return produce(inputs(data.config, data.catalogue, log or data.log, folder, trained_rows=900, model=model))


def test_both_sides_get_small_vectors(data: Synthetic, tmp_path: Path) -> None:
    produced = knowledge_of(data, tmp_path)
    assert produced.users is not None
    assert produced.items is not None
    assert produced.users.vectors.shape == (40 * 6, DIM)
    assert produced.items.published.shape == (20, DIM)
    assert [space.dtype for space in produced.spaces] == ["int8", "int8"]
    assert {space.key for space in produced.spaces} == {"user/marc", "item/marc"}


def test_what_was_read_and_fitted_stays(data: Synthetic, tmp_path: Path) -> None:
    first = knowledge_of(data, tmp_path)
    read = len(_Reader.read_texts)
    entries = [Interaction(user_id="u1", item_id=f"i{at}", value=5, time_ms=at) for at in range(5)]
    grown, _ = data.log.extended(entries, "1")
    second = knowledge_of(data, tmp_path, log=grown)
    assert len(_Reader.read_texts) == read + 1
    assert second.spaces == first.spaces
    assert first.users is not None
    assert second.users is not None
    old = np.delete(np.arange(len(second.users.vectors)), int(second.users.start[2]) - 1)
    np.testing.assert_array_equal(second.users.vectors[old], first.users.vectors)


def test_the_future_shapes_no_compression(data: Synthetic, tmp_path: Path) -> None:
    late = np.arange(len(data.log)) >= 900
    changed = replace(data.log, value=np.where(late, 1.0, data.log.value).astype(np.float32))
    assert knowledge_of(data, tmp_path / "a").spaces == knowledge_of(data, tmp_path / "b", log=changed).spaces
    early = replace(data.log, value=np.where(late, data.log.value, 6.0 - data.log.value).astype(np.float32))
    assert knowledge_of(data, tmp_path / "c", log=early).spaces != knowledge_of(data, tmp_path / "a").spaces


def test_the_states_are_read_where_the_engine_runs(data: Synthetic, tmp_path: Path) -> None:
    alone, engine = knowledge_of(data, tmp_path / "alone"), _TwoWorkers()
    model, config = tmp_path / "a model", data.config.knowledge.marc.model_copy(update={"model": Path("a model")})
    given = inputs(data.config, data.catalogue, data.log, tmp_path / "engine", trained_rows=900)
    given = replace(given, engine=engine, config=given.config.model_copy(update={"marc": config}))
    with contextlib.chdir(tmp_path):
        by_workers = produce(given)
    assert sorted(text for texts, _ in engine.batches for text in texts) == sorted(set(_Reader.read_texts))
    assert _Reader.opened[-1] == ((tmp_path / "engine" / "checkpoints").absolute(), model, config.max_tokens, "auto")
    assert by_workers.spaces == alone.spaces
    assert by_workers.users is not None
    assert alone.users is not None
    np.testing.assert_array_equal(by_workers.users.vectors, alone.users.vectors)


def test_it_waits_for_the_texts_of_the_training_period(data: Synthetic, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="still missing"):
        knowledge_of(data, tmp_path, model=EchoModel(absent=lambda prompt: "Film 3" in prompt.messages[0][1]))
